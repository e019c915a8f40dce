"""`weightspace restore`: a zoo made again from its backup."""

from pathlib import Path
from typing import Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.options import KEEPING, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import print_data, say
from weightspace.cli.progress import progress

PLACE = 27


def restore(
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE.tar", show_default=False, help="What 'weightspace backup' wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the catalog of a zoo that is there; the old one is kept beside it.")
    ] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Make a zoo again from its backup.

    Every file is verified against its hash, and the catalog comes last, in one step; a restore that is broken off changes nothing of a catalog that is there. Weights that are there already stay.

    Examples:
      weightspace restore ../kept --zoo again
      weightspace restore ../kept.tar --zoo . --force
    """
    from weightspace.zoo.keeping.restoring import restore as run

    here = zoo_at(zoo)
    with progress("restoring") as bar:
        report = run(source, here, force=force, progress=bar.update)
    row: dict[str, Any] = {
        "zoo": str(here.folder),
        "models": report.models,
        "files": report.files,
        "copied": report.copied,
        "bytes_copied": report.bytes_copied,
        "kept_aside": report.kept_aside and str(report.kept_aside),
        "seconds": report.seconds,
    }
    if format is not Format.table:
        print_data([row], format)
        return
    size, time = cells.size(report.bytes_copied), cells.duration(report.seconds)
    say(f"restored {cells.counted(report.models, 'model')} in {cells.safe(str(here.folder))} ({size} in {time}, all hashes right)")
    if report.kept_aside:
        say(f"the catalog that was there is {cells.safe(str(report.kept_aside))}; remove it when you no longer need it")
    say("'weightspace check --quick' tells which files outside of the store are not here", style="dim")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=KEEPING)(restore)
