"""Tests of training all routes of a patchwork together."""

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.analysis.stitching.anchors import chain, data
from weightspace.analysis.stitching import Chain, Patchwork, Piece, Route
from weightspace.analysis.stitching.family import family
from weightspace.analysis.stitching.pareto import report
from weightspace.analysis.stitching.training import distillation, train
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task


@pytest.fixture
def made() -> Patchwork:
    chains = [chain(3, 2), chain(5, 2)]
    return family(chains, data(chains[0]))


def trained(made: Patchwork, steps: int = 12, seed: int = 0, **settings: Any) -> Patchwork:
    return train(made, data(made), steps=steps, generator=torch.Generator().manual_seed(seed), **{"learning_rate": 1e-2, **settings})[0]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_every_route_gets_better(made: Patchwork) -> None:
    before = report(made, data(made), repeats=0)
    after = report(trained(made, 200, distil="none"), data(made), before=before)
    assert all(row.loss < row.loss_before - 0.1 for row in after.rows)


def test_a_copy_is_trained_and_the_patchwork_stays(made: Patchwork) -> None:
    kept = copy.deepcopy(made)
    found = trained(made.use(2))
    assert same(made, kept) and not same(found, kept)
    assert found.route == made.route == 2
    assert all(one.requires_grad for one in found.parameters())


def test_the_same_chance_trains_the_same(made: Patchwork) -> None:
    assert same(trained(made, seed=1), trained(made, seed=1)) and not same(trained(made, seed=1), trained(made, seed=2))


def test_frozen_anchors_stay_and_only_stitches_learn(made: Patchwork) -> None:
    found, history = train(made, data(made), steps=30, anchor_rate=0.0, generator=torch.Generator().manual_seed(0))
    assert same(found.chains, made.chains) and not same(found.stitches, made.stitches)
    assert not any(made.routes[one.route].is_anchor for one in history)
    assert all(one.requires_grad for one in found.parameters())


def test_what_was_frozen_before_stays_frozen(made: Patchwork) -> None:
    made.chain(0).requires_grad_(False)
    found = trained(made)
    assert same(found.chain(0), made.chain(0)) and not same(found.chain(1), made.chain(1))
    assert not any(one.requires_grad for one in found.chain(0).parameters())


def test_what_a_step_does_not_run_through_stays(made: Patchwork) -> None:
    """Not even weight decay or momentum reaches it."""
    found, history = train(made, data(made), steps=1, learning_rate=1e-2, weight_decay=0.5, generator=torch.Generator().manual_seed(3))
    run = {id(one) for one in found.parameters_of(history[0].route)}
    for one, other in zip(found.parameters(), made.parameters(), strict=True):
        assert id(one) in run or torch.equal(one, other)
    assert 0 < len(run) < len(list(found.parameters()))


def test_routes_are_drawn_alike_or_anchors_as_often_as_asked(made: Patchwork) -> None:
    def shares(**settings: Any) -> float:
        _, history = train(
            made, data(made, examples=8, batch_size=8), steps=100, distil="none", generator=torch.Generator().manual_seed(0), **settings
        )
        drawn = Counter(made.routes[one.route].is_anchor for one in history)
        return drawn[True] / 100

    assert abs(shares() - 2 / len(made.routes)) < 0.15
    assert abs(shares(anchor_share=0.75) - 0.75) < 0.15
    assert shares(anchor_share=0.0) == 0 and shares(anchor_share=1.0) == 1


def test_anchors_alone_are_drawn_alike() -> None:
    apart = Patchwork([chain(3, 2), chain(5, 2)], [], [Route((Piece(at),)) for at in (0, 1)])
    _, history = train(apart, data(apart), steps=60, anchor_share=0.3, generator=torch.Generator().manual_seed(0))
    assert 15 < sum(one.route for one in history) < 45


def test_the_rate_falls_and_history_holds_every_step(made: Patchwork) -> None:
    told: list[tuple[int, int]] = []
    _, history = train(
        made, data(made), steps=5, generator=torch.Generator().manual_seed(0), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(at, 5) for at in range(1, 6)] and len(history) == 5
    assert all(one.loss > 0 and 0 <= one.route < len(made.routes) for one in history)


def test_distillation_is_cross_entropy_to_the_best_class_or_the_divergence_of_probabilities() -> None:
    logits, wanted = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.0, 1.0, 3.0]])
    assert torch.isclose(distillation(logits, wanted), nn.functional.cross_entropy(logits, torch.tensor([2])))
    ours, theirs = (logits / 2).softmax(-1), (wanted / 2).softmax(-1)
    assert torch.isclose(distillation(logits, wanted, 2.0), 4 * (theirs * (theirs / ours).log()).sum())
    assert torch.isclose(distillation(wanted, wanted, 3.0), torch.tensor(0.0), atol=1e-6)


def test_the_teacher_is_the_largest_anchor_as_it_was(made: Patchwork) -> None:
    """With distillation alone, labels say nothing: all routes come to answer as the larger network did."""
    task = data(made)
    blind = replace(task, batches=[(x, torch.zeros_like(y)) for x, y in task.batches])
    found, _ = train(made, blind, steps=250, learning_rate=1e-2, alpha=1.0, distil="soft", generator=torch.Generator().manual_seed(0))
    x = torch.cat([x for x, _ in task.batches])
    wanted = made.use(1)(x).argmax(-1)
    before, after = (
        torch.stack([(one.use(at)(x).argmax(-1) == wanted).float().mean() for at in range(len(made.routes))]) for one in (made, found)
    )
    assert float(after.mean()) > 0.9 and float(after.mean()) > float(before.mean())


def test_batch_norms_keep_their_statistics() -> None:
    blocks = [
        {"stem": nn.Linear(6, w), "norm": nn.BatchNorm1d(w), "block": nn.Linear(w, w), "drop": nn.Dropout(0.5), "head": nn.Linear(w, 3)}
        for w in (3, 4)
    ]
    for one in blocks:
        one["norm"].eval(), one["drop"].eval()
    chains = [Chain.of_blocks(one, torch.zeros(2, 6)) for one in blocks]
    made = family(chains, data(chains[0]))
    found = trained(made.train())
    assert all(torch.equal(now, then) for now, then in zip(found.buffers(), made.buffers(), strict=True))
    assert not found.training and made.training


def test_batches_that_are_no_list_are_run_through_in_their_own_order(made: Patchwork) -> None:
    class Stream:
        """Tells what is taken from it."""

        def __init__(self, task: Task) -> None:
            self.task, self.begun = task, 0

        def __iter__(self) -> Any:
            self.begun += 1
            return iter(list(self.task.batches))

    stream = Stream(data(made))
    train(made, replace(data(made), batches=stream), steps=7, distil="none", generator=torch.Generator().manual_seed(0))
    assert stream.begun - 1 <= 3  # three batches each time, and one look at construction of the task


def test_bad_settings_are_one_line(made: Patchwork) -> None:
    with pytest.raises(UnknownNameError, match="no distillation named 'harder'; did you mean 'hard'"):
        trained(made, distil="harder")
    with pytest.raises(AnalysisError, match=r"expected alpha from 0 to 1, found 1\.5"):
        trained(made, alpha=1.5)
    with pytest.raises(AnalysisError, match=r"expected anchor_share from 0 to 1, found -0\.1"):
        trained(made, anchor_share=-0.1)
    with pytest.raises(AnalysisError, match="expected data to train on, found no batches"):
        train(made, replace(data(made), batches=[]), steps=1, distil="none", generator=torch.Generator())
    with pytest.raises(AnalysisError, match="expected data to train on, found no batches"):
        train(made, replace(data(made), batches=[]), steps=1, generator=torch.Generator())


def test_frozen_anchors_without_stitches_leave_nothing_to_train() -> None:
    apart = Patchwork([chain(3, 2)], [], [Route((Piece(0),))])
    with pytest.raises(AnalysisError, match="expected something to train, found every route frozen"):
        trained(apart, anchor_rate=0.0)


def test_a_loss_that_is_no_number_ends_it_with_a_word(made: Patchwork) -> None:
    with torch.no_grad():
        for one in made.stitches.parameters():
            one.fill_(torch.nan)
    with pytest.raises(AnalysisError, match=r"the loss of route \d+ became nan at step \d+; lower the learning rate"):
        trained(made)
