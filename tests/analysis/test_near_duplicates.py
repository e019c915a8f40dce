"""What differences between models take, and that the right neighbours are compared without reading weights."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor

from weightspace.analysis.near_duplicates import candidates, difference, near_duplicates, saved_bytes
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError


def drawn(seed: int, width: int = 48) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"fc1.weight": torch.randn(width, 32, generator=draw), "fc2.weight": torch.randn(16, width, generator=draw) * 0.1}


def moved(state: dict[str, Tensor], by: float, seed: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: tensor + by * tensor.std() * torch.randn(tensor.shape, generator=draw) for name, tensor in state.items()}


def statistics(models: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    return {
        name: {
            key: {"numel": tensor.numel(), "mean": tensor.double().mean().item(), "std": tensor.double().std(correction=0).item()}
            for key, tensor in state.items()
        }
        for name, state in models.items()
    }


def size(a: dict[str, Tensor], b: dict[str, Tensor]) -> int:
    return difference(Checkpoint.of(a), Checkpoint.of(b)).delta


def test_the_same_weights_take_nothing_and_casts_neither() -> None:
    state = drawn(0)
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    assert size(state, state) == size(state, half) == 0
    assert size(half, state) > 0
    found = difference(Checkpoint.of(state), Checkpoint.of(half))
    assert (found.stored, found.changed) == (sum(tensor.numel() * 2 for tensor in state.values()), 0.0)


def test_the_nearer_the_smaller() -> None:
    state = drawn(0)
    sizes = [size(state, moved(state, by)) for by in (1e-5, 1e-3, 1e-1)]
    strangers = difference(Checkpoint.of(state), Checkpoint.of(drawn(1)))
    assert sizes == sorted(sizes) and sizes[-1] < strangers.delta == strangers.alone
    assert strangers.share == 0


def test_the_difference_is_what_a_plain_compressor_makes_of_it() -> None:
    state = drawn(0)
    other = moved(state, 1e-3)
    bits = [np.bitwise_xor(state[name].numpy().view(np.uint8), other[name].numpy().view(np.uint8)) for name in state]
    planes = sum(len(zlib.compress(np.ascontiguousarray(one.reshape(-1, 4).T).tobytes(), 9)) for one in bits)
    assert size(state, other) == pytest.approx(planes, rel=0.1)


def test_what_the_base_lacks_is_stored_whole() -> None:
    state = drawn(0)
    longer = {**state, "head.weight": torch.randn(4, 16, generator=torch.Generator().manual_seed(1))}
    whole = difference(Checkpoint.of(longer), Checkpoint.of(longer)).alone - difference(Checkpoint.of(state), Checkpoint.of(state)).alone
    assert size(state, longer) == whole > 200
    with pytest.raises(AnalysisError, match="share no tensor of one name and shape"):
        difference(Checkpoint.of(state), Checkpoint.of(drawn(0, width=50)))


def test_bounds_never_exceed_distances() -> None:
    models = {"a": drawn(0), "b": moved(drawn(0), 0.3), "c": drawn(2)}
    for first, last in (("a", "b"), ("a", "c"), ("b", "c")):
        true = math.sqrt(sum(float((models[first][name] - models[last][name]).double().square().sum()) for name in models["a"]))
        norm = max(math.sqrt(sum(float(tensor.double().square().sum()) for tensor in models[one].values())) for one in (first, last))
        assert (first, last) in candidates(statistics(models), within=true / norm * 1.0001)


def test_only_models_of_one_architecture_are_compared_and_strangers_by_norm_are_not() -> None:
    models = {
        "a": drawn(0),
        "wide": drawn(0, width=60),
        "far": {name: 5 * tensor for name, tensor in drawn(3).items()},
        "b": moved(drawn(0), 0.01),
    }
    assert candidates(statistics(models)) == [("a", "b")]
    unknown = statistics(models)
    unknown["b"]["fc1.weight"]["mean"] = None
    assert candidates(unknown) == []


def test_each_model_is_stored_from_the_earlier_one_that_it_is_nearest_to() -> None:
    first, second = drawn(0), drawn(1)
    models = {"first": first, "second": second, "tuned": moved(first, 1e-3), "again": moved(second, 1e-4)}
    opened: list[str] = []

    def opener(name: str) -> Checkpoint:
        opened.append(name)
        return Checkpoint.of(models[name])

    found = near_duplicates(candidates(statistics(models)), opener)
    assert [(one.model, one.base) for one in found] == [("again", "second"), ("tuned", "first")]
    assert saved_bytes(found) == sum(one.row()["bytes"] - one.row()["delta_bytes"] for one in found) > 0


def test_strangers_are_no_near_duplicates() -> None:
    models = {"a": drawn(0), "b": drawn(1)}
    pairs = candidates(statistics(models))
    assert pairs == [("a", "b")]
    assert near_duplicates(pairs, lambda name: Checkpoint.of(models[name])) == []
