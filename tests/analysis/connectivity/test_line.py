"""Barriers on the straight line: known ones, both references, every quantity, and the picture."""

import io
import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.analysis.connectivity.conftest import Pair, permuted
from weightspace.analysis.connectivity import barrier
from weightspace.analysis.connectivity.curve import barrier_of
from weightspace.analysis.connectivity.repair import prepare
from weightspace.checkpoint import Checkpoint
from weightspace.errors import TaskError, UnknownNameError


class TestKnownBarriers:
    def test_no_barrier_to_itself(self, perceptrons: Pair) -> None:
        found = barrier(perceptrons.a, perceptrons.a, perceptrons.task, 5)
        assert found.barrier == pytest.approx(0, abs=1e-7) and found.barrier_worse == pytest.approx(0, abs=1e-7)
        assert found.barriers["accuracy"].interpolated == 0

    def test_a_permuted_copy_has_a_barrier_until_it_is_permuted_back(self, perceptrons: Pair, generator: torch.Generator) -> None:
        orders = [torch.randperm(48, generator=generator) for _ in range(2)]
        moved = permuted(perceptrons.a, *orders)
        back = permuted(moved, *(order.argsort() for order in orders))
        assert barrier(perceptrons.a, moved, perceptrons.task, 5).barrier > 0.3
        assert barrier(perceptrons.a, back, perceptrons.task, 5).barrier == pytest.approx(0, abs=1e-7)

    def test_alignment_lowers_the_barrier_of_independent_networks(self, perceptrons: Pair) -> None:
        naive = barrier(perceptrons.a, perceptrons.b, perceptrons.task, 11)
        aligned = barrier(perceptrons.a, perceptrons.aligned, perceptrons.task, 11)
        assert aligned.barrier < 0.5 * naive.barrier
        assert aligned.losses[-1] == pytest.approx(naive.losses[-1], rel=1e-5), "the function of b is the same"

    def test_a_parabola(self) -> None:
        found = barrier({"w": torch.tensor(-1.0)}, {"w": torch.tensor(3.0)}, lambda state: 10 - state["w"].item() ** 2, 9)
        # Ends at 9 and 1: the parabola is 16 t (1 - t) above the line between them, and highest at w = 0.
        assert found.barrier == pytest.approx(4) and found.barriers["loss"].interpolated_at == 0.5
        assert found.barrier_worse == pytest.approx(1) and found.barriers["loss"].worse_at == 0.25

    def test_checkpoints_transformers_and_batch_norms_are_taken(self, transformers: Pair, with_batch_norm: Pair) -> None:
        for pair in (transformers, with_batch_norm):
            found = barrier(Checkpoint.of(pair.a), Checkpoint.of(pair.b), pair.task, 3)
            assert found.barrier > 0.1
            assert found.losses[0] == pytest.approx(pair.task.evaluate(pair.a)["loss"])


class TestReferences:
    def test_both_references_and_both_directions(self) -> None:
        ts, values = (0.0, 0.25, 0.5, 1.0), (0.9, 0.6, 0.7, 0.5)
        found = barrier_of("accuracy", ts, values, higher_is_better=True)
        assert found.interpolated == pytest.approx(0.2) and found.interpolated_at == 0.25
        assert (found.worse, found.worse_at) == (0, 1.0)
        found = barrier_of("error", ts, values, higher_is_better=False)
        assert found.interpolated == pytest.approx(0) and found.interpolated_at == 0.0

    def test_what_is_not_a_number_is_worst(self) -> None:
        found = barrier_of("loss", (0.0, 0.5, 1.0), (1.0, math.nan, 1.0), higher_is_better=False)
        assert math.isnan(found.interpolated) and found.interpolated_at == 0.5

    def test_which_way_is_worse_can_be_said(self) -> None:
        def evaluate(state: dict[str, torch.Tensor]) -> dict[str, float]:
            return {"loss": 0.0, "distance": 1 - state["w"].item() ** 2}

        ends = {"w": torch.tensor(-1.0)}, {"w": torch.tensor(1.0)}
        assert barrier(*ends, evaluate, 5).barriers["distance"].interpolated == 0
        assert barrier(*ends, evaluate, 5, lower_is_better={"loss", "distance"}).barriers["distance"].interpolated == 1


class TestResult:
    def test_table_and_representation(self, perceptrons: Pair) -> None:
        found = barrier(perceptrons.a, perceptrons.aligned, perceptrons.task, 3, calibrate=True)
        rows = found.table()
        assert [row["t"] for row in rows] == [0.0, 0.5, 1.0]
        assert list(rows[0]) == ["t", "loss", "accuracy", "calibrated_loss", "temperature"]
        assert set(found.barriers) == {"loss", "accuracy", "calibrated_loss"}
        assert rows[1]["loss"] == found.losses[1]
        assert repr(found).startswith("<Connectivity line of 3 points, repair None; barriers: loss 0.")

    def test_picture_marks_every_barrier(self, perceptrons: Pair) -> None:
        found = barrier(perceptrons.a, perceptrons.b, perceptrons.task, 5, calibrate=True)
        figure = found.plot()
        loss, accuracy = figure.axes
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
        assert {text.get_text() for text in loss.texts} == {f"{found.barrier:.3g}", f"{found.barriers['calibrated_loss'].interpolated:.3g}"}
        assert [text.get_text() for text in accuracy.texts] == [f"{found.barriers['accuracy'].interpolated:.3g}"]
        assert np.asarray(loss.lines[0].get_ydata()).tolist() == list(found.losses)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        assert drawn.getvalue().startswith(b"\x89PNG")

    def test_picture_without_a_barrier_marks_none(self, perceptrons: Pair) -> None:
        figure = barrier({"w": torch.tensor(0.0)}, {"w": torch.tensor(1.0)}, lambda state: state["w"].item(), 3).plot()
        assert not figure.axes[0].texts


class TestRefusals:
    ends = ({"w": torch.tensor(0.0)}, {"w": torch.tensor(1.0)})

    def test_fewer_than_two_points(self) -> None:
        with pytest.raises(TaskError, match="expected at least 2 points on the path, found 1; 25 is usual"):
            barrier(*self.ends, lambda _: 0.0, 1)

    def test_repair_and_calibration_need_a_task(self) -> None:
        for settings in ({"repair": "reset"}, {"calibrate": True}):
            with pytest.raises(TaskError, match="repair and calibration look into the module, and found a function alone; give a Task"):
                barrier(*self.ends, lambda _: 0.0, 3, **settings)

    @pytest.mark.parametrize(
        ("value", "found"),
        [({"loss": "low"}, "loss: str"), ({"accuracy": 0.5}, "only accuracy"), ({}, "only an empty mapping"), (None, "loss: NoneType")],
        ids=str,
    )
    def test_evaluations_that_give_no_loss(self, value: Any, found: str) -> None:
        with pytest.raises(TaskError, match=f"the evaluation returned {found}; expected a number, or numbers by name, 'loss' among them"):
            barrier(*self.ends, lambda _: value, 3)

    def test_another_kind_of_repair(self, perceptrons: Pair) -> None:
        with pytest.raises(TaskError, match="expected repair to be 'reset' or 'repair', found 'renew'"):
            prepare(perceptrons.task, (perceptrons.a, perceptrons.b), "renew")

    def test_networks_of_other_names(self) -> None:
        with pytest.raises(UnknownNameError, match="the second state dict has no tensor 'w'"):
            barrier(self.ends[0], {"v": torch.tensor(0.0)}, lambda _: 0.0)
