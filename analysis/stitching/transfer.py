"""Transfer grids: how general or specific the parts of a network are, told by networks whose first parts are taken from another."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching.chain import Chain
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task, moved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: Mapping[str, str] = {
    "BnB": "from B itself, frozen",
    "BnB+": "from B itself, fine-tuned",
    "AnB": "from A, frozen",
    "AnB+": "from A, fine-tuned",
    "RnB": "random, frozen",
}
"""Where the first n parts come from, and whether they learn with the rest."""
STATISTICS = ("running_mean", "running_var")

Fresh = Callable[[torch.Generator], Mapping[str, Tensor]]
"""Weights of a network that has learned nothing, by the names that they have in base B."""


@dataclass(frozen=True)
class Transfer:
    """One network of a grid.

    Attributes:
        cut: name of the cut up to which parts are taken from elsewhere.
        parts: how many these are.
        kind: one of `KINDS`.
        score: on test data of B.
    """

    cut: str
    parts: int
    kind: str
    score: float


@dataclass(frozen=True)
class TransferGrid:
    """What networks with parts from elsewhere reach on task B.

    Attributes:
        metric: that scores are of.
        rows: one for each cut and kind.
        base: the score of base B itself.
        scratch: of a network that takes nothing over, trained as all others.
    """

    metric: str
    rows: tuple[Transfer, ...]
    base: float
    scratch: float

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the cuts, from the input on."""
        return tuple(dict.fromkeys(row.cut for row in self.rows))

    def scores(self, kind: str) -> dict[str, float]:
        """By cut, of one kind.

        Raises:
            UnknownNameError: the grid has no such kind.
        """
        known = dict.fromkeys(row.kind for row in self.rows)
        if kind not in known:
            raise UnknownNameError.of("kind of transfer", kind, known)
        return {row.cut: row.score for row in self.rows if row.kind == kind}

    def plot(self) -> "Figure":
        """Draw it; see `draw_grids`."""
        return draw_grids([self])


def transfer_grid(
    base_a: Chain,
    base_b: Chain,
    task_b_train: Task,
    task_b_test: Task,
    *,
    cuts: Sequence[str | int] | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    steps: int = 1000,
    learning_rate: float = 1e-3,
    metric: str = "accuracy",
    fresh: Fresh | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TransferGrid:
    """Train networks on task B whose first n parts come from base A, from base B, or from chance, and whose other parts are drawn anew.

    Yosinski et al., "How transferable are features in deep neural networks?" (arXiv:1411.1792), section 2 and figure 1: BnB below base B
    tells of parts that fit each other only as they were trained together; AnB below BnB, of parts that are specific to task A; AnB+ above
    BnB+, of what is kept from A through fine-tuning. RnB (section 4.3) is the control. We differ in two points: all networks of a grid draw the same
    fresh weights and see the same batches, so that differences between kinds are not those of the draw; and Adam is the optimiser. Batch norms
    run on statistics that do not change: those that come along, and 0 and 1 in parts that are drawn anew.

    Args:
        base_a: trained on task A; only its parts up to the cuts are looked at, so its head may be another.
        base_b: trained on task B, of the same architecture up to the cuts.
        task_b_train: data and loss to train on; its module is not looked at.
        task_b_test: data and metric to be judged by.
        cuts: names or indices; by default all of base B's.
        kinds: some of `KINDS`.
        steps: of each network, with one of the batches each, drawn at random.
        learning_rate: of Adam.
        metric: of the test task, or `loss`.
        fresh: draws weights that have learned nothing; by default weight matrices are drawn as by Kaiming He, biases are 0 and gains 1.
        generator: a source of chance.
        progress: called with the number of networks done and of all.

    Raises:
        AnalysisError: no cuts or data, parts that do not fit, or a loss that is not finite.
        UnknownNameError: no such cut, kind or metric.
    """
    chosen = [base_b.index(one) for one in (range(len(base_b.cuts)) if cuts is None else cuts)]
    _expect_fitting(base_a, base_b, chosen, kinds)
    if metric not in ("loss", *task_b_test.metrics):
        raise UnknownNameError.of("metric", metric, ("loss", *task_b_test.metrics))
    generator = generator or torch.Generator().manual_seed(0)
    new = base_b.weights() | _checked((fresh or _kaiming(base_b))(generator), base_b)
    seed = int(torch.randint(2**31, (), generator=generator))
    sources = {"A": base_a.weights(), "B": base_b.weights(), "R": new}
    test, train = base_b.task(task_b_test), base_b.task(task_b_train)
    chain = copy.deepcopy(base_b)  # all networks, one after the other: parts are slow to copy

    def trained(front: Mapping[str, Tensor], parts: int, *, frozen: bool) -> float:
        taken = _names(base_b, parts)
        for part in chain.parts:
            for name, tensor in part.state_dict().items():
                tensor.copy_((front if name in taken else new)[name])
        held = taken if frozen else set[str]()
        learnt = {name: one for part in chain.parts for name, one in part.named_parameters() if name not in held}
        if learnt:
            _learn(chain, list(learnt.values()), train, steps, learning_rate, torch.Generator().manual_seed(seed))
        return test.evaluate(chain.state_dict())[metric]

    rows: list[Transfer] = []
    total = len(chosen) * len(kinds) + 1
    scratch = trained(new, 0, frozen=False)
    for at in chosen:
        for kind in kinds:
            progress(len(rows) + 1, total)
            score = trained(sources[kind[0]], at + 1, frozen=not kind.endswith("+"))
            rows.append(Transfer(base_b.cuts[at].name, at + 1, kind, score))
    progress(total, total)
    return TransferGrid(metric, tuple(rows), test.evaluate(base_b.state_dict())[metric], scratch)


def _learn(chain: Chain, parameters: Sequence[nn.Parameter], task: Task, steps: int, rate: float, generator: torch.Generator) -> None:
    """Train some parameters of a chain, in place."""
    for parameter in chain.parameters():
        parameter.requires_grad_(any(parameter is one for one in parameters))
    optimizer = torch.optim.Adam(parameters, lr=rate)
    batches = list(task.batches)
    if not batches:
        raise AnalysisError("expected data to train on, found no batches; give the task some")
    for step in range(steps):
        batch = moved(batches[int(torch.randint(len(batches), (), generator=generator))], task.device)
        loss = task.loss(task.forward(chain, batch), batch)
        if not bool(loss.isfinite()):
            raise AnalysisError(f"the loss became {float(loss.detach())} at step {step + 1}; lower the learning rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def _names(chain: Chain, parts: int) -> set[str]:
    """Of the parameters and buffers that the first parts read."""
    return {name for part in chain.parts[:parts] for name in part.state_dict()}


def _checked(weights: Mapping[str, Tensor], chain: Chain) -> dict[str, Tensor]:
    """Those of some weights that a chain has.

    Raises:
        AnalysisError: a parameter is missing, or of another shape.
    """
    missing = next((name for part in chain.parts for name, _ in part.named_parameters() if name not in weights), None)
    if missing is not None:
        raise AnalysisError(f"the fresh weights lack '{missing}'; give all parameters of base B, by its names")
    known = {name: tensor for name, tensor in chain.weights().items() if name in weights}
    for name, tensor in known.items():
        if weights[name].shape != tensor.shape:
            raise AnalysisError(f"the fresh weights have '{name}' of shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}")
    return {name: weights[name].detach() for name in known}


def _kaiming(chain: Chain) -> Fresh:
    """Normal weights of variance 2 / fan-in (He et al., arXiv:1502.01852), biases 0, gains 1, statistics of batch norms 0 and 1."""

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        made = {}
        for name, tensor in chain.weights().items():
            last = name.rpartition(".")[2]
            if not tensor.is_floating_point() or (last not in STATISTICS and name not in learnt):
                continue
            if tensor.ndim > 1:
                made[name] = torch.randn(tensor.shape, generator=generator, device=generator.device) * math.sqrt(2 / tensor[0].numel())
            else:
                made[name] = torch.full(tensor.shape, float(last not in ("bias", "running_mean")))
        return made

    learnt = {name for part in chain.parts for name, _ in part.named_parameters()}
    return draw


def _expect_fitting(a: Chain, b: Chain, cuts: Sequence[int], kinds: Sequence[str]) -> None:
    unknown = next((kind for kind in kinds if kind not in KINDS), None)
    if unknown is not None:
        raise UnknownNameError.of("kind of transfer", unknown, KINDS)
    if not cuts or not kinds:
        raise AnalysisError("expected a cut and a kind at least, found none; name some, or leave them out for all")
    for at in cuts:
        if at < 0:
            raise AnalysisError("nothing is taken over up to the input; name a cut behind it")
        if not any(kind[0] == "A" for kind in kinds):
            continue
        shape = a.cuts[at].shape if at < len(a.cuts) else None
        if shape != b.cuts[at].shape:
            raise AnalysisError(
                f"base A has {'no such cut' if shape is None else shape} at cut {at}, where base B has {b.cuts[at].shape} ('{b.cuts[at].name}'); "
                "give two networks of one architecture, or leave out the kinds with A"
            )
        absent = sorted(_names(b, at + 1) - _names(a, at + 1))
        if absent:
            raise AnalysisError(f"base A has no '{absent[0]}' before cut {at}, which base B has; give two networks of one architecture")


def draw_grids(grids: Sequence[TransferGrid]) -> "Figure":
    """Draw scores against the cut, as figure 2 of the paper: a mark for each grid, a line through their means, base B and scratch across.

    Args:
        grids: of several seeds, with the same cuts and kinds.

    Raises:
        AnalysisError: there are none, or they differ in these.
    """
    from weightspace.plotting import BLUE, INK, ORANGE, QUIET, SKY, VERMILION, canvas, name_axis, short, style

    told = {(grid.metric, tuple((row.cut, row.kind) for row in grid.rows)) for grid in grids}
    if len(told) != 1:
        raise AnalysisError(f"expected grids of the same cuts, kinds and metric, found {len(told)} sorts of them; draw each sort by itself")
    first = grids[0]
    looks = {
        "BnB": (BLUE, "o", "-"),
        "BnB+": (SKY, "o", "--"),
        "AnB": (VERMILION, "s", "-"),
        "AnB+": (ORANGE, "s", "--"),
        "RnB": (QUIET, "x", ":"),
    }
    with style():
        figure, [[axes]] = canvas(size=(8.0, 3.6))
        for at, kind in enumerate(dict.fromkeys(row.kind for row in first.rows)):
            color, marker, line = looks[kind]
            table = [list(grid.scores(kind).values()) for grid in grids]
            places = [place + (at - 2) * 0.05 for place in range(len(first.cuts))]
            means = [sum(column) / len(column) for column in zip(*table, strict=True)]
            for row in table:
                axes.plot(places, row, marker, color=color, markersize=3, alpha=0.5, linestyle="none")
            axes.plot(places, means, marker, color=color, linestyle=line, markersize=5, label=f"{kind}: {KINDS[kind]}")
        for name, value, line in (("base B", [one.base for one in grids], "-"), ("from scratch", [one.scratch for one in grids], "--")):
            axes.axhline(sum(value) / len(value), color=INK, linewidth=0.8, linestyle=line, label=name)
        name_axis(axes.xaxis, first.cuts)
        axes.set(xlabel="parts taken over, up to", ylabel=short(first.metric.replace("_", " ")))
        figure.legend(loc="outside right upper")
    return figure


__all__ = ["KINDS", "Fresh", "Transfer", "TransferGrid", "draw_grids", "transfer_grid"]
