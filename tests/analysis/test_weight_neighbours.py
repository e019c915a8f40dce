"""Cosines of weights."""

import math

import pytest
import torch

from weightspace.analysis.weight_neighbours import weight_cosines
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError


def network(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 4, generator=draw), "b": torch.randn(5, generator=draw), "steps": torch.tensor([seed])}


def test_is_the_cosine_of_all_floats_end_to_end() -> None:
    states = {f"n{seed}": network(seed) for seed in range(3)}
    flat = {name: torch.cat([state["a"].reshape(-1), state["b"]]).double() for name, state in states.items()}
    found = weight_cosines(Checkpoint.of(states["n0"]), ((name, Checkpoint.of(state)) for name, state in states.items()))
    for name, vector in flat.items():
        assert found[name] == pytest.approx(float(torch.nn.functional.cosine_similarity(flat["n0"], vector, dim=0)), abs=1e-12)
    assert found["n0"] == 1.0


def test_a_tied_tensor_counts_once() -> None:
    shared = torch.tensor([1.0, 2.0])
    tied = Checkpoint.of({"a": shared, "b": shared})
    assert weight_cosines(tied, [("other", Checkpoint.of({"a": torch.tensor([2.0, -1.0])}))])["other"] == pytest.approx(0, abs=1e-15)


def test_zeros_and_nan_have_no_direction() -> None:
    others = [(str(value), Checkpoint.of({"w": torch.full((2,), value)})) for value in (0.0, math.nan, math.inf)]
    assert all(math.isnan(value) for value in weight_cosines(Checkpoint.of({"w": torch.ones(2)}), others).values())
    for _, broken in others:
        with pytest.raises(AnalysisError, match="all zeros, not finite, or none"):
            weight_cosines(broken, [])


def test_another_architecture_is_refused() -> None:
    with pytest.raises(AnalysisError, match="'wide' has other tensors"):
        weight_cosines(Checkpoint.of({"w": torch.ones(2)}), [("wide", Checkpoint.of({"w": torch.ones(3)}))])
