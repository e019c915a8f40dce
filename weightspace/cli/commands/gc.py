"""`weightspace gc`: removes what nobody needs from the zoo's house."""

from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say

PLACE = 23

_COLUMNS = {
    "path": Column("file", cells.safe, whole=False, style="cyan"),
    "why": Column("why"),
    "bytes": Column("size", cells.size, right=True),
}


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="MINUTES", help="Spare what came, or was asked for, more lately than this.")
    ] = 60,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Remove what nobody needs from the zoo's own folder and store.

    That is weights in the store that the catalog does not name (any more), scratch files of processes that were killed, and cached results about tensors that are forgotten. What a compact model is based on is needed as long as the model is. Files elsewhere are never touched.

    Examples:
      weightspace gc --dry-run
      weightspace gc --older-than 1440
    """
    found = zoo_at(zoo).collect_garbage(dry_run=dry_run, spare=60 * older_than)
    print_data([{"path": one.path, "why": one.why, "bytes": one.size} for one in found], format, _COLUMNS)
    verb = "would be removed" if dry_run else "removed"
    say(f"{cells.counted(len(found), 'file')} {verb}, {cells.size(sum(one.size for one in found))}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(gc)
