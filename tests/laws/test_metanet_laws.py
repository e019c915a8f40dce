"""Laws of every registered metanet: unchanged by the symmetries that it honours, changed by others, saved and loaded as it is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.metanets.architectures import ARCHITECTURES, Architecture, architecture
from weightspace.errors import MetanetError
from weightspace.metanets import MetaNet, WeightBatch, WeightSet, build, load_metanet, metanets, save_metanet

TOLERANCE = 1e-5


def built(name: str, *kinds: Architecture) -> MetaNet:
    """A small one in float64, every parameter drawn at random; skips what the family says that it does not read."""
    torch.manual_seed(0)
    try:
        net = build(name, [kind.spec for kind in kinds])
    except MetanetError as error:
        pytest.skip(str(error))
    net = net.double().eval()
    for parameter in net.parameters():  # what starts as zero or one would hide a wrong layer
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim < 2 else (2 / max(1, parameter[0].numel())) ** 0.5)
    return net


def moved(kind: Architecture, batch: WeightBatch, symmetries: frozenset[str], seed: int) -> WeightBatch:
    """The networks after one element of their symmetry group, drawn from those symmetries alone."""
    allowed = {name: {"symmetry": group.symmetry if group.symmetry in symmetries else "none"} for name, group in kind.spec.groups.items()}
    spec = kind.spec.with_groups(**allowed)
    if "permutation" not in symmetries:
        spec = spec.with_groups(**{name: {"kind": "fixed"} for name in spec.groups})
    element = spec.random(torch.Generator().manual_seed(seed))
    states = [{name: tensor[at] for name, tensor in batch.tensors.items()} for at in range(len(batch))]
    return WeightBatch.stack([ws.act(element, state) for state in states], kind.spec, module=kind.module, dtype=torch.float64)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / (1e-12 + expected.norm()))


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", metanets)
def test_the_symmetries_it_honours_leave_its_vectors_unchanged(name: str, kind: str) -> None:
    one = architecture(kind)
    net, batch = built(name, one), one.batch(3)
    with torch.no_grad():
        expected = net(batch)
        assert expected.shape == (3, net.dim) and expected.isfinite().all()
        for seed in range(3):
            assert difference(net(moved(one, batch, metanets[name].honours, seed)), expected) < TOLERANCE


def uncoupled(batch: WeightBatch) -> WeightBatch:
    """The networks with one hidden dimension of one tensor reversed, and no other tensor with it: other functions altogether."""
    layout = batch.layout
    slot = max((slot for slot in layout.slots if len(slot.tips) > 1), key=lambda slot: sum(not layout.has_identity(g) for g in slot.groups))
    hidden = next(j for j in slot.tips if not layout.has_identity(slot.groups[j]))
    values = batch.slots[slot.key].flip(hidden + 1)
    return replace(batch, tensors=layout.fold({**batch.slots, slot.key: values}))


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", [name for name, family in metanets.items() if family.reads != "names"])
def test_an_uncoupled_permutation_changes_its_vectors_unless_weights_are_bags_to_it(name: str, kind: str) -> None:
    one = architecture(kind)
    net, batch = built(name, one), one.batch(2)
    with torch.no_grad():
        found = difference(net(uncoupled(batch)), net(batch))
    assert found > 1e-6 if metanets[name].couples else found < TOLERANCE


@pytest.mark.parametrize("name", metanets)
def test_gradients_are_finite(name: str) -> None:
    for kind in ARCHITECTURES:
        try:
            net = build(name, architecture(kind).spec)
        except MetanetError:
            continue
        net = net.double().train()
        net(architecture(kind).batch(4)).square().mean().backward()
        found = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        assert found and all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("name", metanets)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    for kind in ARCHITECTURES:
        try:
            net = build(name, architecture(kind).spec).eval()
        except MetanetError:
            continue
        batch = architecture(kind).batch(3, dtype=torch.float32)
        net.fit_inputs(WeightSet.grouped([batch]))
        again = load_metanet(save_metanet(net, tmp_path / f"{kind}.safetensors"))
        with torch.no_grad():
            assert torch.equal(net(batch), again(batch)) and again.recipe == net.recipe
        return
    pytest.fail(f"no architecture that '{name}' reads")


@pytest.mark.parametrize("name", [name for name, family in metanets.items() if family.any_architecture])
def test_a_set_of_mixed_architectures_equals_one_by_one(name: str) -> None:
    kinds = [architecture(kind) for kind in ("mlp", "wide mlp", "tanh mlp")]
    net = built(name, kinds[0])
    states = [state for kind in kinds for state in kind.networks(2)]
    specs = [kind.spec for kind in kinds for _ in range(2)]
    modules = [kind.module for kind in kinds for _ in range(2)]
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0)).tolist()
    mixed = WeightSet.of([states[k] for k in order], [specs[k] for k in order], modules=[modules[k] for k in order], dtype=torch.float64)
    with torch.no_grad():
        alone = torch.cat([net(WeightBatch.stack([states[k]], specs[k], module=modules[k], dtype=torch.float64)) for k in order])
        assert difference(net(mixed), alone) < TOLERANCE
