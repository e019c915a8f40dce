"""`weightspace predict`: what a trained metanet tells of models, with an interval."""

import math
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import METANETS, Format, MetanetFile, Models, OutputFormat, Where, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import MetanetError

PLACE = 62

_COLUMNS = {
    "model": Column("model", cells.safe, style="bold", whole=False),
    "predicted": Column("predicted", cells.number, right=True),
    "low": Column("low", cells.number, right=True),
    "high": Column("high", cells.number, right=True),
}
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

    The interval is conformal: as wide as the errors were on networks that the metanet was not trained on. It holds for models like those.

    Examples:
      weightspace predict --metanet predictor.safetensors --where "run is not null"
    """
    from weightspace.cli.networks import batches_of, networks_in, networks_of, numbers_in, weights_of
    from weightspace.metanets import load_predictor, metanets

    if (where is None) == (not models):
        raise MetanetError(f"expected models or --where, found {'neither' if where is None else 'both'}; give one of the two")
    import torch

    here, left_out = zoo_at(zoo), LeftOut()
    opened = here.checkpoint(metanet)
    predictor = load_predictor(opened)
    told = {f"beside {at}": text for at, text in enumerate(filter(None, opened.metadata.get("beside", "").split("\n")))}
    classes = list(filter(None, opened.metadata.get("classes", "").split("\n")))
    runs = metanets[predictor.net.recipe.name].reads == "function"
    rows = []
    with progress("predicting"):
        asked = networks_of(here, where, left_out, asked=told, needs_module=runs) if where else networks_in(here, models or [], told, runs)
        for some in batches_of(asked):
            try:
                covariates = torch.tensor([numbers_in(some, name) for name in told]).T if told else None
                found = predictor.predict(weights_of(some), covariates).tolist()
            except MetanetError as error:
                for one in some:
                    left_out(one.row["name"], error)
                continue
            rows += [{"model": one.row["name"], "predicted": value} for one, value in zip(some, found, strict=True)]
    left_out.report("predictions", is_all=not rows)
    if classes:
        print_data([{"model": row["model"], "predicted": classes[int(row["predicted"])]} for row in rows], format, _CLASSES)
        return
    half = predictor.interval(level)
    if math.isinf(half):
        count = len(predictor.residuals)
        say(f"no interval: {cells.counted(count, 'network')} not trained on are too few for a probability of {level:g}", style="yellow")
    ends = {"low": -half, "high": half}
    data = [row | {end: None if math.isinf(half) else row["predicted"] + off for end, off in ends.items()} for row in rows]
    print_data(data, format, _COLUMNS)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=METANETS)(predict)
