"""`weightspace ls`: what the catalog has."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, PICTURES, Force, Format, OutputFormat, ZooFolder, pairs, plot_option, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.errors import UnknownNameError

if TYPE_CHECKING:
    import pyarrow as pa

PLACE = 13
MOST_METRICS = 6

# Columns of the views, as they are shown; those not named here are shown plainly.
_SHOWN = {
    "name": Column("name", whole=False),
    "id": Column("id", lambda value: value[:8], style="cyan"),
    "num_params": Column("params", cells.count, right=True),
    "num_bytes": Column("size", cells.size, right=True, rank=3),
    "kind": Column("kind", rank=5),
    "format": Column("format", rank=6),
    "run": Column("run", whole=False, rank=4),
    "step": Column("step", right=True, rank=2),
    "model": Column("model", whole=False),
    "path": Column("path", whole=False),
    "size": Column("size", cells.size, right=True),
    "modified": Column("modified", cells.day, rank=2),
    "num_files": Column("files", right=True, rank=5),
    "source": Column("source", rank=2),
    "seed": Column("seed", right=True, rank=3),
    "status": Column("status", rank=2),
    "checkpoints": Column("checkpoints", right=True),
    "last_step": Column("last step", right=True, rank=1),
    "started": Column("started", cells.day, rank=4),
    "reason": Column("reason", style="yellow"),
    "detail": Column("detail", whole=False),
    "advice": Column("advice", whole=False),
    "catalogued": Column("catalogued", cells.day, rank=5),
    "is_finite": Column("", lambda value: {True: "", False: "not finite", None: "not read"}[value], style="yellow", rank=1),
}
_USUAL = {
    "models": ("name", "id", "num_params", "num_bytes", "kind", "format", "run", "step"),
    "runs": ("name", "source", "seed", "status", "checkpoints", "last_step", "started"),
    "files": ("path", "model", "format", "num_files", "size", "modified", "run", "step"),
    "quarantined": ("path", "reason", "detail", "advice"),
}
_EMPTY = {
    "models": "no models; 'weightspace ingest PATH' catalogues checkpoints",
    "runs": "no runs; 'weightspace import SOURCE' brings them from a tracker",
    "files": "no files; 'weightspace ingest PATH' catalogues checkpoints",
    "quarantined": "nothing is quarantined",
}


def ls(
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", show_default=False, help="A condition over the columns, as in SQL.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY[=VALUE]", show_default=False, help="Only models that carry this label.")
    ] = None,
    order_by: Annotated[
        str | None, typer.Option("--order-by", metavar="SQL", show_default=False, help="Columns to sort by; by name if left out.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=0, metavar="N", show_default=False, help="Rows at most.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B,...", show_default=False, help="Columns to print; 'all' for every one.")
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="List runs.")] = False,
    files: Annotated[bool, typer.Option("--files", help="List checkpoint files.")] = False,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="List what was refused or is not finite, with advice.")] = False,
    plot: Annotated[Path | None, plot_option("a histogram of each column of numbers that the table shows")] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """List models, one a row, with their metrics as columns.

    A table shows the usual columns; JSON and CSV hold all of them, unrounded. A metric's column is called like the metric, with its split in front, as in test_accuracy.

    Examples:
      weightspace ls
      weightspace ls --where "num_params < 1e6 and test_accuracy > 0.9" --order-by "test_accuracy desc"
      weightspace ls --tag best --columns name,test_accuracy,licence --format csv
      weightspace ls --quarantined
      weightspace ls --columns num_params,test_accuracy --plot columns.png
    """
    unwritten(plot, force, PICTURES)
    chosen = [what for what, wanted in (("runs", runs), ("files", files), ("quarantined", quarantined)) if wanted] or ["models"]
    what = chosen[0]
    if len(chosen) > 1:
        raise typer.BadParameter(f"--{chosen[0]} and --{chosen[1]} exclude each other")
    if tag and what not in ("models", "files"):
        raise typer.BadParameter(f"--tag does not go with --{what}: labels belong to models")
    data = getattr(zoo_at(zoo), what)(_condition(where, tag or []), order_by=order_by, limit=limit)
    shown_by_table = _chosen(columns, data) if columns else _usual(what, data)
    names = shown_by_table if columns or format is Format.table else data.column_names
    if what == "quarantined" and format is Format.table:
        data = _without_paths(data)
    shown = {name: _SHOWN.get(name) or _metric(name) for name in names}
    # Columns that were asked for stay, however narrow the terminal.
    print_data(data.select(names), format, {name: replace(column, rank=0) for name, column in shown.items()} if columns else shown)
    if format is Format.table:
        say(_tally(what, data) if data.num_rows else _nothing(what, filtered=bool(where or tag)), style="dim")
    if plot is not None:
        from weightspace.zoo.plotting import histograms

        print_figure(histograms(data, shown_by_table), plot)


def _condition(where: str | None, tags: Sequence[str]) -> str | None:
    if not tags:
        return where
    from weightspace.zoo.query import where_tags

    # A bare key asks for the label, whatever its value.
    wanted = {key: value if "=" in text else None for text in tags for key, value in pairs([text], "label").items()}
    # A comment at the end of the condition must not swallow the bracket.
    return where_tags(wanted) + (f" and ({where}\n)" if where else "")


def _chosen(columns: str, data: "pa.Table") -> list[str]:
    if columns == "all":
        return list(data.column_names)
    names = [name.strip() for name in columns.split(",") if name.strip()]
    for name in names:
        if name not in data.column_names:
            raise UnknownNameError.of("column", name, data.column_names)
    return names


def _usual(what: str, data: "pa.Table") -> list[str]:
    """The usual columns without those that say nothing here, then the metrics that most models have."""
    empty = {name for name in data.column_names if data.column(name).null_count == data.num_rows}
    if what == "models" and data.num_rows and set(data.column("kind").unique().to_pylist()) == {"full"}:
        empty.add("kind")
    usual = [name for name in _USUAL[what] if name not in empty or name in _USUAL[what][:2]]
    if what != "models":
        return usual
    after = data.column_names.index("catalogued") + 1
    metrics = sorted((name for name in data.column_names[after:] if name not in empty), key=lambda name: data.column(name).null_count)
    unsound = ["is_finite"] if data.num_rows and not all(data.column("is_finite").to_pylist()) else []
    return [*usual, *unsound, *metrics[:MOST_METRICS]]


def _without_paths(data: "pa.Table") -> "pa.Table":
    """Take the path out of the details, since it stands beside them."""
    import pyarrow as pa

    from weightspace.zoo.query import detail_beside

    details = [detail_beside(path, detail) for path, detail in zip(data["path"].to_pylist(), data["detail"].to_pylist(), strict=True)]
    return data.set_column(data.column_names.index("detail"), "detail", pa.array(details, pa.string()))


def _metric(name: str) -> Column:
    return Column(
        cells.safe(name), lambda value: cells.number(value) if isinstance(value, float) else cells.short(value), right=True, rank=7
    )


def _tally(what: str, data: "pa.Table") -> str:
    if what != "models":
        return cells.counted(
            data.num_rows, {"runs": "run", "files": "file", "quarantined": "entry"}[what], "entries" if what == "quarantined" else None
        )
    params, size = (sum(data.column(name).to_pylist()) for name in ("num_params", "num_bytes"))
    return f"{cells.counted(data.num_rows, 'model')}, {cells.count(params)} parameters, {cells.size(size)}"


def _nothing(what: str, *, filtered: bool) -> str:
    return f"none of the {'models' if what == 'models' else what} fits" if filtered else _EMPTY[what]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(ls)
