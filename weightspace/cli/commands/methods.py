"""`weightspace methods`: every method there is, with its paper, file and command, and what came of claims about it."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import ANALYSIS, Force, Format, OutputFormat, ZooFolder, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, say

PLACE = 91

_LISTED = {
    "kind": Column("kind"),
    "name": Column("name", style="bold"),
    "what it is": Column("what it is", whole=False, least=30),
    "paper": Column("paper", whole=False, rank=1),
    "command": Column("command", rank=2),
    "claims": Column("tried here", whole=False, rank=3),
}


def methods(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Write them as a markdown page.")
    ] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """List every method with its paper, file and command.

    Matching and merging methods, measures, metanets, generators and stitches, straight from the registries; beside them the claims that `weightspace reproduce` has tried of them.

    Examples:
      weightspace methods
      weightspace methods -o methods.md
    """
    from weightspace.cli.method_table import methods_of, page

    unwritten(output, force, (".md",))
    here = zoo_at(zoo)
    known = here.claims().to_pylist() if here.catalog.exists() else []
    rows = list(methods_of({row["claim"]: row["verdict"] for row in known}))
    if output is None:
        print_data(rows, format, _LISTED)
        return
    output.write_text(page(rows), "utf-8")
    say(f"wrote {cells.safe(str(output))}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(methods)
