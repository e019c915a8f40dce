"""Blending: ends are met exactly, integers are kept, ties are summed once, and sums are wide."""

import pytest
import torch

from weightspace.analysis.connectivity.paths import blend, line, quadratic
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import ShapeMismatchError, UnknownNameError


def test_paths_meet_their_ends_exactly() -> None:
    a, b, c = ({"w": torch.randn(3, 2), "n": torch.tensor(at)} for at in range(3))
    for path in (line(a, b), quadratic(a, c, b)):
        assert torch.equal(path(0.0)["w"], a["w"]) and torch.equal(path(1.0)["w"], b["w"])
        assert path(1.0)["n"].item() == 0, "integers are those of a"
    assert torch.allclose(quadratic(a, c, b)(0.5)["w"], a["w"] / 4 + c["w"] / 2 + b["w"] / 4)
    assert torch.allclose(line(a, b)(0.25)["w"], 0.75 * a["w"] + 0.25 * b["w"])


def test_half_precision_is_summed_in_float32() -> None:
    # In float16 itself, each of the 64 terms would be rounded away against the 2048 it is added to.
    parts = [{"w": torch.tensor([2048.0]).half()}, *({"w": torch.ones(1).half()} for _ in range(64))]
    made = blend([1.0] * 65, parts)["w"]
    assert made.dtype == torch.float16 and made.item() == 2112


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz])
def test_eight_bits_are_summed_in_float32(dtype: torch.dtype) -> None:
    a, b = torch.tensor([1.0, -8.0, 16.0]), torch.tensor([2.0, 4.0, 0.0])
    made = blend((0.25, 0.75), ({"w": a.to(dtype)}, {"w": b.to(dtype)}))["w"]
    assert made.dtype == dtype and made.float().tolist() == (0.25 * a + 0.75 * b).tolist()


def test_tied_tensors_are_summed_once_and_stay_tied() -> None:
    one, two = torch.randn(2, 2), torch.randn(2, 2)
    made = blend((0.5, 0.5), ({"x": one, "y": one, "z": one.clone()}, {"x": two, "y": two, "z": two}))
    assert made["x"] is made["y"] and made["z"] is not made["x"]
    apart = blend((0.5, 0.5), ({"x": one, "y": one}, {"x": two, "y": two + 1}))
    assert not torch.equal(apart["x"], apart["y"]), "tied in one only: not tied in the blend"


def test_views_of_one_storage_are_not_taken_for_ties() -> None:
    whole = torch.arange(4.0)
    made = blend((0.5, 0.5), ({"head": whole[:2], "all": whole, "odd": whole[::2]}, {"head": whole[:2], "all": whole, "odd": whole[::2]}))
    assert made["head"].tolist() == [0, 1] and made["all"].tolist() == [0, 1, 2, 3] and made["odd"].tolist() == [0, 2]


def test_blends_are_differentiable() -> None:
    control = torch.ones(2, requires_grad=True)
    quadratic({"w": torch.zeros(2)}, {"w": control}, {"w": torch.zeros(2)})(0.25)["w"].sum().backward()  # type: ignore[no-untyped-call]
    assert control.grad is not None and control.grad.tolist() == [0.375, 0.375]


def test_checkpoints_are_read() -> None:
    assert state_of(Checkpoint.of({"w": torch.ones(2)}))["w"].tolist() == [1, 1]


def test_tensors_of_one_alone() -> None:
    with pytest.raises(UnknownNameError, match="the second state dict has no tensor 'v', which the other one has"):
        blend((0.5, 0.5), ({"v": torch.ones(1)}, {}))
    with pytest.raises(UnknownNameError, match="the first state dict has no tensor 'v', which the other one has"):
        blend((0.5, 0.5), ({}, {"v": torch.ones(1)}))


def test_other_shapes() -> None:
    with pytest.raises(ShapeMismatchError, match=r"tensor 'v' has shape \(1,\) in one state dict but \(2,\) in the other"):
        blend((0.5, 0.5), ({"v": torch.ones(1)}, {"v": torch.ones(2)}))
