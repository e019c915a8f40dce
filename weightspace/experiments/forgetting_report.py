"""Tables and a picture of runs that tune and forget: by method, rank correlations with permutation tests, what scaling an intruder does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from weightspace.experiments.forgetting_measures import KINDS, LAMBDAS
from weightspace.experiments.tables import Cell, Estimate, Row
from weightspace.plotting import INK, QUIET, SEVERAL, canvas, note, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
SHOWN = (
    "loss",
    "forgetting",
    "intruders",
    "eps .3",
    "eps .7",
    "all k",
    "right",
    "beyond 2k",
    "guarded",
    "null, Gaussian",
    "null, turned",
    "norm",
    "top",
    "mean top",
)
PREDICTORS = ("intruders", "guarded", "all k", "norm", "top", "mean top")
PERMUTATIONS = 10_000


def method(one: Record) -> str:
    """How it is called in tables."""
    return "full" if one["rank"] is None else f"LoRA {one['rank']}"


def tables(
    grid: Sequence[Record], best: Sequence[Record], largest: Sequence[Record], sweeps: Sequence[Record]
) -> Iterator[tuple[str, list[Row]]]:
    """All tables, with their titles."""
    yield "by method, fewest steps", list(_by_method(best))
    yield "by method, largest rate", list(_by_method(largest))
    yield "every rate, first seed", [_of_rate(one) for one in grid]
    yield "rank correlations with forgetting", list(_correlations(grid, best, largest))
    yield "scaled", list(_scaled(sweeps))


def _by_method(tuned: Sequence[Record]) -> Iterator[Row]:
    for name in dict.fromkeys(map(method, tuned)):
        own = [one for one in tuned if method(one) == name]
        row: dict[str, Cell] = {
            "method": name,
            "rate": f"{own[0]['rate']:g}",
            "matched": f"{sum(one['matched'] for one in own)} of {len(own)}",
        }
        yield row | {what: Estimate.of([float(one[what]) for one in own]) for what in ("steps", *SHOWN)}


def _of_rate(one: Record) -> Row:
    shown = ("loss", "forgetting", "intruders", "all k", "beyond 2k", "null, Gaussian", "null, turned", "norm", "top", "mean top")
    row: dict[str, Cell] = {
        "method": method(one),
        "rate": f"{one['rate']:g}",
        "steps": one["steps"],
        "matched": "yes" if one["matched"] else "no",
    }
    return row | {what: float(one[what]) for what in shown}


def groups(grid: Sequence[Record], best: Sequence[Record], largest: Sequence[Record]) -> dict[str, list[Record]]:
    """The sets of runs that correlations are taken in."""
    runs = list({(one["rank"], one["rate"], one["seed"]): one for one in (*grid, *best, *largest)}.values())
    matched = [one for one in runs if one["matched"]]
    made = {"all": runs, "LoRA": [one for one in runs if one["rank"] is not None]}
    made |= {"matched": matched, "matched LoRA": [one for one in matched if one["rank"] is not None]}
    made |= {"matched, first seed": [one for one in grid if one["matched"]]}
    made |= {"matched, best rate": [one for one in best if one["matched"]]}
    made |= {"matched, largest rate": [one for one in largest if one["matched"]]}
    return {name: own for name, own in made.items() if len(own) > 4}


def _correlations(grid: Sequence[Record], best: Sequence[Record], largest: Sequence[Record]) -> Iterator[Row]:
    for name, own in groups(grid, best, largest).items():
        values = {what: stats.rankdata([one[what] for one in own]) for what in ("forgetting", *PREDICTORS)}
        forgetting = values["forgetting"]
        row: dict[str, Cell] = {"runs": name, "count": len(own)}
        row |= {what: rank_correlation(values[what], forgetting) for what in PREDICTORS}
        for what, fixed in (("intruders", "norm"), ("guarded", "norm"), ("guarded", "top"), ("norm", "guarded")):
            row[f"{what}, {fixed} fixed"] = rank_correlation(_residual(values[what], values[fixed]), _residual(forgetting, values[fixed]))
        yield row


def rank_correlation(a: np.ndarray, b: np.ndarray) -> str:
    """The correlation of two sets of ranks, and the share of permutations that have one as far from zero."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    if size < 1e-9:
        return "-"
    found = float(a @ b) / size
    drawn = np.random.default_rng(0).permuted(np.tile(b, (PERMUTATIONS, 1)), axis=1) @ a / size
    p = (1 + int((np.abs(drawn) >= abs(found) - 1e-12).sum())) / (1 + PERMUTATIONS)
    return f"{found:.2f} (p {p:.4f})" if p > 1.5 / PERMUTATIONS else f"{found:.2f} (p < {2 / PERMUTATIONS:g})"


def _residual(values: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """What a straight line on `fixed` leaves of `values`."""
    away = fixed - fixed.mean()
    centred = values - values.mean()
    return np.asarray(centred - away * (centred @ away) / max(float(away @ away), 1e-9))


def moves(sweeps: Sequence[Record], kind: str, lam: float) -> list[tuple[float, float]]:
    """Of each sweep, how far losses on code and on prose moved from where they were."""
    made = []
    for one in sweeps:
        at = {point["lambda"]: point for point in one["points"] if point["kind"] == kind}
        if at:
            made.append((at[lam]["loss"] - at[1.0]["loss"], at[lam]["prose"] - at[1.0]["prose"]))
    return made


def _scaled(sweeps: Sequence[Record]) -> Iterator[Row]:
    chosen = {name: [one for one in sweeps if method(one) == name] for name in dict.fromkeys(map(method, sweeps))}
    for name, all_own in (chosen | {"LoRA, all": [one for one in sweeps if one["rank"] is not None]}).items():
        own = [one for one in all_own if one["points"]]
        for kind in KINDS if own else ():
            row: dict[str, Cell] = {"method": name, "scaled": kind, "runs": len(own)}
            row["matrices"] = float(np.mean([one["scaled"] for one in own]))
            row["size"] = float(np.mean([one["sizes"][kind] for one in own]))
            yield row | _steps({lam: moves(own, kind, lam) for lam in LAMBDAS})
        if own:
            pairs = {lam: np.subtract(moves(own, KINDS[0], lam), moves(own, KINDS[-1], lam)) for lam in LAMBDAS}
            yield {"method": name, "scaled": "intruder less whole", "runs": len(own), "matrices": "", "size": "", **_steps(pairs)}


def _steps(by_lambda: Mapping[float, Any]) -> dict[str, str]:
    """Changes of both losses, code first."""
    return {f"{lam:g}": "; ".join(map(_short, np.array(both).T)) for lam, both in by_lambda.items() if lam != 1}


def _short(values: np.ndarray) -> str:
    found = Estimate.of(values.tolist())
    return f"{found.mean:+.3f}" + ("" if np.isnan(found.half) else f" ± {found.half:.3f}")


def picture(runs: Sequence[Record], best: Sequence[Record], largest: Sequence[Record], sweeps: Sequence[Record]) -> "Figure":
    """Forgetting at one loss against what may predict it, counts beside those of random updates, and where scaling leads."""
    matched = [one for one in runs if one["matched"]] or runs
    colours = dict(zip(dict.fromkeys(map(method, runs)), SEVERAL, strict=False))
    labels = {"intruders": "intruder dimensions", "norm": "Frobenius norm of the update", "mean top": "largest singular value, mean"}
    with style():
        figure, panels = canvas(2, 3, size=(4.0, 3.2))
        for axes, (what, label) in zip(panels[0], labels.items(), strict=True):
            _points(axes, matched, what, "forgetting", colours)
            axes.set(xlabel=label, ylabel="forgetting, nats a character")
            _logarithmic(axes, "x", has_zero=what == "intruders")
            found = rank_correlation(*(stats.rankdata([one[name] for one in matched]) for name in (what, "forgetting")))
            note(axes, f"{len(matched)} runs of one loss: ρ = {found}")
        panels[0][0].legend(handles=[_handle(name, colour) for name, colour in colours.items()], fontsize=7.5)
        _bars(panels[1][0], best, largest)
        _points(panels[1][1], matched, "null, turned", "intruders", colours)
        most = max([1.0, *(one["intruders"] for one in matched)])
        panels[1][1].plot([0, most], [0, most], color=QUIET, linewidth=0.8)
        panels[1][1].set(xlabel="of random updates with the same singular values", ylabel="intruder dimensions")
        note(panels[1][1], "trained directions against random ones")
        for side in "xy":
            _logarithmic(panels[1][1], side, has_zero=True)
        _paths(panels[1][2], [one for one in sweeps if one["rank"] is not None])
    return figure


def _logarithmic(axes: Any, side: str, *, has_zero: bool) -> None:
    from matplotlib.ticker import NullFormatter

    axes.set(**{f"{side}scale": "symlog" if has_zero else "log"})
    axis = getattr(axes, f"{side}axis")
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _points(axes: Any, runs: Sequence[Record], x: str, y: str, colours: Mapping[str, str]) -> None:
    for one in runs:
        axes.plot(one[x], one[y], "o", color=colours[method(one)], markersize=5, alpha=0.8, markeredgewidth=0)


def _handle(name: str, colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", color=colour, label=name, markersize=5)


def _bars(axes: Any, best: Sequence[Record], largest: Sequence[Record]) -> None:
    """Counts at both rates: all that the definition takes, and in front of them those that no band explains."""
    names = list(dict.fromkeys(map(method, best)))
    for shift, (label, runs, colour) in enumerate((("fewest steps", best, SEVERAL[1]), ("largest rate", largest, SEVERAL[0]))):
        for what, alpha, said in (("intruders", 0.35, label), ("guarded", 1.0, f"{label}, guarded")):
            found = [np.mean([one[what] for one in runs if method(one) == name]) for name in names]
            axes.bar(np.arange(len(names)) + 0.4 * shift - 0.2, found, width=0.36, color=colour, alpha=alpha, label=said)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("intruder dimensions")
    axes.legend(fontsize=7.5)
    note(axes, "k = 10, ε = 0.5, mean over seeds")


def _paths(axes: Any, sweeps: Sequence[Record]) -> None:
    for kind, colour in zip(KINDS, SEVERAL, strict=False):
        found = [np.mean(moves(sweeps, kind, lam), axis=0) for lam in LAMBDAS if moves(sweeps, kind, lam)]
        if found:
            code, prose = np.array(found).T
            axes.plot(code, prose, "-o", color=colour, markersize=3, linewidth=1.2, label=kind)
            axes.annotate("λ = 0", (code[0], prose[0]), fontsize=7, color=INK, annotation_clip=True)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.set(xlabel="change of loss on code", ylabel="change of forgetting")
    if sweeps:
        # Neighbours go far beyond what is of interest here.
        shown = np.array(
            [move for kind in KINDS if kind != "neighbour" for lam in LAMBDAS for move in [np.mean(moves(sweeps, kind, lam), axis=0)]]
        )
        low, high = shown.min(0), shown.max(0)
        edge = 0.25 * (high - low)
        axes.set(xlim=(low[0] - edge[0], high[0] + edge[0]), ylim=(low[1] - edge[1], high[1] + 2 * edge[1]))
        axes.legend(fontsize=7.5)
    note(axes, f"{len(sweeps)} LoRA runs: scaled by λ")
