"""`weightspace tag`: labels of a model."""

from typing import Annotated

import typer

from weightspace.cli.options import CATALOG, Format, Model, OutputFormat, ZooFolder, pairs, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.errors import UnknownNameError

PLACE = 18


def tag(
    model: Model,
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY[=VALUE]]...", show_default=False, help="Labels to set; without any, those there are."),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="KEY", show_default=False, help="A label to take off.")] = None,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Label a model, or print its labels.

    A label set again gets the new value. 'weightspace ls --tag KEY' lists the models that carry one.

    Examples:
      weightspace tag base best team=vision
      weightspace tag base --remove best
      weightspace tag base
    """
    house = zoo_at(zoo)
    new = pairs(labels or [], "label")
    if new:
        house.record(model, tags=new)
    if remove and not house.untag(model, remove):
        raise UnknownNameError.of("label", remove[0], house.page(model).tags)
    if not new and not remove:
        tags = [{"key": key, "value": value} for key, value in house.page(model).tags.items()]
        print_data(tags, format, {"key": Column("key", style="cyan"), "value": Column("value", whole=False)})
        if format is Format.table and not tags:
            say("no labels", style="dim")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(tag)
