"""`weightspace predict`: what a trained metanet tells of models, with an interval."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import (
    METANETS,
    PICTURES,
    Force,
    Format,
    MetanetFile,
    Models,
    OutputFormat,
    Where,
    ZooFolder,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress
from weightspace.errors import CatalogError, MetanetError, RecordError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from weightspace.checkpoint import Checkpoint
    from weightspace.cli.networks import Network
    from weightspace.zoo.zoo import Zoo

PLACE = 62

_COLUMNS = {
    "model": Column("model", cells.safe, style="bold", whole=False),
    "predicted": Column("predicted", cells.number, right=True),
    "low": Column("low", cells.number, right=True),
    "high": Column("high", cells.number, right=True),
}
_SCORES = {"model": _COLUMNS["model"], "score": Column("score", cells.number, right=True)}
_CLASSES = {"model": _COLUMNS["model"], "predicted": Column("predicted", cells.safe)}


def predict(
    metanet: MetanetFile,
    models: Models = None,
    where: Where = None,
    level: Annotated[float, typer.Option("--level", min=0.01, max=0.999, help="Probability with which an interval holds the truth.")] = 0.9,
    plot: Annotated[
        Path | None, plot_option("predictions against the truth where the catalog knows it, else how often each value is predicted,")
    ] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Predict a property of models from their weights.

    The interval is conformal: as wide as the errors were on networks that the metanet was not trained on. It holds for models like those. Of a class there is none, nor of the scores of a ranking, which order models and have no unit.

    Examples:
      weightspace predict --metanet predictor.safetensors --where "run is not null"
      weightspace predict --metanet predictor.safetensors --where "run is not null" --plot predicted.png
    """
    unwritten(plot, force, PICTURES)
    from weightspace.cli.networks import batches_of, networks_in, networks_of, numbers_in
    from weightspace.metanets import load_predictor, metanets

    if (where is None) == (not models):
        raise MetanetError(f"expected models or --where, found {'neither' if where is None else 'both'}; give one of the two")
    import torch

    here, left_out = zoo_at(zoo), LeftOut()
    opened = here.checkpoint(metanet)
    predictor = load_predictor(opened)
    told = {f"beside {at}": text for at, text in enumerate(_words(opened, "beside"))}
    classes = _words(opened, "classes")
    head = str(predictor.head_recipe["head"])
    if len(told) != predictor.head_recipe["covariates"] or (head == "classification" and len(classes) != predictor.head.classes):
        raise MetanetError(f"'{metanet}' says other columns or classes than its predictor was made with; train it again")
    runs = metanets[predictor.net.recipe.name].reads == "function"
    rows, told_of = [], []
    with progress("predicting"):
        asked = networks_of(here, where, left_out, asked=told, needs_module=runs) if where else networks_in(here, models or [], told, runs)
        asked = [one for one in asked if _is_known(one, told, left_out)]
        for some, weights in batches_of(asked, left_out):
            try:
                covariates = torch.tensor([numbers_in(some, name) for name in told]).T if told else None
                found = predictor.predict(weights, covariates).tolist()
            except MetanetError as error:
                for one in some:
                    left_out(one.row["name"], error)
                continue
            for one, value in zip(some, found, strict=True):
                if math.isfinite(value):
                    rows.append({"model": one.row["name"], "predicted": value})
                    told_of.append(one)
                else:
                    left_out(
                        one.row["name"],
                        MetanetError("gets a prediction that is not finite; its weights may be far larger than those trained on"),
                    )
    left_out.report("predictions", is_all=not rows)
    half = predictor.interval(level) if head == "regression" else math.inf
    if classes:
        data, columns = [{"model": row["model"], "predicted": classes[int(row["predicted"])]} for row in rows], _CLASSES
    elif head == "ranking":
        data, columns = [{"model": row["model"], "score": row["predicted"]} for row in rows], _SCORES
    else:
        if math.isinf(half) and rows:
            count = len(predictor.residuals)
            say(f"no interval: {cells.counted(count, 'network')} not trained on are too few for a probability of {level:g}", style="yellow")
        ends = {"low": -half, "high": half}
        data = [row | {end: None if math.isinf(half) else row["predicted"] + off for end, off in ends.items()} for row in rows]
        columns = _COLUMNS
    print_data(data, format, columns)
    if not rows:
        say("no model fits", style="dim")
    elif plot is not None:
        target = str(opened.metadata.get("target", ""))
        true = _truth(here, target, where, told_of)
        if classes:
            print_figure(_classes_drawn([row["predicted"] for row in data], true, classes), plot)
        else:
            what = "score" if head == "ranking" else "predicted"
            print_figure(_numbers_drawn([row[what] for row in data], true, target or "value", head, (half, level)), plot)


def _truth(zoo: "Zoo", target: str, where: str | None, networks: "Sequence[Network]") -> list[Any]:
    """What the catalog says that the networks are; None of those of which it does not know, or knows no such column."""
    from weightspace.cli.networks import rows_of

    ids = [one.row.get("id") or one.checkpoint.id for one in networks]
    if not target or not zoo.catalog.exists():
        return [None] * len(ids)
    among = ", ".join(f"'{one}'" for one in ids)
    try:
        rows = rows_of(zoo, where or f"id in ({among})", {"true": target})
    except CatalogError:  # another zoo than the one that it was trained in, which has other metrics
        rows = []
    known = {row["id"]: row["true"] for row in rows}
    return [known.get(one) for one in ids]


def _classes_drawn(predicted: Sequence[str], true: Sequence[Any], classes: Sequence[str]) -> "Figure":
    """Count predicted classes, by true class where that is known."""
    import numpy as np
    import pyarrow as pa

    from weightspace.analysis.plotting import heat_map
    from weightspace.zoo.plotting import histogram

    places = {name: at for at, name in enumerate(classes)}
    pairs = [(places[str(so)], places[told]) for told, so in zip(predicted, true, strict=True) if so is not None and str(so) in places]
    if not pairs:
        return histogram(pa.table({"predicted": predicted}), "predicted")
    table = np.zeros((len(classes), len(classes)))
    np.add.at(table, tuple(zip(*pairs, strict=True)), 1)
    right = table.trace() / len(pairs)
    title = f"{cells.counted(len(pairs), 'model')}, {right:.0%} told right\ntrue class down, predicted across"
    return heat_map(table, classes, classes, "models", limits=(0.0, float(table.max())), title=title)


def _numbers_drawn(predicted: Sequence[float], true: Sequence[Any], target: str, head: str, interval: tuple[float, float]) -> "Figure":
    """Draw predictions against what is known to be so; where nothing is, how often each comes."""
    import pyarrow as pa

    from weightspace.metanets.plotting import predicted_against_true
    from weightspace.zoo.plotting import against, histogram

    known = [_number(value) for value in true]
    what = f"{'score for' if head == 'ranking' else 'predicted'} {target}"
    if not any(map(math.isfinite, known)):
        return histogram(pa.table({what: predicted}), what)
    if head == "ranking":  # scores have no unit, so that there is no line to lie on
        return against(pa.table({what: predicted, f"true {target}": known}), what, [f"true {target}"])
    half, level = interval
    return predicted_against_true(known, predicted, half=half, level=level, label=target)


def _number(value: Any) -> float:
    """A value as a number; NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _is_known(network: "Network", columns: Iterable[str], left_out: LeftOut) -> bool:
    """Whether all columns hold a number; `left_out` is told if not."""
    from weightspace.cli.networks import numbers_in

    try:
        for column in columns:
            numbers_in([network], column)
    except RecordError as error:
        left_out(network.row["name"], error)
        return False
    return True


def _words(opened: "Checkpoint", key: str) -> list[str]:
    """A list of words in a file's metadata.

    Raises:
        MetanetError: it is none.
    """
    text = opened.metadata.get(key, "[]")
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise MetanetError(f"'{opened.path}' has metadata '{key}' that is no list of words; train it again")
    return found


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=METANETS)(predict)
