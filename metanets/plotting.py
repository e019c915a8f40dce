"""Pictures of metanets: what was predicted against what is true, and how a training went."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from weightspace.errors import MetanetError
from weightspace.plotting import BLUE, INK, QUIET, SEVERAL, SKY, VERMILION, canvas, far_axis, key, note, short, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def predicted_against_true(
    true: Sequence[float], predicted: Sequence[float], *, half: float | None = None, level: float | None = None, label: str = "value"
) -> "Figure":
    """Draw predictions against the truth, with the conformal band around the diagonal; what lies outside it is marked.

    Args:
        true: what is so; rows of which this or the prediction is not finite are left out.
        predicted: of the same models, in the same order.
        half: half the width of the interval, as of `Predictor.interval`; none is drawn if left out or infinite.
        level: the probability that it is meant to have.
        label: what is predicted, with its unit.

    Raises:
        MetanetError: unequal numbers of values, or no finite pair.
    """
    if len(true) != len(predicted):
        raise MetanetError(
            f"expected as many predictions as true values, found {len(predicted)} and {len(true)}; give both of the same models"
        )
    x, y = np.asarray(true, float), np.asarray(predicted, float)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise MetanetError("no model has a finite prediction and a finite true value; predict models whose value is known")
    x, y = x[known], y[known]
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    edge = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    ends = np.array([low - edge, high + edge])
    has_band = half is not None and np.isfinite(half)
    off = np.abs(y - x)
    inside = off <= half if half is not None and has_band else np.ones(len(x), bool)
    size = float(np.clip(5000 / len(x), 3, 24))
    with style():
        figure, [[axes]] = canvas(size=(4.6, 4.6))
        if half is not None and has_band:
            promised = "interval" if level is None else f"{level:.0%} interval"
            axes.fill_between(ends, ends - half, ends + half, color=SKY, alpha=0.25, linewidth=0, label=promised)
        axes.plot(ends, ends, color=QUIET, linewidth=1, label="as it is")
        axes.scatter(x[inside], y[inside], s=size, color=BLUE, linewidths=0, alpha=0.8)
        axes.scatter(
            x[~inside], y[~inside], s=size + 6, marker="X", color=VERMILION, linewidths=0, label="outside" if (~inside).any() else None
        )
        axes.set(xlabel=short(f"true {label}"), ylabel=short(f"predicted {label}"), xlim=tuple(ends), ylim=tuple(ends))
        axes.set_aspect("equal", adjustable="box")
        figure.legend(loc="outside lower center", ncols=3)
        covered = f", {inside.mean():.0%} inside" if has_band else ""
        note(axes, f"{len(x):,} model{'s' * (len(x) != 1)}, mean error {off.mean():.3g}{covered}")
    return figure


def learning_curves(history: Sequence[Mapping[str, float]], best: int | None = None) -> "Figure":
    """Draw the losses of a training by epoch, and the metrics below; see `weightspace.metanets.training.Trained`.

    Args:
        history: what each epoch measured; quantities with `loss` in their name share the first panel.
        best: the epoch that was kept, from 1.

    Raises:
        MetanetError: no epoch.
    """
    if not history:
        raise MetanetError("a training without epochs has no curve; train for one or more")
    names = list(dict.fromkeys(name for one in history for name in one))
    losses = [name for name in names if name.endswith("loss")]
    groups = [group for group in (losses, [name for name in names if name not in losses]) if group]
    epochs = np.arange(1, len(history) + 1)
    with style():
        figure, panels = canvas(len(groups), size=(5.4, 2.4 if len(groups) > 1 else 3.2), sharex=True)
        for [axes], group in zip(panels, groups, strict=True):
            curves = {name: np.array([one.get(name, np.nan) for one in history], float) for name in group}
            for (name, values), colour in zip(curves.items(), (*SEVERAL, INK) * (1 + len(group) // 7), strict=False):
                axes.plot(
                    epochs, values, color=colour, marker="o" if len(epochs) < 40 else "", markersize=3, label=key(name.replace("_", " "))
                )
            found = np.concatenate(list(curves.values()))
            found = found[np.isfinite(found)]
            if group is losses and len(found) and found.min() > 0 and found.max() > 30 * found.min():
                far_axis(axes, "y")
            if best is not None:
                axes.axvline(best, color=QUIET, linewidth=0.9, linestyle="--")
            axes.set_ylabel("loss" if group is losses else "metric")
            axes.legend(ncols=1 + (len(group) > 4))
        panels[-1][0].set_xlabel("epoch")
        panels[-1][0].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if best is not None:
            note(panels[0][0], f"{len(history):,} epoch{'s' * (len(history) != 1)}, epoch {best} was kept")
    return figure
