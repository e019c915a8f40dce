"""`weightspace export`: a model as one safetensors file, or the catalog as Parquet tables."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Force, ZooFolder, expect_apart, model_argument, zoo_at
from weightspace.cli.output import say
from weightspace.cli.progress import progress
from weightspace.errors import RecordError, WeightSpaceError

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

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
    here = zoo_at(zoo)
    if output.exists():
        _expect_no_source(here, model, output)
    with progress("exporting"):
        written = here.export(model, output)
    say(f"wrote {cells.safe(str(written))} ({cells.size(written.stat().st_size)})")


def _expect_no_source(zoo: "Zoo", model: str, output: Path) -> None:
    """See that no file is replaced that this model, or one of the catalog, lies in.

    Raises:
        RecordError: it is one.
    """
    from weightspace.zoo.query import stored_path

    expect_apart(output, [zoo.checkpoint(model)])
    if not zoo.catalog.exists():
        return
    for place in dict.fromkeys((Path(os.path.abspath(output)), output.resolve())):  # noqa: PTH100 - as discovery writes paths
        own, beside, *above = (stored_path(one, zoo.folder) for one in (place, *place.parents))
        # A model of several files has one path, that of their folder or of the first of them.
        rows = zoo.sql(
            "select path from files where path in (select unnest(?::varchar[])) or (num_files > 1 and left(path, length(path) - length(parse_filename(path))) = ?)",
            [[own, beside, *above], "" if beside == "." else f"{beside}/"],
        ).to_pylist()
        if any(row["path"] == own or output.resolve() in _files_of(zoo.folder / row["path"]) for row in rows):
            raise RecordError(f"{output}: holds a model of the catalog, which would be lost; choose another name")


def _files_of(path: Path) -> set[Path]:
    """The files that a checkpoint lies in; none where it cannot be opened."""
    from weightspace.formats import open_checkpoint

    try:
        return {file.resolve() for file in open_checkpoint(path).files}
    except WeightSpaceError:
        return set()


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
