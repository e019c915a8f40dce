"""`weightspace predict`: what a trained metanet tells of models, with an interval."""

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import METANETS, Format, MetanetFile, Models, OutputFormat, Where, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import MetanetError, RecordError

if TYPE_CHECKING:
    from weightspace.checkpoint import Checkpoint
    from weightspace.cli.networks import Network

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
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Predict a property of models from their weights.

    The interval is conformal: as wide as the errors were on networks that the metanet was not trained on. It holds for models like those. Of a class there is none, nor of the scores of a ranking, which order models and have no unit.

    Examples:
      weightspace predict --metanet predictor.safetensors --where "run is not null"
    """
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
    head = predictor.head_recipe["head"]
    if len(told) != predictor.head_recipe["covariates"] or (head == "classification" and len(classes) != predictor.head.classes):
        raise MetanetError(f"'{metanet}' says other columns or classes than its predictor was made with; train it again")
    runs = metanets[predictor.net.recipe.name].reads == "function"
    rows = []
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
                else:
                    left_out(
                        one.row["name"],
                        MetanetError("gets a prediction that is not finite; its weights may be far larger than those trained on"),
                    )
    left_out.report("predictions", is_all=not rows)
    if classes:
        print_data([{"model": row["model"], "predicted": classes[int(row["predicted"])]} for row in rows], format, _CLASSES)
        return
    if head == "ranking":
        print_data([{"model": row["model"], "score": row["predicted"]} for row in rows], format, _SCORES)
        return
    half = predictor.interval(level)
    if math.isinf(half):
        count = len(predictor.residuals)
        say(f"no interval: {cells.counted(count, 'network')} not trained on are too few for a probability of {level:g}", style="yellow")
    ends = {"low": -half, "high": half}
    data = [row | {end: None if math.isinf(half) else row["predicted"] + off for end, off in ends.items()} for row in rows]
    print_data(data, format, _COLUMNS)


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
