"""Adapters: no matrix between the factors makes a difference, ranks may differ, and zero or repeated singular values are no trouble."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.laws.test_metanet_laws import difference
from weightspace.errors import MetanetError
from weightspace.metanets import MetaNet, WeightBatch, WeightSet, build
from weightspace.metanets.low_rank import adapter_spec

FAMILIES = ("lora_svd", "lora_products")
SIZES = {"layers.0.q": (9, 6), "layers.0.up": (12, 9)}


def adapter(rank: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for module, (rows, columns) in SIZES.items():
        made[f"{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator).double()
        made[f"{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator).double() * 0.1
    return made


def stacked(*adapters: Mapping[str, Tensor]) -> WeightBatch:
    return WeightBatch.stack(adapters, adapter_spec(adapters[0]), dtype=torch.float64)


def built(name: str, rank: int = 4) -> MetaNet:
    torch.manual_seed(0)
    net = build(name, adapter_spec(adapter(rank))).double().eval()
    net.fit_inputs(WeightSet.grouped([stacked(*(adapter(rank, seed) for seed in range(8)))]))
    return net


@pytest.mark.parametrize("rank", [1, 4, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_matrix_between_the_factors_leaves_the_vectors_unchanged(name: str, rank: int) -> None:
    net, spec = built(name), adapter_spec(adapter(rank))
    states = [adapter(rank, seed) for seed in range(3)]
    with torch.no_grad():
        expected = net(stacked(*states))
        assert difference(expected[:1], expected[1:2]) > 1e-3
        for seed in range(5):
            element = spec.random(torch.Generator().manual_seed(seed))
            assert difference(net(stacked(*(ws.act(element, state) for state in states))), expected) < 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_one_factor_alone_changed_changes_the_vectors(name: str) -> None:
    net, state = built(name), adapter(4)
    with torch.no_grad():
        expected = net(stacked(state))
        for module in SIZES:
            moved = {**state, f"{module}.lora_A.weight": state[f"{module}.lora_A.weight"].flip(0)}
            assert difference(net(stacked(moved)), expected) > 1e-4
            turned = {**state, f"{module}.lora_B.weight": state[f"{module}.lora_B.weight"].flip(0)}
            assert difference(net(stacked(turned)), expected) > 1e-4
            negated = {**state, f"{module}.lora_B.weight": -state[f"{module}.lora_B.weight"]}
            assert difference(net(stacked(negated)), expected) > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_ranks_may_differ_and_unused_ones_make_no_difference(name: str) -> None:
    net, state = built(name), adapter(2)
    padded = {
        key: torch.cat([one, torch.ones_like(one)], 0) if "lora_A" in key else torch.cat([one, torch.zeros_like(one)], 1)
        for key, one in state.items()
    }
    with torch.no_grad():
        expected = net(stacked(state))
        assert difference(net(stacked(padded)), expected) < 1e-9
        mixed = WeightSet.of([adapter(4, 1), state], [adapter_spec(adapter(4)), adapter_spec(state)], dtype=torch.float64)
        assert difference(net(mixed)[1:], expected) < 1e-9


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_finite_for_untrained_adapters_and_repeated_singular_values(name: str) -> None:
    zero = {key: one * 0 if "lora_B" in key else one for key, one in adapter(4).items()}
    repeated = {key: torch.eye(*one.shape, dtype=torch.float64) for key, one in adapter(4).items()}
    net = built(name).train()
    made = net(stacked(zero, repeated))
    made.square().sum().backward()
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert made.isfinite().all() and gradients and all(one.isfinite().all() for one in gradients)
    assert len(gradients) == len(list(net.parameters()))


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_of_another_base_and_broken_ones_are_refused(name: str) -> None:
    net = built(name)
    other = {key.replace("up", "down"): one for key, one in adapter(4).items()}
    with pytest.raises(MetanetError, match=f"'{name}' reads adapters of one base, found some that differ in 'layers.0.down'"):
        net(stacked(other))
    broken = adapter(4)
    broken["layers.0.q.lora_A.weight"][0, 0] = torch.nan
    with pytest.raises(MetanetError, match=r"the update of 'layers.0.q' holds values that are not finite"):
        net(stacked(broken))
