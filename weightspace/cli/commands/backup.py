"""`weightspace backup`: a copy of the zoo that can be made a zoo again."""

from pathlib import Path
from typing import Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.options import KEEPING, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import print_data, say
from weightspace.cli.progress import progress

PLACE = 26


def backup(
    target: Annotated[Path, typer.Argument(metavar="DIR|FILE.tar", show_default=False, help="Where to keep the copy; not below the zoo.")],
    weights: Annotated[bool, typer.Option("--weights", help="Copy the weights of the zoo's own store, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take the place of another zoo's backup.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Copy the catalog, and the store, as they are now.

    Others may read meanwhile; who wants to write waits while the catalog is copied. Into a folder only weights that are not there yet are copied, so that a second backup is quick. A catalog that is damaged is not copied over a sound one.

    Examples:
      weightspace backup ../kept
      weightspace backup ../kept --weights
      weightspace backup ../kept.tar --weights --format json
    """
    from weightspace.zoo.keeping.backup import backup as run

    with progress("copying") as bar:
        report = run(zoo_at(zoo), target, weights=weights, force=force, progress=bar.update)
    row: dict[str, Any] = {
        "path": str(report.path),
        "models": report.models,
        "in_store": report.in_store,
        "stored": report.stored,
        "files": report.files,
        "copied": report.copied,
        "damaged": list(report.damaged),
        "bytes_copied": report.bytes_copied,
        "seconds": report.seconds,
    }
    if format is not Format.table:
        print_data([row], format)
        return
    size, time = cells.size(report.bytes_copied), cells.duration(report.seconds)
    say(f"backed up {cells.counted(report.models, 'model')} to {cells.safe(str(report.path))} ({size} in {time})")
    if report.files:
        say(f"with the weights of {report.stored:,}, in {cells.counted(report.files, 'file')}, {report.copied:,} of them copied now")
    if report.damaged:
        shown = ", ".join(cells.safe(one) for one in report.damaged[:3]) + (", ..." if len(report.damaged) > 3 else "")
        say(f"{cells.counted(len(report.damaged), 'file')} of the store damaged: {shown}; 'weightspace check' tells more", style="yellow")
    if report.stored < report.in_store:
        gone = "their files are gone or damaged" if report.damaged else "their files are gone"
        advice = f"{gone}, see 'weightspace check'" if weights else "--weights copies them, too"
        say(f"the weights of {report.in_store - report.stored:,} in the zoo's own store are not in it; {advice}", style="yellow")
    if report.in_store < report.models:
        say(f"{report.models - report.in_store:,} lie outside of the store; 'weightspace ingest PATH --copy' takes them in", style="dim")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=KEEPING)(backup)
