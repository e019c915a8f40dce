"""Calibration finds the temperature that was put in, and never raises the loss."""

import math

import pytest
import torch
from torch import nn

from tests.analysis.connectivity.conftest import Pair
from weightspace.analysis.connectivity import barrier, calibrated_loss
from weightspace.errors import TaskError
from weightspace.task import Task


def test_a_planted_temperature_is_found(generator: torch.Generator) -> None:
    logits = 2 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    classes = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    losses = []
    for factor in (0.2, 1.0, 5.0):
        loss, temperature = calibrated_loss(Task.classification(nn.Identity(), factor * logits, classes, batch_size=700), {})
        assert temperature == pytest.approx(factor, rel=0.05)
        losses.append(loss)
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5), "what is left does not depend on the confidence put in"


def test_calibrated_losses_are_never_above_raw_ones(perceptrons: Pair) -> None:
    found = barrier(perceptrons.a, perceptrons.b, perceptrons.task, 7, calibrate=True)
    assert all(low <= raw for low, raw in zip(found.values["calibrated_loss"], found.losses, strict=True))
    assert min(found.values["calibrated_loss"]) < min(found.losses)


def test_already_calibrated_logits_keep_their_loss(generator: torch.Generator) -> None:
    task = Task.classification(nn.Identity(), torch.zeros(6, 2), torch.tensor([0, 1] * 3))
    loss, temperature = calibrated_loss(task, {})
    assert loss == pytest.approx(math.log(2)) and temperature == 1.0


def test_outputs_that_are_no_logits(perceptrons: Pair) -> None:
    task = Task(perceptrons.task.module, perceptrons.task.batches, lambda *_: torch.tensor(0.0), forward=lambda *_: "no logits")
    with pytest.raises(TaskError, match="expected logits, found outputs of type str"):
        calibrated_loss(task, perceptrons.a)


def test_a_loss_that_needs_more_than_logits(perceptrons: Pair) -> None:
    task = Task(perceptrons.task.module, perceptrons.task.batches, lambda outputs, _: outputs.own_loss)
    with pytest.raises(TaskError, match=r"the loss failed on a tensor of logits \(AttributeError: .*\); calibration needs a loss of"):
        calibrated_loss(task, perceptrons.a)
