"""`weightspace import`: runs and metrics of an experiment tracker, or the trainings of a model zoo with their networks."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.commands.ingest import row_of
from weightspace.cli.commands.ingest import summary as ingested
from weightspace.cli.options import CATALOG, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import print_data, write
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.zoo.runs.importing import ImportReport

PLACE = 12
FIRST_FEW = 3


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", show_default=False, help="A tracker's folder or file, the address of its server, or a model zoo's folder."
        ),
    ],
    reader: Annotated[
        str | None,
        typer.Option("--reader", metavar="NAME", show_default=False, help="The kind of tracker or zoo, when its content does not tell."),
    ] = None,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Bring in the runs of an experiment tracker, or the networks of a model zoo.

    Reads MLflow (folder, SQLite file or server), Weights & Biases offline folders, trackio, CSV and JSON lines. Runs are matched to catalogued checkpoints by path, time and step, and each checkpoint gets the metrics of its step. Importing again refreshes.

    Tables that 'weightspace export --parquet' wrote are taken in as they are; what this catalog has stays.

    Model zoos are catalogued whole, with labels, metrics, settings and the split that their users share: MNIST-INR (dwsnets), SIREN sets (nfn), small-cnn-zoo, hsg, cnn-wild-park and implicit-zoo. Networks stay where they lie; rows of a matrix are copied into the zoo. Nothing in a file is ever executed.

    Examples:
      weightspace import log.csv
      weightspace import history.jsonl --reader jsonl
      weightspace import siren_mnist_wts
      weightspace import tables
    """
    from weightspace.zoo.exchange import import_zoo, is_parquet

    if reader is None and is_parquet(source):
        with progress("importing"):
            new = import_zoo(zoo_at(zoo), Path(source))
        print_data([{"new_models": new}], format)
        return
    with progress("importing"):
        report = zoo_at(zoo).import_runs(source, reader=reader)
    if format is Format.table:
        write(f"{line}\n" for line in summary(report))
    else:
        matches = [{"run": one.run, "file": str(one.file.path), "step": one.step, "evidence": one.evidence} for one in report.matches]
        row: dict[str, object] = {"runs": report.runs, "points": report.points, "matches": matches, "notes": report.notes}
        print_data([row if report.networks is None else row | {"networks": row_of(report.networks)}], format)


def summary(report: "ImportReport") -> Iterator[str]:
    """Say what an import did, in a few lines."""
    values, matched = cells.counted(report.points, "metric value"), cells.counted(len(report.matches), "checkpoint")
    yield f"{cells.counted(report.runs, 'run')} with {values} imported, {matched} matched"
    if report.networks is not None:
        yield from ingested(report.networks)
    evidence = list(dict.fromkeys(one.evidence for one in report.matches))
    if evidence:
        yield f"  matched by {cells.safe('; '.join(evidence[:FIRST_FEW]))}"
    for note in report.notes[:FIRST_FEW]:
        yield f"  {cells.safe(note)}"
    if len(report.notes) > FIRST_FEW:
        yield f"  and {cells.counted(len(report.notes) - FIRST_FEW, 'more note')}; --format json has all"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import", rich_help_panel=CATALOG)(import_)
