"""Laws of fine-tuning."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.analysis.stitching.reassembly.zoos import empty, generator, mlp, task
from weightspace.analysis.stitching import Patchwork, Piece, Route
from weightspace.analysis.stitching.reassembly import Assembly, Block, assemble, fine_tune
from weightspace.errors import AnalysisError
from weightspace.task import Task

PLAN = Assembly((Block("a", -1, 0), Block("b", 0, None)))


@pytest.fixture
def patchwork() -> Patchwork:
    return assemble(PLAN, {"a": mlp(5, 7, seed=1), "b": mlp(9, 6, seed=2)}, task())


def _loss(patchwork: Patchwork, judged: Task) -> float:
    return replace(judged, module=patchwork).evaluate(patchwork.state_dict())["loss"]


def test_it_learns_and_leaves_what_it_was_given(patchwork: Patchwork) -> None:
    before = copy.deepcopy(patchwork.state_dict())
    told: list[tuple[int, int]] = []
    made = fine_tune(patchwork, task(), steps=60, learning_rate=1e-2, progress=lambda done, total: told.append((done, total)))
    assert _loss(made, task()) < 0.8 * _loss(patchwork, task())
    assert all(torch.equal(tensor, before[name]) for name, tensor in patchwork.state_dict().items())
    assert told[0] == (1, 60) and told[-1] == (60, 60)
    assert all(one.requires_grad for one in made.parameters())


def test_equal_chance_gives_equal_networks(patchwork: Patchwork) -> None:
    one, other, third = (fine_tune(patchwork, task(), steps=5, generator=generator(seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, third[name]) for name, tensor in one.items())


def test_stitches_alone_leave_the_pieces_as_they_are(patchwork: Patchwork) -> None:
    made = fine_tune(patchwork, task(), steps=20, learning_rate=1e-2, stitches_only=True)
    before = patchwork.state_dict()
    changed = {name.partition(".")[0] for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"stitches"} and all(one.requires_grad for one in made.parameters())


def test_validation_keeps_the_best_and_never_something_worse(patchwork: Patchwork) -> None:
    judged = task(seed=7)
    wild = fine_tune(patchwork, task(), steps=12, learning_rate=10.0, validation=judged, every=3)
    assert _loss(wild, judged) <= _loss(patchwork, judged)
    good = fine_tune(patchwork, task(), steps=60, learning_rate=1e-2, validation=judged, every=10)
    assert _loss(good, judged) < _loss(patchwork, judged)


def test_patience_ends_training(patchwork: Patchwork) -> None:
    told: list[int] = []
    settings = {"steps": 50, "learning_rate": 10.0, "validation": task(seed=7), "every": 2}
    fine_tune(patchwork, task(), patience=3, progress=lambda done, _: told.append(done), **settings)  # type: ignore[arg-type]
    assert told[-1] < 50


def test_no_steps_are_a_copy(patchwork: Patchwork) -> None:
    made = fine_tune(patchwork, task(), steps=0)
    assert made is not patchwork and all(torch.equal(tensor, patchwork.state_dict()[name]) for name, tensor in made.state_dict().items())


def test_what_cannot_be_trained_is_refused(patchwork: Patchwork) -> None:
    with pytest.raises(AnalysisError, match="expected data to train on, found no batches"):
        fine_tune(patchwork, empty(), steps=1)
    alone = Patchwork([mlp(4)], [], [Route((Piece(0),))])
    with pytest.raises(AnalysisError, match="expected parameters to train, found none in this route"):
        fine_tune(alone, task(), steps=1, stitches_only=True)
    broken = Task(nn.Identity(), list(task().batches), lambda outputs, batch: outputs.sum() * math.inf)
    with pytest.raises(AnalysisError, match=r"the loss became (nan|inf|-inf) at step 1; lower the learning rate"):
        fine_tune(patchwork, broken, steps=1)
