"""`weightspace ingest`: put checkpoints into the catalog."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Backend, Format, OutputFormat, ZooFolder, pairs, zoo_at
from weightspace.cli.output import print_data, say, write
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.zoo.ingest import Report

PLACE = 11
FIRST_FEW = 3


def ingest(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", show_default=False, help="Checkpoints, and folders to search for them.")
    ],
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", show_default=False, help="Processes; by default one a core.")
    ] = None,
    backend: Backend = "local",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY[=VALUE]", show_default=False, help="Label every model found.")
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", show_default=False, help="Put before the names of new models, as in lpips/.")
    ] = "",
    copy: Annotated[bool, typer.Option("--copy", help="Keep a copy of the weights in the zoo too.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Find checkpoints under paths, read each once and catalogue them.

    Weights stay where they lie. A second run reads only what is new or changed, so an interrupted one just goes on. A few small files are read in this process, whatever --backend says. What is damaged or would need code to be run is set aside with the reason; nothing in a file is ever executed.

    Examples:
      weightspace ingest checkpoints/
      weightspace ingest base.safetensors tuned.safetensors --tag team=vision
      weightspace ingest checkpoints/ --jobs 2 --format json
    """
    tags = pairs(tag or [], "label")
    with progress("reading") as bar:
        report = zoo_at(zoo).ingest(paths, jobs=jobs, backend=backend, tags=tags, copy=copy, prefix=prefix, progress=bar.update)
    if format is Format.table:
        write(f"{line}\n" for line in summary(report))
    else:
        print_data([row_of(report)], format)
    if report.interrupted:
        say("interrupted: everything counted here is safe in the catalog; run the same command again to go on")
        raise typer.Exit(130)


def summary(report: "Report") -> Iterator[str]:
    """Say what an ingest did, in a few lines."""
    parts = [f"{cells.counted(report.catalogued, 'checkpoint')} catalogued ({cells.counted(report.new_models, 'new model')})"]
    if report.redescribed:
        parts.append(f"{report.redescribed:,} with new metadata")
    parts += [f"{number:,} {what}" for number, what in ((report.unchanged, "unchanged"), (report.passed_over, "passed over")) if number]
    yield f"{', '.join(parts)}; {_speed(report)}"
    if report.quarantined:
        yield f"{cells.counted(len(report.quarantined), 'file')} quarantined:"
        for refusal in report.quarantined[:FIRST_FEW]:
            yield f"  {cells.safe(refusal.reason)}: {cells.safe(refusal.detail)}"
        more = len(report.quarantined) - FIRST_FEW
        yield f"  {f'and {more:,} more; ' if more > 0 else ''}'weightspace ls --quarantined' lists all with advice"
    if report.not_copied:
        told = cells.safe(report.not_copied[0].detail)
        yield f"{cells.counted(len(report.not_copied), 'checkpoint')} catalogued, but not copied: {told}{', …' if len(report.not_copied) > 1 else ''}"
    if report.non_finite:
        names = ", ".join(map(cells.safe, report.non_finite[:FIRST_FEW])) + (", …" if len(report.non_finite) > FIRST_FEW else "")
        yield f"{cells.counted(len(report.non_finite), 'model')} with NaN or infinite weights, catalogued and flagged: {names}"


def _speed(report: "Report") -> str:
    read = f"{cells.size(report.bytes_read)} in {cells.duration(report.seconds)}"
    return f"{read}, {report.bytes_read / report.seconds / 1e9:.2f} GB/s" if report.bytes_read > 1e7 and report.seconds > 0 else read


def row_of(report: "Report") -> dict[str, Any]:
    """What an ingest did, for programs."""
    return {
        "catalogued": report.catalogued,
        "new_models": report.new_models,
        "redescribed": report.redescribed,
        "unchanged": report.unchanged,
        "passed_over": report.passed_over,
        "quarantined": [
            {"path": one.place.path, "reason": one.reason, "detail": one.detail, "advice": one.advice} for one in report.quarantined
        ],
        "non_finite": report.non_finite,
        "not_copied": [
            {"path": one.place.path, "reason": one.reason, "detail": one.detail, "advice": one.advice} for one in report.not_copied
        ],
        "bytes_read": report.bytes_read,
        "seconds": report.seconds,
        "interrupted": report.interrupted,
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(ingest)
