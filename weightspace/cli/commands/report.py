"""`weightspace report`: a zoo, or some of its models, as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Force, ZooFolder, unwritten, zoo_at
from weightspace.cli.output import say, write

PLACE = 15


def report(
    query: Annotated[
        str | None,
        typer.Argument(metavar="[QUERY]", show_default=False, help="A condition over the columns, as in SQL; all models if left out."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path("report.html"),
    force: Force = False,
    zoo: ZooFolder = None,
) -> None:
    """Write models as one HTML page: a table that sorts and filters, a map, a page a model.

    The page is one file that opens offline and loads nothing. A model's page shows its metrics, tags, recipe and files, its layers, what `weightspace spectra --where` has measured, and its lineage. The map is made of embeddings where the catalog has some (`weightspace embed`), else of statistics of the weights.

    Examples:
      weightspace report
      weightspace report "num_params < 1e6" -o small.html
    """
    from weightspace.zoo.report.report import write_report

    unwritten(output, force, (".html",))
    place = write_report(zoo_at(zoo), output, where=query)
    say("open it in a browser; it needs nothing else", style="dim")
    write([f"{cells.safe(str(place))}\n"])


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(report)
