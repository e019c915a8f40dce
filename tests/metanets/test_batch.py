"""Networks stacked: those of one spec that share a module together, what holds integers in some and floats in others refused."""

import pytest
import torch
from torch import nn

from weightspace.errors import SymmetryError
from weightspace.metanets import WeightBatch, WeightSet
from weightspace.spec import SymmetrySpec

SPEC = SymmetrySpec.parse({"fc.weight": "h 2", "fc.count": "h"}, sizes={"h": 3})


def network(value: float, count: torch.dtype = torch.int64, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.full((3, 2), value, dtype=dtype), "fc.count": torch.full((3,), 7, dtype=count)}


def test_networks_of_one_spec_with_other_modules_are_apart() -> None:
    modules = [nn.ReLU(), nn.Tanh()]
    found = WeightSet.of([network(k) for k in range(4)], SPEC, modules=[modules[k % 2] for k in range(4)])
    assert [(len(batch), batch.module) for batch in found.batches] == [(2, modules[0]), (2, modules[1])]
    order = found.gather([batch.tensors["fc.weight"][:, 0, 0] for batch in found.batches])
    assert order.tolist() == [0, 1, 2, 3]
    with pytest.raises(SymmetryError, match="4 networks but 1 modules"):
        WeightSet.of([network(k) for k in range(4)], SPEC, modules=modules[:1])


def test_any_float_is_read_and_integers_are_left_out() -> None:
    batch = WeightBatch.stack([network(1.5, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)], SPEC)
    assert set(batch.tensors) == {"fc.weight"} and (batch.tensors["fc.weight"] == 1.5).all()


def test_integers_beside_floats_are_refused() -> None:
    with pytest.raises(SymmetryError, match=r"'fc.count' holds floats in some of the networks .* as network 1"):
        WeightBatch.stack([network(0), network(1, torch.float32)], SPEC)
    quantised = {name: tensor.to(torch.int8) for name, tensor in network(0).items()}
    with pytest.raises(SymmetryError, match="the networks hold integers alone"):
        WeightBatch.stack([quantised], SPEC)


def test_networks_with_values_that_are_not_finite_are_told() -> None:
    batch = WeightBatch.stack([network(0), network(float("nan")), network(float("inf")), network(1)], SPEC)
    assert batch.is_finite().tolist() == [True, False, False, True]
