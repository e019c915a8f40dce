"""Similarity maps: two networks compared at all pairs of their cuts, by what crosses there and by what it is good for, in one record."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from weightspace.analysis.functional.comparison import KINDS, SEPARATOR, Comparison, key_of
from weightspace.analysis.stitching.chain import INPUT, Chain, chain_of
from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.fitting import Bias, Gathered, Pair, expect_bias, gathered
from weightspace.analysis.stitching.layer import Stitch, stitches
from weightspace.analysis.stitching.penalty import penalties
from weightspace.analysis.stitching.task_matching import match_task
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Batch, Task, batch_inputs, halves, tensors_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSITIONS = "each place of the end's cut in each example is a sample; the front's places are pooled or interpolated to these"
FUNCTIONAL = ("penalty", "agreement")
MAPS = ("cka_debiased", "lr", "fit_error", "penalty", "agreement")
"""Those that are made unless others are named; any of `comparison.KINDS` besides."""


@dataclass(frozen=True)
class StitchingMaps:
    """Tables over all pairs of cuts, cuts of the front down, those of the end across; all on the same examples.

    Attributes:
        maps: by name. What is `KINDS` is of what crosses at both cuts; `fit_error` is the squared error of the stitch on held-out examples as
            a share of the variance at each place, `penalty` and `agreement` are of the stitched network (see `Penalty`), on these too.
        stitch: name of the kind of stitch, with the epochs that it was trained on the task.
        fitted: examples that stitches were found on.
        examples: held-out examples, on which everything else rests.
        probe: digest of all of these, in their order.
        end_loss: of the end network alone, on held-out examples; NaN where nothing functional was asked for.
        positions: what a sample is.
    """

    maps: Mapping[str, Comparison]
    stitch: str
    fitted: int
    examples: int
    probe: str
    end_loss: float
    positions: str = POSITIONS

    def values(self, name: str | None = None) -> dict[str, float]:
        """Numbers by key: "cut|cut" of one table, "table|cut|cut" of all; of the raw input, which is no layer, "input > cut"."""
        found: dict[str, float] = {}
        for what, table in self.maps.items():
            if name in (None, what):
                front = "" if name else what
                found |= {_key(front, key): value for key, value in table.values().items()}
        return found

    def plot(self) -> "Figure":
        """Draw all tables side by side."""
        from weightspace.analysis.plotting import heat_maps

        first = next(iter(self.maps.values()))
        title = f"front down, end across; stitches: {self.stitch}, found on {self.fitted:,} examples, judged on {self.examples:,}"
        panels = {name.replace("_", " "): (table.table, table.limits) for name, table in self.maps.items()}
        return heat_maps(panels, first.rows, first.columns, title=title)


def stitching_maps(
    front: Chain,
    end: Chain,
    task: Task,
    held_out: Task | None = None,
    *,
    maps: Sequence[str] = MAPS,
    kind: str = "linear",
    bias: Bias = "places",
    control: bool = True,
    epochs: int = 0,
    generator: torch.Generator | None = None,
    settings: Mapping[str, Any] | None = None,
) -> StitchingMaps:
    """Compare two networks of any architectures at all pairs of their cuts.

    Geometric and functional similarity disagree (Bansal et al., arXiv:2106.07682; Csiszarik et al., arXiv:2110.14633), so both are told.

    Args:
        front: the network whose features are taken.
        end: the one that they are stitched into.
        task: examples to find stitches on, and the loss.
        held_out: examples for everything else; by default every other one of the task's, which are then not fitted.
        maps: which tables, of `MAPS` and `comparison.KINDS`.
        kind: of stitch, one of `stitches`.
        bias: of the stitch; see `fit_stitches`.
        control: whether the raw input is stitched on too, as a first row.
        epochs: of training each stitch on the task before penalty and agreement are taken, from where the kind ended (see `match_task`); 0 is
            zero-shot.
        generator: a source of chance, for kinds of stitch that draw numbers.
        settings: of the kind of stitch.

    Raises:
        UnknownNameError: no such table or kind of stitch.
        AnalysisError: no data, or what crosses is not finite.
        TaskError: a batch has one example alone, or the networks give no logits.
    """
    known = list(dict.fromkeys([*MAPS, *KINDS]))
    unknown = next((one for one in maps if one not in known), None)
    if unknown is not None or not maps:
        raise UnknownNameError.of("table of similarities", unknown or "", known)
    # Lists: a loader that shuffles would give the two networks different examples.
    fit, judge = halves(task) if held_out is None else (replace(one, batches=list(one.batches)) for one in (task, held_out))
    fitted, examples = (int(sum(one.weight(batch) for batch in one.batches)) for one in (fit, judge))
    rows = ([-1] if control and _is_float(fit) else []) + list(range(len(front.cuts)))
    pairs = [(a, b) for a in rows for b in range(len(end.cuts))]
    names = [INPUT if a < 0 else front.cuts[a].name for a in rows], [one.name for one in end.cuts]
    made: dict[Pair, Stitch] = {}
    if not set(maps) <= set(KINDS):
        made = _found(gathered(front, end, fit, pairs), kind, bias, generator, settings or {})
    crossed = gathered(front, end, judge, pairs) if set(maps) - set(FUNCTIONAL) else {}
    judged = {}
    if made and set(maps) & set(FUNCTIONAL):
        learnt = {pair: match_task(front, end, fit, pair, one, epochs=epochs) for pair, one in made.items()} if epochs else made
        judged = penalties(front, end, learnt, judge)

    def value(what: str, pair: Pair) -> float:
        if what in KINDS:
            return KINDS[what](crossed[pair].moments)
        if pair not in made:
            return math.nan
        if what == "fit_error":
            return _fit_error(made[pair], crossed[pair])
        return judged[pair].value if what == "penalty" else judged[pair].agreement

    def reason(what: str, pair: Pair) -> str:
        if what not in KINDS and pair not in made:
            return f"stitch '{kind}' needs as many units on both sides"
        return "its loss is not finite" if what in FUNCTIONAL else crossed[pair].moments.undefined

    def table(what: str) -> Comparison:
        values = {pair: value(what, pair) for pair in pairs}
        undefined = {
            key_of(names[0][rows.index(a)], names[1][b]): reason(what, (a, b)) for (a, b), one in values.items() if math.isnan(one)
        }
        lines = tuple(tuple(values[a, b] for b in range(len(end.cuts))) for a in rows)
        return Comparison(what, tuple(names[0]), tuple(names[1]), lines, examples, undefined)

    said = f"{kind}, {epochs} epochs" if epochs else kind
    end_loss = next(iter(judged.values())).end_loss if judged else math.nan
    return StitchingMaps({one: table(one) for one in maps}, said, fitted, examples, probe_digest(fit, judge), end_loss)


def loaded_chain(task: Task, weights: Checkpoint | StateDict) -> Chain:
    """Cut a task's module with other weights in it.

    Raises:
        TaskError: these do not fit it.
        SymmetryError: it cannot be traced.
        AnalysisError: there is nowhere to cut it.
    """
    module, state = copy.deepcopy(task.module), state_of(weights)
    module.load_state_dict({name: state[own] for name, own in tensors_of(module, state).items()}, strict=False)
    return chain_of(replace(task, module=module.eval()))


def probe_digest(*tasks: Task) -> str:
    """Digest of the examples of tasks in their order, however they are cut into batches."""
    made = blake3(b"weightspace probe 1\n")
    for task in tasks:
        leaves: dict[int, Any] = {}
        for batch in task.batches:
            for at, tensor in enumerate(tensors_in(batch)):
                leaf = leaves.setdefault(at, blake3(f"{tensor.dtype}{tuple(tensor.shape[1:])}".encode()))
                leaf.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for leaf in leaves.values():
            made.update(leaf.digest())
    return made.hexdigest(16)


def _found(
    shown: Mapping[Pair, Gathered], kind: str, bias: Bias, generator: torch.Generator | None, settings: Mapping[str, Any]
) -> dict[Pair, Stitch]:
    """Stitches of a kind, between cuts where there can be one."""
    expect_bias(bias)
    one = stitches[kind]
    return {
        pair: sums.stitch(one, bias=bias, generator=generator, settings=settings)
        for pair, sums in shown.items()
        if not one.is_square or sums.bridge.units[0] == sums.bridge.units[1]
    }


def _key(table: str, key: str) -> str:
    a, between, b = key.partition(SEPARATOR)
    if a == INPUT and between:
        return f"{table}: {a} > {b}" if table else f"{a} > {b}"
    return (f"{table}{SEPARATOR if between else ': '}" if table else "") + key


def _fit_error(stitch: Stitch, found: Gathered) -> float:
    """Of a stitch on other samples than it was found on, about the means of each place; as `stitching.fit` has it."""
    with torch.no_grad():
        return Equations.of(found.moments, found.places).error(stitch.weight.double(), stitch.bias.double())


def _is_float(task: Task) -> bool:
    """Whether the raw input can be stitched on: it is a tensor of floats, with units."""
    first: Batch = next(iter(task.batches), None)
    if first is None:
        raise AnalysisError("expected data to compare networks on, found no batches; give the task some")
    args, kwargs = batch_inputs(first)
    given = next(tensors_in([args, kwargs]), None)
    return given is not None and given.is_floating_point() and 2 <= given.ndim <= 4


__all__ = ["FUNCTIONAL", "MAPS", "POSITIONS", "StitchingMaps", "loaded_chain", "probe_digest", "stitching_maps"]
