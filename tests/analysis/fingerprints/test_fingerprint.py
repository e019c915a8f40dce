"""Fingerprints: unchanged by every symmetry of any spec, near after fine-tuning, far between independent networks."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import weightspace as ws
from tests.analysis.functional.networks import Weights, digits
from tests.analysis.matching.networks import ARCHITECTURES, chain, draw
from weightspace.analysis.fingerprints import fingerprint, similarity
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, SymmetryError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

SPECS = {
    **ARCHITECTURES,
    "scaled chain": chain(symmetry="scale"),
    "rotated chain": chain(symmetry="orthogonal"),
    "mixed chain": chain(symmetry="linear"),
    "normed": SymmetrySpec.parse(
        {"conv": "c^0 3 3 3", "gain": "c", "shift": "c", "mean": "c^0", "var": "c^0", "head": "5 c'"},
        groups={"c": {"size": 7, "symmetry": "scale"}},
        statistics=["mean", "var"],
    ),
    "rotary": SymmetrySpec.parse(
        {"embed": "9 d", "q": "(h (p + p)) d'", "k": "(h (p' + p')) d'", "head": "9 d'"},
        groups={"d": {"size": 8}, "h": {"size": 2}, "p": {"size": 3, "per": "h", "symmetry": "rotation"}},
    ),
}


def wide(weights: Weights) -> Weights:
    return {name: tensor.double() for name, tensor in weights.items()}


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_no_symmetry_changes_a_fingerprint(name: str, seed: int) -> None:
    spec, generator = SPECS[name], torch.Generator().manual_seed(seed)
    x = wide(draw(spec, generator))
    torch.testing.assert_close(fingerprint(act(spec.random(generator), x), spec), fingerprint(x, spec), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", SPECS)
def test_what_is_no_symmetry_does_change_it(name: str, generator: torch.Generator) -> None:
    """Each tensor alone in another order of its first axis: the counter-law, for every row of the spec."""
    spec = SPECS[name]
    x = wide(draw(spec, generator))
    before = fingerprint(x, spec)
    for tensor in set(spec.tensors) - spec.statistics:
        moved = {**x, tensor: x[tensor].roll(1, 0)}
        assert similarity(before, fingerprint(moved, spec)) < 0.999, tensor


def test_statistics_and_the_order_of_tensors_do_not_count(generator: torch.Generator) -> None:
    spec = SPECS["normed"]
    x = wide(draw(spec, generator))
    assert torch.equal(fingerprint({**x, "var": x["var"] + 1}, spec), fingerprint(x, spec))
    turned = SymmetrySpec(spec.groups, dict(reversed(list(spec.tensors.items()))), statistics=spec.statistics)
    assert similarity(fingerprint(dict(reversed(x.items())), turned), fingerprint(x, spec)) == pytest.approx(1, abs=1e-9)


def test_neighbours_stay_neighbours(generator: torch.Generator) -> None:
    spec = chain()
    x = wide(draw(spec, generator))
    found = [
        similarity(
            fingerprint(x, spec), fingerprint({name: t + size * torch.randn(t.shape, generator=generator) for name, t in x.items()}, spec)
        )
        for size in (1e-6, 1e-3, 1e-2, 1.0)
    ]
    assert found[0] > 1 - 1e-9 and found[1] > 0.999 and found[2] > 0.97 and found[3] < 0.7
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("name", SPECS)
def test_networks_drawn_apart_are_apart(name: str) -> None:
    spec, generator = SPECS[name], torch.Generator().manual_seed(0)
    prints = [fingerprint(wide(draw(spec, generator)), spec, channels=64) for _ in range(4)]
    assert max(similarity(a, b) for a, b in itertools.combinations(prints, 2)) < 0.5


def tuned(weights: Weights, module: nn.Module, images: Tensor, classes: Tensor) -> Weights:
    """A hundred steps at a fifth of the learning rate."""
    module.load_state_dict(weights)
    optimizer, generator = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9), torch.Generator().manual_seed(1)
    for _ in range(100):
        batch = torch.randint(len(images), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images[batch]), classes[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def test_fine_tuned_networks_are_near_and_other_seeds_are_not() -> None:
    import copy

    found = digits(count=4)
    images, classes = (torch.cat(parts) for parts in zip(*found.train.batches, strict=True))
    base = [fingerprint(one) for one in found.networks]
    after = [fingerprint(tuned(one, copy.deepcopy(found.task.module), images, classes)) for one in found.networks]
    near = [similarity(a, b) for a, b in zip(base, after, strict=True)]
    apart = [similarity(a, b) for i, a in enumerate(base) for j, b in enumerate(after) if i != j]
    assert min(near) > 0.9 and max(apart) < 0.75  # one task, so that what they compute is alike
    starts = [fingerprint(one) for one in found.starts]
    assert max(abs(similarity(a, b)) for a, b in itertools.combinations(starts, 2)) < 0.4


def test_a_chain_is_inferred_with_scales_and_signs(generator: torch.Generator) -> None:
    network = wide(digits().networks[0])
    scales = torch.where(torch.rand(32, generator=generator) < 0.5, -1.0, 1.0).double() * torch.rand(32, generator=generator).double().exp()
    order = torch.randperm(32, generator=generator)
    moved = {
        **network,
        "fc1.weight": (network["fc1.weight"] * scales[:, None])[order],
        "fc1.bias": (network["fc1.bias"] * scales)[order],
        "fc2.weight": (network["fc2.weight"] / scales)[:, order],
    }
    torch.testing.assert_close(fingerprint(moved), fingerprint(network), atol=1e-9, rtol=0)
    assert similarity(fingerprint(Checkpoint.of(network)), fingerprint(network)) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "resnet", "t5"])
def test_families_that_are_known_by_their_names(family: str, generator: torch.Generator) -> None:
    from tests.families import TINY

    tiny = TINY[family]()
    state = {name: tensor.double() for name, tensor in tiny.module.state_dict().items() if tensor.is_floating_point()}
    spec = ws.spec_for(state, tiny.config)
    torch.testing.assert_close(fingerprint(act(spec.random(generator), state), spec), fingerprint(state, spec), atol=1e-7, rtol=0)


def test_all_files_of_a_real_orbit_have_one_fingerprint(real_checkpoints: Path) -> None:
    files = sorted((real_checkpoints / "inr_orbit").glob("*.pth"))[::16]
    prints = [fingerprint(ws.open(file)) for file in files]
    assert len(files) == 16 and max(float((one - prints[0]).abs().max()) for one in prints) < 1e-12


LSTM = {
    "embedding/embedding/embeddings:0": "465 e",
    "rnn_1/rnn_1/kernel:0": "e' (4 a)",
    "rnn_1/rnn_1/recurrent_kernel:0": "a' (4 a)",
    "rnn_1/rnn_1/bias:0": "(8 a)",
    "rnn_2/rnn_2/kernel:0": "a' (4 b)",
    "rnn_2/rnn_2/recurrent_kernel:0": "b' (4 b)",
    "rnn_2/rnn_2/bias:0": "(8 b)",
    "attention/attention/attention_W:0": "e' + a' + b' 1",
    "output/output/kernel:0": "e' + a' + b' 465",
    "output/output/bias:0": "465",
}


def test_real_fine_tunes_are_nearest_their_base(real_checkpoints: Path, generator: torch.Generator) -> None:
    spec = SymmetrySpec.parse(LSTM, sizes={"e": 100, "a": 128, "b": 128})
    folder = real_checkpoints / "textgenrnn"
    files = (ws.open(folder / f"{name}.hdf5").state_dict() for name in ("base", "hacker_news", "reddit_apple_android"))
    base, *others = ({name.replace("_3/", "/"): tensor.double() for name, tensor in file.items()} for file in files)
    moved = act(spec.random(generator), base)
    shuffled = {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape) for name, tensor in base.items()
    }
    one = fingerprint(base, spec)
    assert similarity(one, fingerprint(moved, spec)) == pytest.approx(1, abs=1e-9)
    control = abs(similarity(one, fingerprint(shuffled, spec)))
    for other in others:
        assert similarity(one, fingerprint(other, spec)) > max(0.3, control + 0.2)
    trio = [
        fingerprint(ws.open(real_checkpoints / "outlier-exposure" / f"{name}.pt"))
        for name in ("baseline_epoch_9", "oe_tune_epoch_4", "oe_scratch_epoch_9")
    ]
    # Not far above the run from the same initialisation: five epochs with another loss.
    assert similarity(trio[0], trio[1]) > similarity(trio[0], trio[2]) + 0.05


def test_real_seeds_are_apart(real_checkpoints: Path) -> None:
    prints = [fingerprint(ws.open(file)) for file in sorted((real_checkpoints / "drfrankenstein").glob("tiny10_*.pt"))[:5]]
    assert max(similarity(a, b) for a, b in itertools.combinations(prints, 2)) < 0.3


def test_messages(generator: torch.Generator) -> None:
    spec = chain()
    x = wide(draw(spec, generator))
    with pytest.raises(AnalysisError, match=r"tensor '0.weight' has values that are not finite"):
        fingerprint({**x, "0.weight": x["0.weight"] * torch.nan}, spec)
    with pytest.raises(AnalysisError, match="found 256 and 64 numbers; compare networks with tensors of the same names"):
        similarity(fingerprint(x, spec), fingerprint(x, spec, channels=8))
    with pytest.raises(SymmetryError, match="no family that comes with the package fits"):
        fingerprint({"blocks.0.a.weight": torch.ones(3, 4), "blocks.0.b.weight": torch.ones(5, 3)})
    with pytest.raises(AnalysisError, match="expected float tensors in the spec, found none"):
        fingerprint({"w": torch.ones(2, dtype=torch.long)}, SymmetrySpec.parse({"w": "2"}))


def test_nothing_at_all_has_a_fingerprint_of_zeros() -> None:
    zero = {name: torch.zeros(chain().shape(name)) for name in chain().tensors}
    found = fingerprint(zero, chain())
    assert not found.any() and similarity(found, found) != similarity(found, found)
