"""`weightspace forget`: takes models out of the catalog."""

from typing import Annotated

import typer

from weightspace.cli.options import CATALOG, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import print_data, say

PLACE = 21


def forget(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", show_default=False, help="Paths, names in the catalog, or first digits of ids.")
    ],
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Take models out of the catalog, with all that was recorded of them.

    Their files stay where they lie, and an ingest of the folder brings them back. A copy in the zoo's store goes with the next 'weightspace gc', unless another model is kept as what differs from it.

    Examples:
      weightspace forget base
      weightspace forget tuned --format json
    """
    count = zoo_at(zoo).forget(models)
    if format is not Format.table:
        print_data([{"forgotten": count}], format)
        return
    say(f"{count:,} model{'' if count == 1 else 's'} forgotten; files stay where they are, 'weightspace gc' removes copies in the store")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(forget)
