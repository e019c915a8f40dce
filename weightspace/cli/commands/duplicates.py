"""`weightspace duplicates`: the same weights more than once."""

from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

PLACE = 20

_MODELS = {
    "wasted_bytes": Column("wasted", cells.size, right=True),
    "copies": Column("copies", right=True),
    "name": Column("model", whole=False),
    "paths": Column("paths", whole=False),
}
_TENSORS = {
    "wasted_bytes": Column("wasted", cells.size, right=True),
    "models": Column("models", right=True),
    "shape": Column("shape", cells.shape),
    "dtype": Column("dtype"),
    "nbytes": Column("size", cells.size, right=True),
    "tensor_id": Column("tensor_id", right=True, rank=1),
}

_NEAR = {
    "saved_bytes": Column("saved", cells.size, right=True),
    "model": Column("model", whole=False, least=12),
    "base": Column("as a difference from", whole=False, least=12),
    "bytes": Column("size", cells.size, right=True),
    "delta_bytes": Column("difference", cells.size, right=True),
    "alone_bytes": Column("compressed", cells.size, right=True, rank=1),
    "changed": Column("changed", "{:.0%}".format, right=True, rank=2),
}


def duplicates(
    tensors: Annotated[bool, typer.Option("--tensors", help="Tensors that stand in several models, instead of whole models.")] = False,
    near: Annotated[
        bool, typer.Option("--near", help="Models that would take far fewer bytes as a difference from another; reads their weights.")
    ] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """List exact duplicates with the bytes they cost.

    Models are the same when their tensors are, whatever the file or its format. With --tensors: tensors shared by models, such as a frozen backbone. With --near: what a compressed difference (bits that differ, zstd) from a model that was catalogued earlier would save, beside what compression alone would; the catalog's statistics choose what is compared, and nothing is written.

    Examples:
      weightspace duplicates
      weightspace duplicates --tensors --format json
      weightspace duplicates --near
    """
    if near and tensors:
        raise typer.BadParameter("takes no --tensors beside it; choose one", param_hint="--near")
    if near:
        _print_near(zoo_at(zoo), format)
        return
    data = zoo_at(zoo).duplicates(tensors=tensors)
    print_data(data, format, _TENSORS if tensors else _MODELS)
    if format is Format.table:
        wasted = sum(data.column("wasted_bytes").to_pylist())
        what = "tensor" if tensors else "model"
        say(
            f"{cells.counted(data.num_rows, what)}, {cells.size(wasted)} that could be saved" if data.num_rows else f"no {what}s twice",
            style="dim",
        )


def _print_near(zoo: "Zoo", format: Format) -> None:
    """Compare neighbours, and print what differences would save."""
    from weightspace.analysis.near_duplicates import candidates, near_duplicates, saved_bytes
    from weightspace.cli.statistics import statistics_of

    with progress("comparing models"):
        found = near_duplicates(candidates(statistics_of(zoo, "is_finite")), zoo.open)
    print_data([one.row() for one in found], format, _NEAR)
    if format is Format.table:
        said = f"{cells.counted(len(found), 'model')}, {cells.size(saved_bytes(found))} that differences would save"
        say(said if found else "no models near each other", style="dim")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(duplicates)
