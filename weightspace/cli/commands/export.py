"""`weightspace export`: a model as one safetensors file, or the catalog as Parquet tables."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Force, ZooFolder, model_argument, zoo_at
from weightspace.cli.output import say
from weightspace.cli.progress import progress
from weightspace.errors import RecordError

PLACE = 17


def export(
    model: Annotated[
        str | None,
        model_argument("[MODEL]"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The file to write the model to.")
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option("--parquet", metavar="DIR", show_default=False, help="A new folder to write the catalog's tables to instead."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", show_default=False, help="Of the tables only models that fit, as in 'run is not null'."),
    ] = None,
    force: Force = False,
    zoo: ZooFolder = None,
) -> None:
    """Write a model as safetensors, or the catalog as Parquet tables.

    A model may have any format. The same weights give the same bytes every time. Tables are keyed by content, one folder each, in hive partitions where they are large: DuckDB, Spark and Polars read them, and 'weightspace import DIR' takes them into another zoo.

    Examples:
      weightspace export base -o exported.safetensors
      weightspace export --parquet tables
    """
    if parquet is not None:
        if model is not None or output is not None:
            raise RecordError(
                "--parquet writes the catalog's tables, not one model; leave out MODEL and -o, and choose models with --where"
            )
        _export_tables(zoo, parquet, where)
        return
    if model is None or output is None:
        raise RecordError("say what to write and where: MODEL -o FILE, or --parquet DIR")
    if where is not None:
        raise RecordError("--where chooses rows of tables; give it with --parquet")
    if output.is_dir():
        raise RecordError(f"{output}: is a folder; name the file to write, such as {output / 'model.safetensors'}")
    if output.exists() and not force:
        raise RecordError(f"{output}: exists already; choose another name, or replace it with --force")
    with progress("exporting"):
        written = zoo_at(zoo).export(model, output)
    say(f"wrote {cells.safe(str(written))} ({cells.size(written.stat().st_size)})")


def _export_tables(zoo: Path | None, folder: Path, where: str | None) -> None:
    from weightspace.zoo.exchange import export_zoo

    with progress("exporting"):
        files = export_zoo(zoo_at(zoo), folder, where)
    say(
        f"wrote {cells.counted(len(files), 'file')} to {cells.safe(str(folder))} ({cells.size(sum(file.stat().st_size for file in files))})"
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(export)
