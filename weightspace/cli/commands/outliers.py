"""`weightspace outliers`: models that stand out among those of their architecture."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import ANALYSIS, PICTURES, Force, Format, OutputFormat, Where, ZooFolder, plot_option, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, print_figure, say

PLACE = 45

_COLUMNS = {
    "score": Column("z", cells.number, right=True),
    "model": Column("model", cells.safe, whole=False),
    "layers": Column("layers", right=True),
    "of_layers": Column("of", right=True),
    "reason": Column("first reason", cells.safe, whole=False),
}


def outliers(
    where: Where = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, metavar="Z", help="Distance from the family's median, in robust deviations.")
    ] = 8.0,
    plot: Annotated[Path | None, plot_option("the largest family")] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """List models of which some layers are unlike those of the others of their architecture.

    Norm, kurtosis, largest element, mean and share of zeros of every layer, as the catalog has them, against the family's medians. No weights are read.

    Examples:
      weightspace outliers
      weightspace outliers --where "num_params < 1e6" --threshold 20 --plot outliers.png
    """
    from weightspace.analysis.outliers import outliers as found_in
    from weightspace.analysis.outliers import rows
    from weightspace.cli.statistics import statistics_of

    unwritten(plot, force, PICTURES)
    families = found_in(statistics_of(zoo_at(zoo), where), threshold=threshold)
    data = list(rows(families))
    print_data(data, format, _COLUMNS)
    if format is Format.table:
        looked = sum(len(family.models) for family in families)
        stand = "stands" if len(data) == 1 else "stand"
        say(f"{cells.counted(len(data), 'model')} of {looked} {stand} out, in {cells.counted(len(families), 'architecture')}", style="dim")
    if plot is not None:
        print_figure(families[0].plot(), plot)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(outliers)
