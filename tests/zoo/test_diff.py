"""Diff: each way in which a tensor can change has its word and its numbers."""

import numpy as np
import pytest
import torch

from weightspace.checkpoint import Checkpoint
from weightspace.zoo.diff import TensorDiff, diff


def compare(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, TensorDiff]:
    return {one.name: one for one in diff(Checkpoint.of(a), Checkpoint.of(b))}


def test_nothing_changed() -> None:
    weights = {"a": torch.randn(3, 2), "b": torch.randn(4)}
    assert {one.status for one in compare(weights, dict(weights)).values()} == {"same"}


def test_every_status_has_its_case() -> None:
    kept, renamed = torch.randn(3), torch.randn(4, 4)
    a = {
        "first": kept,
        "second": kept * 2,
        "old": renamed,
        "flat": torch.arange(6.0),
        "wide": torch.ones(2),
        "half": torch.randn(5),
        "gone": torch.ones(7),
    }
    b = {
        "second": kept * 2, "first": kept, "new": renamed, "flat": torch.arange(6.0).reshape(2, 3), "wide": torch.ones(3),
        "half": a["half"].bfloat16(), "fresh": torch.zeros(8),
    }  # fmt: skip
    found = compare(a, b)
    statuses = {name: one.status for name, one in found.items()}
    assert statuses == {
        "first": "moved", "second": "moved", "old": "renamed", "flat": "reshaped", "wide": "resized", "half": "cast", "gone": "removed", "fresh": "added",
    }  # fmt: skip
    assert found["old"].new_name == "new"


def test_a_changed_tensor_has_distance_cosine_and_rank() -> None:
    torch.manual_seed(0)
    base, left, right = torch.randn(40, 30), torch.randn(40, 3), torch.randn(3, 30)
    tuned = base + 0.01 * left @ right
    one = compare({"w": base}, {"w": tuned})["w"]
    delta = (tuned.double() - base.double()).numpy()
    assert one.status == "changed" and one.rank == 3
    assert one.relative_l2 == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(base.double().numpy()), rel=1e-9)
    assert one.cosine == pytest.approx(float(torch.cosine_similarity(base.double().flatten(), tuned.double().flatten(), dim=0)), rel=1e-9)
    assert one.max_abs == pytest.approx(np.abs(delta).max())


def test_the_rank_of_a_full_update_is_full_and_of_a_large_one_is_not_computed() -> None:
    torch.manual_seed(0)
    base = torch.randn(16, 8)
    assert compare({"w": base}, {"w": base + torch.randn(16, 8)})["w"].rank == 8
    large = torch.zeros(1025, 1024)
    assert compare({"w": large}, {"w": large + 1})["w"].rank is None


def test_zero_nan_and_complex_tensors_give_no_numbers_rather_than_wrong_ones() -> None:
    zero = compare({"w": torch.zeros(3)}, {"w": torch.ones(3)})["w"]
    assert zero.relative_l2 is None and zero.cosine is None and zero.max_abs == 1.0
    nan = compare({"w": torch.ones(3)}, {"w": torch.tensor([1.0, float("nan"), 1.0])})["w"]
    assert nan.status == "changed" and nan.relative_l2 is None and nan.cosine is None and nan.rank is None
    imaginary = compare({"w": torch.ones(3, dtype=torch.complex64)}, {"w": torch.zeros(3, dtype=torch.complex64)})["w"]
    assert imaginary.status == "changed" and imaginary.relative_l2 is None


def test_identical_tensors_are_renamed_one_to_one() -> None:
    shared = torch.ones(3)
    found = compare({"a": shared, "b": shared.clone()}, {"c": shared.clone(), "d": shared.clone()})
    assert {(one.name, one.new_name) for one in found.values()} == {("a", "c"), ("b", "d")}
