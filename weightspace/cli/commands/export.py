"""`weightspace export`: a model as one safetensors file."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Force, Model, ZooFolder, zoo_at
from weightspace.cli.output import say
from weightspace.cli.progress import progress
from weightspace.errors import RecordError

PLACE = 17


def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The file to write.")],
    force: Force = False,
    zoo: ZooFolder = None,
) -> None:
    """Write a model as safetensors, whatever format it has.

    The same weights give the same bytes every time.

    Examples:
      weightspace export base -o exported.safetensors
    """
    if output.is_dir():
        raise RecordError(f"{output}: is a folder; name the file to write, such as {output / 'model.safetensors'}")
    if output.exists() and not force:
        raise RecordError(f"{output}: exists already; choose another name, or replace it with --force")
    with progress("exporting"):
        written = zoo_at(zoo).export(model, output)
    say(f"wrote {cells.safe(str(written))} ({cells.size(written.stat().st_size)})")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(export)
