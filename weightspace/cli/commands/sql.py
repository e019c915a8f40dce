"""`weightspace sql`: questions in SQL."""

import itertools
import sys
from typing import Annotated

import typer

from weightspace.cli.options import CATALOG, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, print_rich, print_table, rows_of, say

PLACE = 15


def sql(
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", show_default=False, help="One DuckDB statement; - reads it from stdin.")
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Explain every table and column instead.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Ask the catalog in SQL, read-only.

    The view model_table has one row a model with its metrics as columns, tensor_table one row a tensor of a model with its statistics.

    Examples:
      weightspace sql "select name, num_params from model_table order by num_params desc limit 5"
      weightspace sql "select model, tensor, std from tensor_table where kurtosis > 3" --format csv
      weightspace sql --tables
    """
    if tables:
        _explain(zoo, format)
        return
    if query is None:
        raise typer.BadParameter("give a QUERY, - for stdin, or --tables")
    data = zoo_at(zoo).sql(sys.stdin.read() if query == "-" else query)
    print_data(data, format)
    if format is Format.table and not data.num_rows:
        say("no rows", style="dim")


def _explain(zoo: ZooFolder, format: Format) -> None:
    data = zoo_at(zoo).tables()
    if format is not Format.table:
        print_data(data, format)
        return
    from rich.text import Text

    columns = {"column": Column("", style="cyan"), "type": Column("", style="dim"), "meaning": Column("", whole=False)}
    for number, ((name, meaning), rows) in enumerate(
        itertools.groupby(rows_of(data), key=lambda row: (row["table"], row["table_meaning"]))
    ):
        if number:
            print_rich("")
        print_rich(Text.assemble((name, "bold"), f"  {meaning}"))
        print_table(({**row, "column": f"  {row['column']}"} for row in rows), columns)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(sql)
