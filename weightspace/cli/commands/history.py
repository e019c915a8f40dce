"""`weightspace history`: what changed between the checkpoints of a run, and where something broke."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import ANALYSIS, PICTURES, Force, Format, OutputFormat, ZooFolder, plot_option, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress

PLACE = 45

_LAYERS = {
    "layer": Column("layer", whole=False, least=16),
    "change": Column("change", cells.number, right=True),
    "largest_change": Column("largest", cells.number, right=True),
    "at_step": Column("at step", right=True),
    "norm_before": Column("norm", cells.number, right=True, rank=2),
    "norm_after": Column("after", cells.number, right=True, rank=2),
    "effective_rank_before": Column("rank", cells.number, right=True, rank=3),
    "effective_rank_after": Column("after", cells.number, right=True, rank=3),
    "event": Column("worst event", whole=False, rank=1),
}
_STEPS = {
    "step": Column("step", right=True),
    "layer": Column("layer", whole=False, least=16),
    "change": Column("change", cells.number, right=True),
    "norm": Column("norm", cells.number, right=True),
    "stable_rank": Column("stable rank", cells.number, right=True, rank=2),
    "effective_rank": Column("effective rank", cells.number, right=True, rank=1),
    "dead": Column("dead", right=True, rank=3),
    "silent": Column("silent", right=True, rank=3),
    "not_finite": Column("not finite", right=True, rank=3),
}
_EVENTS = {
    "severity": Column("severity"),
    "step": Column("step", right=True),
    "layer": Column("layer", whole=False, least=16),
    "reason": Column("reason", whole=False),
}


def history(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            show_default=False,
            help="A run's name or key in the catalog, a folder of checkpoints with steps in their names, or checkpoints in order.",
        ),
    ],
    events: Annotated[bool, typer.Option("--events", help="Print what broke, or may have, instead of layers.")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="Print every layer at every step.")] = False,
    layer: Annotated[str, typer.Option("--layer", metavar="GLOB", help="Layers to follow, as in a shell: 'fc*.weight'.")] = "*",
    plot: Annotated[Path | None, plot_option("change by layer and step")] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Show what changed between the checkpoints of a run, layer by layer, and where something broke.

    Change is the norm of the difference to the checkpoint before, as a share of the norm there. Events are NaN and infinities, layers and rows that became zero, norms that jump, sudden loss of rank, variances that blow up, layers that stopped changing; each is told at the first checkpoint that shows it.

    Examples:
      weightspace history run
      weightspace history run --events --format json
      weightspace history run/step-0.safetensors run/step-10.safetensors --layer 'fc*.weight' --plot history.png
    """
    from weightspace.analysis.history import history as followed
    from weightspace.analysis.history.warning_signs import rows
    from weightspace.zoo.runs.checkpoints import checkpoints_of

    if events and steps:
        raise typer.BadParameter("takes no --steps beside it; choose one", param_hint="--events")
    unwritten(plot, force, PICTURES)
    with progress("reading checkpoints"):
        found = followed(checkpoints_of(zoo_at(zoo), run), layer)
    if events:
        print_data(rows(found.events), format, _EVENTS)
    elif steps:
        print_data(found.table, format, _STEPS)
    else:
        print_data(found.summary, format, _LAYERS)
    if format is Format.table:
        told = cells.counted(len(found.events), "event")
        say(f"{len(found.steps)} checkpoints, steps {found.steps[0]} to {found.steps[-1]}: {told}", style="dim")
    if plot is not None:
        print_figure(found.plot(), plot)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(history)
