"""`weightspace record`: metrics of a model."""

from typing import Annotated

import typer

from weightspace.cli.options import CATALOG, Model, ZooFolder, pairs, zoo_at
from weightspace.errors import RecordError, one_line

PLACE = 19


def record(
    model: Model,
    metrics: Annotated[list[str], typer.Argument(metavar="NAME=NUMBER...", show_default=False, help="The numbers to record.")],
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", show_default=False, help="The data they were measured on: train, val, test ...")
    ] = None,
    step: Annotated[int | None, typer.Option("--step", metavar="N", show_default=False, help="The step they belong to.")] = None,
    zoo: ZooFolder = None,
) -> None:
    """Record metrics of a model.

    A metric of the same name, split and step is replaced. 'weightspace ls' shows metrics as columns.

    Examples:
      weightspace record base accuracy=0.91 loss=0.3 --split test
      weightspace record base test_accuracy=0.91 --step 2000
    """
    values = {name: _number(name, text) for name, text in pairs(metrics, "metric").items()}
    zoo_at(zoo).record(model, metrics={split: values} if split else values, step=step)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecordError(
            f"metric '{one_line(name, 80)}' is '{one_line(text, 80)}', expected a number; record text with 'weightspace tag'"
        ) from None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(record)
