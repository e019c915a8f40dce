"""Task vectors: thresholds, elections and chance by hand, the corners where others lose a tensor, and the messages."""

from typing import Any

import pytest
import torch
from torch import Tensor

from weightspace.analysis.merging.method import methods
from weightspace.errors import MergeError

TRIMMING = ["ties", "breadcrumbs", "breadcrumbs_ties"]
CHANCY = ["dare_linear", "dare_ties", "della", "della_linear"]
FAMILY = ["task_arithmetic", *TRIMMING, *CHANCY]


def delta(name: str, *deltas: list[float] | Tensor, **parameters: Any) -> Tensor:
    """What a method makes of deltas from a base of zeros."""
    given = [torch.as_tensor(one, dtype=torch.float64) for one in deltas]
    return methods[name](given, torch.zeros_like(given[0]), **parameters)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_and_defaults_are_those_of_mergekit(name: str) -> None:
    declared = methods[name].parameters
    shared = {"density": 1.0, "lambda": 1.0, "int8_mask": False, "normalize": name in ("ties", "della"), "rescale": name in CHANCY}
    own = {"gamma": 0.01} if "breadcrumbs" in name else {"epsilon": 0.15} if "della" in name else {}
    beside = {"rescale_by": "norm"} if "dare" in name else {}
    assert declared["weight"].is_required
    assert {one.name: one.default for one in declared.values() if one.name != "weight"} == shared | own | beside


def test_ties_keeps_the_largest_and_all_that_equal_the_smallest_of_them() -> None:
    assert delta("ties", [1.0, -4.0, 2.0, -2.0, 0.5], weight=1.0, density=0.4).tolist() == [0, -4, 2, -2, 0]


def test_ties_sums_those_that_have_the_elected_sign() -> None:
    deltas = [[1.0, -2.0, 1.0, 0.0], [3.0, 1.0, -1.0, 0.0], [-2.0, -3.0, 0.0, 0.0]]
    assert delta("ties", *deltas, weight=1.0, normalize=False).tolist() == [4, -5, 1, 0]
    assert delta("ties", *deltas, weight=1.0).tolist() == [2, -2.5, 1, 0]
    assert delta("ties", *deltas, weight=[1.0, 3.0, 1.0]).tolist() == [2.5, -2.5, -1, 0]


def test_weights_that_cancel_are_not_divided_by() -> None:
    assert delta("ties", [1.0], [-1.0], weight=[0.5, -0.5]).tolist() == [1]
    assert delta("task_arithmetic", [1.0], [3.0], weight=[0.5, -0.5], normalize=True).tolist() == [-1]
    three = [0.1, 0.2, -0.3]  # float32 sums of these are not exactly zero
    cancelled = methods["ties"]([torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([-1.0])], torch.zeros(1), weight=three)
    assert cancelled.item() == pytest.approx(0.6)


@pytest.mark.parametrize("name", FAMILY)
def test_no_weights_leave_the_base(name: str) -> None:
    for normalize in (False, True):
        assert not delta(name, normal(4, 5), normal(4, 5) + 1, weight=0.0, density=0.5, normalize=normalize).any()


@pytest.mark.parametrize("name", FAMILY)
def test_density_1_keeps_all_and_density_0_nothing(name: str) -> None:
    value = normal(6, 7)
    assert torch.allclose(delta(name, value, weight=1.0, density=1.0), value)
    if name != "task_arithmetic":
        assert not delta(name, value, weight=1.0, density=0.0).any()


def test_breadcrumbs_drops_the_largest_and_the_smallest() -> None:
    values = [5.0, -1.0, 4.0, -3.0, 2.0, 0.1, 0.2, 0.3, 0.4, -9.0]
    assert delta("breadcrumbs", values, weight=1.0, density=0.3, gamma=0.2).tolist() == [0, 0, 4, -3, 2, 0, 0, 0, 0, 0]
    assert delta("breadcrumbs", values, weight=1.0, density=0.9, gamma=0.2).tolist() == [*values[:-1], 0]


@pytest.mark.parametrize("name", TRIMMING)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (99,)])
@pytest.mark.parametrize("density", [0.001, 0.3, 0.99])
def test_tiny_tensors_keep_something(name: str, shape: tuple[int, ...], density: float) -> None:
    assert delta(name, normal(*shape), weight=1.0, density=density).any()


@pytest.mark.parametrize("name", [*TRIMMING, *CHANCY])
def test_rescaling_keeps_the_sum_of_magnitudes(name: str) -> None:
    value = normal(40, 30)
    made = delta(name, value, weight=1.0, density=0.3, rescale=True)
    assert 0 < (made == 0).float().mean() < 1
    assert made.abs().sum().item() == pytest.approx(value.abs().sum().item())


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_rescales_by_density_if_asked(name: str) -> None:
    value = normal(40, 30)
    made = delta(name, value, weight=1.0, density=0.25, rescale_by="density")
    kept = made != 0
    assert torch.allclose(made[kept], 4 * value[kept])
    assert 0.15 < kept.float().mean() < 0.35


@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_della_keeps_as_often_as_the_rank_says(name: str) -> None:
    rows = normal(20_000, 5).abs().sort(dim=1).values + 1e-3
    often = (delta(name, rows, weight=1.0, density=0.5, epsilon=0.3) != 0).double().mean(0)
    assert torch.allclose(often, torch.tensor([0.2, 0.35, 0.5, 0.65, 0.8], dtype=torch.float64), atol=0.02)


def test_della_gives_equal_entries_the_mean_of_their_ranks() -> None:
    rows = torch.tensor([[1.0, 2.0, -2.0, 2.0, 3.0]]).repeat(20_000, 1)
    often = (delta("della", rows, weight=1.0, density=0.5, epsilon=0.4) != 0).double().mean(0)
    assert torch.allclose(often, torch.tensor([0.1, 0.5, 0.5, 0.5, 0.9], dtype=torch.float64), atol=0.02)


@pytest.mark.parametrize("shape", [(400, 1), (400, 1, 3, 3)])
def test_della_keeps_entries_alone_in_their_row_with_their_density(shape: tuple[int, ...]) -> None:
    often = (delta("della", normal(*shape), weight=1.0, density=0.6) != 0).double().mean()
    assert 0.5 < often < 0.7


def test_della_ranks_along_axis_1() -> None:
    filters = torch.arange(1.0, 5).reshape(1, 4, 1, 1).repeat(5000, 1, 2, 2)
    often = (delta("della", filters, weight=1.0, density=0.5, epsilon=0.3) != 0).double().mean((0, 2, 3))
    assert torch.allclose(often, torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64), atol=0.02)


def test_sce_selects_where_models_differ_and_weighs_by_energy() -> None:
    one, two = [2.0, 1.0, 3.0, 0.0], [2.0, 1.1, -1.0, 0.0]
    half = delta("sce", one, two, select_topk=0.5)
    assert half.tolist() == [0, 0, 3, 0]
    assert not delta("sce", one, two, select_topk=0.3).any()
    whole = delta("sce", one, two)
    squares = (4 + 1 + 9, 4 + 1.21 + 1)
    assert whole[1].item() == pytest.approx((1.0 * squares[0] + 1.1 * squares[1]) / sum(squares))


def test_sce_weighs_small_deltas_alike_unless_told() -> None:
    one, two = torch.full((10,), 1e-5), torch.full((10,), 3e-5)
    assert delta("sce", one, two).mean().item() == pytest.approx(2e-5)
    assert delta("sce", one, two, floor=0.0).mean().item() == pytest.approx((1 + 27) / 10 * 1e-5)


@pytest.mark.parametrize("name", ["della", "della_linear"])
@pytest.mark.parametrize("density", [0.1, 0.9])
def test_probabilities_must_lie_between_0_and_1(name: str, density: float) -> None:
    with pytest.raises(MergeError, match=rf"density {density} and epsilon 0\.15 make probabilities from .*; expected .* a smaller epsilon"):
        delta(name, normal(4, 4), weight=1.0, density=density)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_a_way_to_rescale_must_be_known(name: str) -> None:
    with pytest.raises(MergeError, match="'rescale_by' is 'mass'; expected 'norm' or 'density'"):
        delta(name, normal(4, 4), weight=1.0, rescale_by="mass")
