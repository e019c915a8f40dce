"""`weightspace duplicates`: the same weights more than once."""

from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say

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


def duplicates(
    tensors: Annotated[bool, typer.Option("--tensors", help="Tensors that stand in several models, instead of whole models.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """List exact duplicates with the bytes they cost.

    Models are the same when their tensors are, whatever the file or its format. With --tensors: tensors shared by models, such as a frozen backbone.

    Examples:
      weightspace duplicates
      weightspace duplicates --tensors --format json
    """
    data = zoo_at(zoo).duplicates(tensors=tensors)
    print_data(data, format, _TENSORS if tensors else _MODELS)
    if format is Format.table:
        wasted = sum(data.column("wasted_bytes").to_pylist())
        what = "tensor" if tensors else "model"
        say(
            f"{cells.counted(data.num_rows, what)}, {cells.size(wasted)} that could be saved" if data.num_rows else f"no {what}s twice",
            style="dim",
        )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(duplicates)
