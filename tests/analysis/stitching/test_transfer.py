"""Transfer grids: what their networks are made of, what learns in them, and what is refused."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.pictures import expect_good
from weightspace.analysis.stitching import Chain
from weightspace.analysis.stitching.transfer import KINDS, TransferGrid, draw_grids, transfer_grid
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task

SETTINGS: dict[str, Any] = {"steps": 20, "learning_rate": 0.1}


@cache
def bases() -> tuple[Chain, Chain, Task]:
    """Two networks of one architecture, and a task that the second has learned; the first looks at noise alone."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(120, 2, generator=draw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a, b = (nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)) for _ in range(2))
    task = Task.classification(b, x, (x[:, 0] > 0).long(), batch_size=40)
    optimizer = torch.optim.Adam(b.parameters(), 0.05)
    for _ in range(60):
        loss = torch.stack([task.loss(b(batch[0]), batch) for batch in task.batches]).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        first = a.get_submodule("0")
        first.get_parameter("weight")[:, 0] = 0
        first.get_parameter("bias").fill_(0.5)
    return Chain.of(a, x[:2]), Chain.of(b, x[:2]), task


def fresh_from(chain: Chain) -> Callable[[torch.Generator], Mapping[str, Tensor]]:
    """Weights that are those of a network, so that a grid without training is known."""
    return lambda generator: chain.weights()


def test_there_is_a_network_for_each_cut_and_kind(generator: torch.Generator) -> None:
    a, b, task = bases()
    told: list[tuple[int, int]] = []
    grid = transfer_grid(
        a, b, task, task, generator=generator, progress=lambda done, total: told.append((done, total)), steps=8, learning_rate=0.2
    )
    assert [(row.parts, row.kind) for row in grid.rows] == [(parts, kind) for parts in (1, 2) for kind in KINDS]
    assert grid.cuts == ("0", "2") and grid.metric == "accuracy"
    assert told == [(at, 11) for at in range(1, 12)]
    assert grid.base == task.evaluate(dict(b.weights()))["accuracy"] > 0.95
    assert grid.scratch > 0.7


def test_copied_parts_learn_only_where_they_are_fine_tuned(generator: torch.Generator) -> None:
    a, b, task = bases()
    grid = transfer_grid(a, b, task, task, kinds=["BnB", "BnB+", "AnB", "AnB+"], generator=generator, **SETTINGS)
    blind, mended = grid.scores("AnB"), grid.scores("AnB+")
    assert all(value < 0.7 for value in blind.values()), "what A's first part does not let through stays lost"
    assert mended["0"] > 0.9, "unless it learns as well"
    assert all(value > 0.9 for kind in ("BnB", "BnB+") for value in grid.scores(kind).values())


def test_a_network_given_its_own_parts_is_itself() -> None:
    _, b, task = bases()
    grid = transfer_grid(b, b, task, task, steps=0, fresh=fresh_from(b))
    assert {row.score for row in grid.rows} == {grid.base} == {grid.scratch}


def test_without_training_the_rest_is_what_was_drawn() -> None:
    a, b, task = bases()
    grid = transfer_grid(a, b, task, task, steps=0, fresh=fresh_from(a), metric="loss")
    own, other = b.weights(), a.weights()
    mixed = task.evaluate({name: (own if name.startswith("0.") else other)[name] for name in own})["loss"]
    assert grid.scores("BnB")["0"] == pytest.approx(mixed)
    assert grid.scores("AnB") == grid.scores("RnB") == dict.fromkeys(("0", "2"), grid.scratch)


def test_kinds_see_the_same_chance(generator: torch.Generator) -> None:
    _, b, task = bases()
    settings: dict[str, Any] = {"cuts": ["0"], "metric": "loss", "steps": 3}
    grid = transfer_grid(b, b, task, task, generator=generator, **settings)
    assert grid.scores("AnB") == grid.scores("BnB") and grid.scores("AnB+") == grid.scores("BnB+")
    again = transfer_grid(b, b, task, task, generator=torch.Generator().manual_seed(0), **settings)
    other = transfer_grid(b, b, task, task, generator=torch.Generator().manual_seed(1), **settings)
    assert again == grid != other


def test_bases_stay_as_they_are(generator: torch.Generator) -> None:
    a, b, task = bases()
    before = [{name: tensor.clone() for name, tensor in chain.weights().items()} for chain in (a, b)]
    transfer_grid(a, b, task, task, cuts=["2"], kinds=["AnB+", "BnB+"], generator=generator, **SETTINGS)
    for chain, weights in zip((a, b), before, strict=True):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in chain.weights().items())


class Tied(nn.Module):
    """Reads and writes with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.inner = nn.Linear(3, 5, bias=False), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.inner(torch.relu(self.read(x))))
        return hidden @ self.read.weight


def test_a_matrix_that_is_used_twice_is_copied_to_both_places() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=draw)
    modules = [Tied(), Tied()]
    a, b = (Chain.of(module, x[:2]) for module in modules)
    task = Task.classification(modules[1], x, torch.arange(12) % 3)
    grid = transfer_grid(a, b, task, task, cuts=[0], kinds=["AnB"], steps=0, fresh=fresh_from(b), metric="loss")
    own = dict(b.weights()) | {"read.weight": a.weights()["read.weight"]}
    assert grid.rows[0].score == pytest.approx(task.evaluate(own)["loss"])
    after = transfer_grid(a, b, task, task, cuts=[0], kinds=["AnB", "AnB+"], steps=20, metric="loss", fresh=fresh_from(b))
    assert after.scores("AnB+")[after.cuts[0]] < after.scores("AnB")[after.cuts[0]] < grid.rows[0].score


def test_fresh_batch_norms_forget_their_statistics(generator: torch.Generator) -> None:
    _, _, task = bases()
    module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    module.get_submodule("1").get_buffer("running_mean").fill_(1e6)
    chain = Chain.of(module, torch.randn(2, 2, generator=generator))
    grid = transfer_grid(chain, chain, task, task, generator=generator, kinds=["BnB", "RnB"], **SETTINGS)
    name = grid.cuts[0]
    assert grid.scratch > 0.9 and grid.scores("RnB")[name] > 0.8 and grid.scores("BnB")[name] < 0.7


def test_grids_are_drawn(generator: torch.Generator) -> None:
    a, b, task = bases()
    grid = transfer_grid(a, b, task, task, generator=generator, steps=0)
    figure = grid.plot()
    expect_good(figure)
    assert figure.legends[0].get_window_extent().x0 > figure.axes[0].get_window_extent().x1  # covers no curve
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == [*(f"{kind}: {told}" for kind, told in KINDS.items()), "base B", "from scratch"]
    shifted = replace(grid, base=0.0)
    [line] = [one for one in draw_grids([grid, shifted]).axes[0].lines if one.get_label() == "base B"]
    assert np.asarray(line.get_ydata())[0] == pytest.approx(grid.base / 2)
    fewer = TransferGrid("accuracy", grid.rows[:3], grid.base, grid.scratch)
    with pytest.raises(
        AnalysisError, match="expected grids of the same cuts, kinds and metric, found 2 sorts of them; draw each sort by itself"
    ):
        draw_grids([grid, fewer])
    with pytest.raises(UnknownNameError, match="no kind of transfer named 'AnC'"):
        grid.scores("AnC")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kinds": ["AnC"]}, UnknownNameError, "no kind of transfer named 'AnC'"),
        ({"metric": "f1"}, UnknownNameError, r"no metric named 'f1'.*accuracy"),
        ({"cuts": ["3"]}, UnknownNameError, "no cut named '3'"),
        ({"cuts": ["input"]}, AnalysisError, "nothing is taken over up to the input; name a cut behind it"),
        ({"cuts": []}, AnalysisError, "expected a cut and a kind at least, found none"),
        ({"kinds": []}, AnalysisError, "expected a cut and a kind at least, found none"),
        ({"learning_rate": 1e30}, AnalysisError, r"the loss became \S+ at step \d+; lower the learning rate"),
        ({"fresh": lambda generator: {}}, AnalysisError, "the fresh weights lack '0.weight'; give all parameters of base B, by its names"),
        (
            {"fresh": lambda generator: {**bases()[0].weights(), "0.weight": torch.zeros(1)}},
            AnalysisError,
            r"the fresh weights have '0.weight' of shape \(1,\), expected \(8, 2\)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    a, b, task = bases()
    with pytest.raises(error, match=message) as caught:
        transfer_grid(a, b, task, task, **{"steps": 5, **settings})
    assert "\n" not in str(caught.value)


def test_networks_that_do_not_fit_are_refused(generator: torch.Generator) -> None:
    a, b, task = bases()
    narrow = Chain.of(nn.Sequential(nn.Linear(2, 7), nn.ReLU(), nn.Linear(7, 2)), torch.randn(2, 2, generator=generator))
    with pytest.raises(
        AnalysisError, match=r"base A has \(7,\) at cut 0, where base B has \(8,\) \('0'\); give two networks of one architecture"
    ):
        transfer_grid(narrow, b, task, task)
    with pytest.raises(AnalysisError, match=r"base A has no such cut at cut 1, where base B has \(6,\)"):
        transfer_grid(narrow, b, task, task, cuts=[1])
    assert transfer_grid(narrow, b, task, task, kinds=["BnB"], steps=1).rows, "A is not looked at"
    renamed = Chain.of(
        nn.Sequential(OrderedDict(in_=nn.Linear(2, 8), act=nn.ReLU(), out=nn.Linear(8, 2))), torch.randn(2, 2, generator=generator)
    )
    with pytest.raises(
        AnalysisError, match=r"base A has no '0.bias' before cut 0, which base B has; give two networks of one architecture"
    ):
        transfer_grid(renamed, b, task, task, cuts=[0])
    with pytest.raises(AnalysisError, match="expected data to train on, found no batches; give the task some"):
        transfer_grid(a, b, replace(task, batches=[]), task, steps=1)
