"""Tests of what a family is worth, of choosing from it, and of its picture."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.stitching.anchors import chain, data
from tests.pictures import expect_good
from weightspace.analysis.stitching import Chain, Patchwork
from weightspace.analysis.stitching.costs import Cost, costs
from weightspace.analysis.stitching.family import family
from weightspace.analysis.stitching.pareto import Report, line, pareto_front, rank_correlation, report
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task


@pytest.fixture
def made() -> Patchwork:
    chains = {"a": chain(3, 2), "b": chain(5, 2)}
    return family(chains, data(chains["a"]))


def constant(score: int) -> Chain:
    """Answers the same class always."""
    one = chain(2, 2)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
        dict(one.named_parameters())["parts.3.bias"][score] = 1.0
    return one


@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), min_size=1, max_size=6))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    found = set(pareto_front([cost for cost, _ in points], [score for _, score in points]))
    for at, (cost, score) in enumerate(points):
        beaten = any((c <= cost and s > score) or (c < cost and s >= score) for c, s in points)
        assert (at in found) != beaten
    assert found


def test_rank_correlation_is_of_ranks_and_undefined_where_all_are_the_same() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 10.0, 11.0]) == 1 and rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == -1
    assert math.isnan(rank_correlation([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])) and math.isnan(rank_correlation([1.0], [2.0]))


def test_a_score_that_is_no_number_is_never_chosen(made: Patchwork) -> None:
    assert pareto_front([1.0, 2.0], [math.nan, 0.1]) == [1]
    assert math.isnan(rank_correlation([1.0, 2.0, 3.0], [1.0, math.nan, 3.0]))
    found = report(made, data(made), repeats=0)
    broken = replace(found, rows=tuple(replace(row, score=math.nan) if at else row for at, row in enumerate(found.rows)))
    assert broken.best() == broken.rows[0]


def test_the_line_is_straight_between_anchors_and_level_beyond() -> None:
    assert [line(at, [(10.0, 0.5), (20.0, 0.7)]) for at in (5.0, 10.0, 15.0, 20.0, 99.0)] == pytest.approx([0.5, 0.5, 0.6, 0.7, 0.7])


def test_rows_say_what_the_task_says_of_each_route(made: Patchwork) -> None:
    task = data(made)
    found = report(made.use(4), task, repeats=1)
    assert made.route == 4 and found.metric == "accuracy" and len(found.rows) == len(made.routes)
    assert [row.flops for row in found.rows] == sorted(row.flops for row in found.rows)
    for row in found.rows:
        said = replace(task, module=made.use(row.route)).evaluate(made.state_dict())
        assert (row.loss, row.score) == pytest.approx((said["loss"], said["accuracy"]))
        assert (row.loss, row.score) == (row.loss_before, row.score_before) and row.latency > 0
    assert [row.name for row in found.anchors] == ["a", "b"]
    assert found.stitches[0].name.startswith("a:") and " > b:" in found.stitches[0].name


def test_a_row_is_set_beside_its_anchors() -> None:
    """Scores are made up: anchors .5 (10 FLOPs) and .7 (30), between which lies a line."""
    chains = {"a": chain(3, 1), "b": chain(5, 2)}
    made = family(chains, data(chains["a"]), window="every")
    stitch = len(made.routes) - 1
    flops = [10.0, 30.0, 20.0, 25.0]
    measured = [Cost(one, 1, 1.0, 1.0, 4) for one in flops[: len(made.routes)]]
    assert len(measured) == stitch + 1
    scores = iter([0.5, 0.7, 0.65, 0.72])
    task = replace(data(made, batch_size=96), metrics={"score": lambda outputs, batch: next(scores)})
    found = report(made, task, measured=measured)
    rows = {row.route: row for row in found.rows}
    assert [rows[at].on_front for at in range(4)] == [True, False, True, True]
    assert [rows[at].above_line for at in range(4)] == [False, False, True, True]
    assert [rows[at].beats_both for at in range(4)] == [False, False, False, True]
    # Training cost the larger anchor something: the stitch does not beat what it was before.
    scores = iter([0.5, 0.69, 0.65, 0.695])
    after = {row.route: row for row in report(made, task, before=found).rows}
    assert [after[at].beats_both for at in range(4)] == [False] * 4
    assert (after[1].score_before, after[1].score) == pytest.approx((0.7, 0.69))
    assert after[3].flops == 25.0 and after[3].latency == 1.0


def test_the_best_within_a_budget_is_found_and_used(made: Patchwork) -> None:
    found = report(made, data(made), repeats=1)
    limit = sorted(row.flops for row in found.rows)[3]
    row = found.best(max_flops=limit)
    assert row.flops <= limit and row.score == max(one.score for one in found.rows if one.flops <= limit)
    assert made.use(row.route).route == row.route
    assert found.best().score == max(one.score for one in found.rows)
    least = min(found.rows, key=lambda one: one.parameters)
    assert found.best(max_parameters=least.parameters).parameters == least.parameters
    assert found.best(max_latency=1e9, max_memory=1e9).score == found.best().score


def test_of_equals_the_cheapest_is_taken() -> None:
    made = family({"a": constant(0), "b": constant(0)}, data(chain(3, 2)))
    found = report(made, data(made), repeats=0)
    assert found.best().flops == found.rows[0].flops and math.isnan(found.spearman)


def test_a_budget_that_none_meets_is_said_with_the_least(made: Patchwork) -> None:
    found = report(made, data(made), repeats=0)
    with pytest.raises(AnalysisError, match=r"no route is within the budget of flops at most 1; the least is flops \d+"):
        found.best(max_flops=1)
    with pytest.raises(AnalysisError, match="no route is within the budget of latency at most 1"):
        found.best(max_latency=1)  # was not measured


def test_a_task_without_metrics_is_judged_by_its_loss(made: Patchwork) -> None:
    found = report(made, replace(data(made), metrics={}), repeats=0)
    assert found.metric == "-loss" and all(row.score == -row.loss for row in found.rows)


def test_bad_input_is_one_line(made: Patchwork) -> None:
    task = data(made)
    with pytest.raises(UnknownNameError, match="no metric named 'acuracy'; did you mean 'accuracy'"):
        report(made, task, metric="acuracy")
    with pytest.raises(AnalysisError, match="found no batches"):
        report(made, replace(task, batches=[]))
    with pytest.raises(AnalysisError, match="expected data to judge routes on, found no batches"):
        report(made, replace(task, batches=[]), measured=costs(made, task, repeats=0))
    with pytest.raises(AnalysisError, match=r"expected the costs of \d+ routes, found 1"):
        report(made, task, measured=costs(made, task, repeats=0)[:1])
    before = report(made, task, repeats=0)
    with pytest.raises(AnalysisError, match=r"expected a report of -loss on \d+ routes from before, found accuracy on \d+"):
        report(made, task, before=before, metric="-loss")


def test_tables_hold_all_routes_with_what_they_were_before(made: Patchwork) -> None:
    found = report(made, data(made), repeats=1)
    table = found.table()
    assert table.num_rows == len(made.routes) and {"flops", "score_before", "score", "latency", "beats_both"} <= set(table.column_names)
    lines = found.markdown().splitlines()
    assert len(lines) == 2 + len(made.routes) and "accuracy before" in lines[0] and "batch 32" in lines[0]
    assert sum("**a**" in one or "**b**" in one for one in lines) == 2


def test_a_latency_that_was_not_measured_is_a_dash(made: Patchwork) -> None:
    assert all(" - |" in one for one in report(made, data(made), repeats=0).markdown().splitlines()[2:])


def test_a_picture_shows_anchors_stitches_and_the_front(made: Patchwork) -> None:
    before = report(made, data(made), repeats=0)
    after = Report(before.metric, before.examples, tuple(replace(row, score=row.score / 2) for row in before.rows))
    plain, both = (one.plot() for one in (before, after))
    labels = [figure.axes[0].get_legend_handles_labels()[1] for figure in (plain, both)]
    assert "stitches before training" not in labels[0] and "stitches before training" in labels[1]
    assert {one.get_text() for one in both.axes[0].texts} == {"a", "b"}
    expect_good(both)
    assert both.legends[0].get_window_extent().x0 > both.axes[0].get_window_extent().x1  # covers no route


def test_a_route_switches_without_anything_copied(made: Patchwork) -> None:
    held = {id(one) for one in made.parameters()}
    for at in range(len(made.routes)):
        assert made.use(at) is made and {id(one) for one in made.parameters()} == held


def test_task_of_further_dimensions_is_judged(made: Patchwork) -> None:
    """Batches of unequal sizes count by their examples."""
    task = data(made)
    x, y = (torch.cat(parts) for parts in zip(*task.batches, strict=True))
    uneven = replace(task, batches=[(x[:10], y[:10]), (x[10:], y[10:])])
    assert isinstance(uneven, Task)
    for one, other in zip(report(made, task, repeats=0).rows, report(made, uneven, repeats=0).rows, strict=True):
        assert (one.loss, one.score) == pytest.approx((other.loss, other.score))
