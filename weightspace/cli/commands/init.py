"""`weightspace init`: a new, empty zoo."""

import os
from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli.options import CATALOG, ZooFolder, zoo_at
from weightspace.cli.output import say

PLACE = 10


def init(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", show_default=False, help="The folder; by default the one you are in.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", show_default=False, help="Keep copies of weights there, as in s3://bucket/prefix."),
    ] = None,
    zoo: ZooFolder = None,
) -> None:
    """Make an empty zoo in a folder.

    Nothing but the subfolder .weightspace is made. ingest does this by itself where there is no zoo yet. With --store the weights that the zoo keeps itself lie in an object store, any that fsspec knows; the catalog stays in the folder.

    Examples:
      weightspace init
      weightspace init experiments/
      weightspace init elsewhere/ --store memory://zoo
    """
    # Not the nearest zoo above: like git, init makes one right here.
    place = folder or zoo or (None if os.environ.get("WEIGHTSPACE_ZOO") else Path.cwd())
    made = zoo_at(place)
    existed = made.catalog.exists()
    made.create(store_at=store)
    say(f"{made.folder}: {'is a zoo already' if existed else 'made an empty zoo'}; 'weightspace ingest PATH' fills it")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(init)
