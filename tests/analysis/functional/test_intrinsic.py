"""Intrinsic dimension by training in random subspaces."""

import inspect
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from tests.analysis.functional.networks import digits
from tests.pictures import expect_good
from weightspace.analysis.functional.intrinsic import IntrinsicDimension, _least, intrinsic_dimension, subspace
from weightspace.analysis.measure import measures
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_columns_have_length_one_and_hardly_overlap(kind: str, generator: torch.Generator) -> None:
    project = subspace(4000, 20, kind, generator=generator)
    columns = torch.stack([project(unit) for unit in torch.eye(20)], 1)
    torch.testing.assert_close(columns.norm(dim=0), torch.ones(20))
    overlaps = (columns.T @ columns).abs() - torch.eye(20)
    assert overlaps.max() < 0.15
    torch.testing.assert_close(project(torch.arange(20.0)), columns @ torch.arange(20.0))  # it is linear
    assert (columns != 0).sum(0).float().mean() == (4000 if kind == "dense" else 63)


def test_the_search_finds_the_least_that_is_enough() -> None:
    for true in (1, 2, 3, 7, 64, 100, 333):
        tried: list[int] = []

        def is_enough(dimension: int, true: int = true, tried: list[int] = tried) -> bool:
            tried.append(dimension)
            return dimension >= true

        found = _least(is_enough, 1, 500)
        assert found is not None and true <= found <= true * 1.15 + 1 and len(tried) < 16
    assert _least(lambda dimension: False, 2, 100) is None


def test_a_problem_of_few_directions_has_few_dimensions(generator: torch.Generator) -> None:
    """Linear regression onto a plane of targets needs as many random directions as the target has constraints."""
    inputs = torch.eye(40)[:5]
    task = Task(
        nn.Linear(40, 1, bias=False),
        [(inputs, torch.ones(5))],
        lambda outputs, batch: (outputs.flatten() - batch[1]).square().mean(),
        {"fit": lambda outputs, batch: float(1 - (outputs.flatten() - batch[1]).square().mean())},
    )
    network = {"weight": torch.ones(1, 40)}
    settings: dict[str, Any] = {"share": 0.95, "epochs": 80, "learning_rate": 0.5, "smallest": 1, "projection": "dense"}
    found = intrinsic_dimension(task, network, metric="fit", generator=generator, **settings)
    assert found.dimension in (5, 6) and found.reached[4] < found.threshold and found.baseline == 1 and found.parameters == 40


def test_nothing_is_left_to_reach_from_the_network_itself() -> None:
    found = digits()
    one = intrinsic_dimension(found.task, found.networks[0], start="given", smallest=1, largest=1, epochs=1, learning_rate=1e-4)
    assert one.dimension == 1


def test_too_few_dimensions_reach_nothing() -> None:
    found = digits()
    before = {name: tensor.clone() for name, tensor in found.networks[0].items()}
    one = intrinsic_dimension(found.task, found.networks[0], smallest=2, largest=4, epochs=2)
    assert one.dimension is None and one.values()["dimension"] is None
    assert max(one.reached.values()) < 0.5 < one.threshold
    assert isinstance(one.plot(), Figure)
    assert all(torch.equal(found.networks[0][name], before[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["dense", "sparse"])
def test_digits_need_about_two_hundred_dimensions(projection: str) -> None:
    found = digits(width=64)
    one = intrinsic_dimension(found.task, found.networks[0], train=found.train, projection=projection, epochs=15)
    assert one.dimension is not None and 60 <= one.dimension <= 500 < one.parameters / 10
    assert one.reached[one.dimension] >= 0.9 * one.baseline
    assert isinstance(one.plot(), Figure)


def test_the_function_and_the_measure_have_the_same_defaults() -> None:
    ours, settings = inspect.signature(intrinsic_dimension).parameters, measures["intrinsic_dimension"].settings
    assert {name: ours[name].default for name in settings} == settings
    assert inspect.signature(subspace).parameters["kind"].default == settings["projection"]


def test_messages() -> None:
    found = digits()
    with pytest.raises(UnknownNameError, match=r"no metric named 'f1' \(known: loss, accuracy\)"):
        intrinsic_dimension(found.task, found.networks[0], metric="f1")
    with pytest.raises(UnknownNameError, match="no projection named 'fastfood'"):
        intrinsic_dimension(found.task, found.networks[0], projection="fastfood")
    with pytest.raises(AnalysisError, match=r"expected 1 <= smallest <= largest, a share in \(0, 1\] and epochs, found 9, 4, 0.9 and 20"):
        intrinsic_dimension(found.task, found.networks[0], smallest=9, largest=4)


@pytest.mark.parametrize("reached", [{}, {1: float("nan")}, {1: 0.1, 4: 0.5, 4096: 0.95}])
def test_any_search_has_a_picture_that_names_its_lines(reached: dict[int, float]) -> None:
    figure = IntrinsicDimension(None, 100, 0.9, 1.0, reached, "accuracy").plot()
    expect_good(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the network itself", "threshold"]
