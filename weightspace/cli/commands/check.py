"""`weightspace check`: whether a zoo is what its catalog says, and what can be mended."""

from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import KEEPING, Backend, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.zoo.keeping.findings import CheckReport

PLACE = 25

_FINDINGS = {
    "kind": Column("kind"),
    "what": Column("what is wrong", cells.short, whole=False),
    "where": Column("where", cells.short, whole=False),
    "advice": Column("what can be done", cells.short, whole=False, rank=1),
    "mendable": Column("--repair", lambda is_mendable: "mends it" if is_mendable else "", rank=2),
}


def check(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the content of weights; look at headers, sizes and times.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended, and tell what is left.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", show_default=False, help="Processes; by default one a core.")
    ] = None,
    backend: Backend = "local",
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Verify the catalog, the store and the files, and mend them.

    Every row is compared with the others, every weight with its hash and its statistics. Prints what is wrong, and ends with 1 where anything is. With --repair, rows that point nowhere go, what follows from other rows or from sound files is written anew, damaged files of the store are replaced from another copy; weights are never deleted, and what is damaged is moved to .weightspace/damaged.

    Examples:
      weightspace check
      weightspace check --quick --format json
      weightspace check --repair
    """
    from weightspace.zoo.keeping.check import check as run

    with progress("checking") as bar:
        report = run(zoo_at(zoo), quick=quick, repair=repair, jobs=jobs, backend=backend, progress=bar.update)
    print_data([one.row() for one in report.findings], format, _FINDINGS)
    if report.mended:
        say(f"mended {cells.counted(len(report.mended), 'fault')}:")
        for one in report.mended:
            say(f"  {one.kind}: {cells.safe(one.where)}: {cells.safe(one.what)}")
    say(_summary(report, quick), style="dim")
    if not report.is_sound:
        raise typer.Exit(1)


def _summary(report: "CheckReport", quick: bool) -> str:
    mendable = sum(one.is_mendable for one in report.findings)
    found = cells.counted(len(report.findings), "fault") + (f", {mendable:,} of which --repair mends" if mendable else "")
    read = "headers alone" if quick else cells.size(report.bytes_read)
    unread = f"; {cells.counted(report.unread, 'model')} of which only headers were ever read" if report.unread else ""
    looked = f"{cells.counted(report.models, 'model')}, {cells.counted(report.files, 'file')}, {read} in {cells.duration(report.seconds)}"
    return f"{found if report.findings else 'nothing is wrong'} ({looked}{unread})"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=KEEPING)(check)
