"""The history of a run: how much each layer changed from checkpoint to checkpoint, and what its weights looked like."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from weightspace import dtypes
from weightspace.analysis.history.moment import Moment, is_comparable, moment
from weightspace.analysis.history.warning_signs import SEVERITIES, Event, events
from weightspace.analysis.layers import layers
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class History:
    """What changed between the checkpoints of a run.

    Attributes:
        steps: of the checkpoints, in order.
        moments: of every layer at every step that has it, by step, then in file order.
    """

    steps: tuple[int, ...]
    moments: tuple[Moment, ...]

    @property
    def layers(self) -> list[str]:
        """Names of the tensors, in file order."""
        return list(dict.fromkeys(one.layer for one in self.moments))

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a layer and step."""
        return [asdict(one) for one in self.moments]

    @property
    def summary(self) -> list[dict[str, Any]]:
        """One row a layer: its usual change, its largest and where, norm and effective rank at both ends, and the worst that happened."""
        worst = {one.layer: one for one in sorted(self.events, key=lambda one: SEVERITIES.index(one.severity), reverse=True)}
        rows: list[dict[str, Any]] = []
        for name, series in self.series.items():
            changes = {one.step: one.change for one in series if one.change is not None}
            largest = max(changes, key=changes.__getitem__, default=None)
            rows.append(
                {
                    "layer": name,
                    "change": median(changes.values()) if changes else None,
                    "largest_change": None if largest is None else changes[largest],
                    "at_step": largest,
                    "norm_before": series[0].norm,
                    "norm_after": series[-1].norm,
                    "effective_rank_before": series[0].effective_rank,
                    "effective_rank_after": series[-1].effective_rank,
                    "event": f"step {worst[name].step}: {worst[name].reason}" if name in worst else None,
                }
            )
        return rows

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """Where something broke, or may have: by step, the worst first; see `weightspace.analysis.history.warning_signs`."""
        return events(self.steps, self.series)

    @property
    def series(self) -> Mapping[str, list[Moment]]:
        """The moments of each layer, in order."""
        made: dict[str, list[Moment]] = {name: [] for name in self.layers}
        for one in self.moments:
            made[one.layer].append(one)
        return made

    @property
    def changes(self) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
        """Relative change (layers, steps); NaN where there is none."""
        at_layer, at_step = {name: at for at, name in enumerate(self.layers)}, {step: at for at, step in enumerate(self.steps)}
        made = np.full((len(at_layer), len(at_step)), np.nan)
        for one in self.moments:
            if one.change is not None:
                made[at_layer[one.layer], at_step[one.step]] = one.change
        return made

    def plot(self) -> "Figure":
        """Draw the relative change of layers (rows) at steps (columns), logarithmically, with the events marked."""
        from weightspace.analysis.history.plot import drawn

        return drawn(self)

    def __repr__(self) -> str:
        return f"<History of {len(self.steps)} checkpoints, {len(self.layers)} layers: {len(self.events)} events>"


def history(checkpoints: Iterable[tuple[int, Checkpoint]], pattern: str = "*") -> History:
    """Follow the layers of a run through its checkpoints.

    Two checkpoints are looked at at a time, a tensor at a time. Layers are the float tensors, tied ones once.

    Args:
        checkpoints: steps with their checkpoints, in order.
        pattern: of the names of layers to follow, as in a shell: `fc*.weight`.

    Raises:
        AnalysisError: fewer than two checkpoints, steps that do not rise, no layer that fits, or none that a checkpoint shares with the
            one before.

    Example:
        >>> import torch
        >>> run = [(step, Checkpoint.of({"w": torch.full((2, 2), 1.0 + step)})) for step in range(3)]
        >>> [one.change for one in history(run).moments]
        [None, 1.0, 0.5]
    """
    steps: list[int] = []
    moments: list[Moment] = []
    before: Checkpoint | None = None
    for step, checkpoint in checkpoints:
        if steps and step <= steps[-1]:
            raise AnalysisError(f"step {step} comes after step {steps[-1]}; give checkpoints in the order of their steps, each step once")
        moments += _moments(step, checkpoint, before, pattern)
        steps.append(step)
        before = checkpoint
    if len(steps) < 2:
        raise AnalysisError(f"a history needs two checkpoints or more, found {len(steps)}; name more of the run")
    return History(tuple(steps), tuple(moments))


def _moments(step: int, checkpoint: Checkpoint, before: Checkpoint | None, pattern: str) -> list[Moment]:
    matrices = {layer.name: layer for layer in layers(checkpoint, embeddings=True)}
    names = [name for name in _floats(checkpoint) if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise AnalysisError(_nothing(step, checkpoint, pattern))
    if before is not None and not any(is_comparable(checkpoint, before, name) for name in names):
        raise AnalysisError(f"step {step} has no layer that the checkpoint before it has, too; they are not of one run")
    return [moment(step, name, matrices.get(name), checkpoint, before) for name in names]


def _floats(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors that can be followed."""
    return [name for name, info in checkpoint.info.items() if info.is_parameter and info.numel and dtypes.dtype(info.dtype).kind == "float"]


def _nothing(step: int, checkpoint: Checkpoint, pattern: str) -> str:
    """Why no tensor of a checkpoint is followed."""
    known = _floats(checkpoint)
    if known:
        shown = one_line(", ".join(known[:3]), 200) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
        return f"no float tensor at step {step} fits '{one_line(pattern, 80)}'; there are {shown}"
    kinds = ", ".join(sorted({info.dtype for info in checkpoint.info.values()}))
    found = f"only tensors of dtype {kinds}" if kinds else "no tensors at all"
    return f"{one_line(str(checkpoint.path or f'step {step}'), 120)}: expected float tensors to follow, found {found}; give checkpoints of a model"
