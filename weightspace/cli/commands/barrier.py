"""`weightspace barrier`: the loss between two networks."""

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import Evaluation, evaluation_of, needs_task
from weightspace.cli.options import (
    ALIGNMENT,
    PICTURES,
    Force,
    Format,
    OutputFormat,
    Seed,
    SpecFile,
    ZooFolder,
    model_argument,
    plot_option,
    spec_of,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress

PLACE = 31


class Correction(enum.StrEnum):
    """What is done to the networks on the way before they are measured."""

    none = "none"
    reset = "reset"
    repair = "repair"

    @property
    def mode(self) -> Literal["reset", "repair"] | None:
        """The word that the library knows it by."""
        return None if self is Correction.none else "reset" if self is Correction.reset else "repair"


_COLUMNS = {
    "quantity": Column("quantity"),
    "start": Column("A", cells.number, right=True),
    "end": Column("B", cells.number, right=True),
    "interpolated": Column("barrier", cells.number, right=True),
    "interpolated_at": Column("at", cells.number, right=True),
    "worse": Column("above the worse end", cells.number, right=True),
    "worse_at": Column("at", cells.number, right=True),
}


def barrier(
    a: Annotated[str, model_argument("A")],
    b: Annotated[str, model_argument("B")],
    evaluation: Evaluation = None,
    align: Annotated[
        str | None, typer.Option("--match", metavar="METHOD", show_default=False, help="Align B to A first, by this method.")
    ] = None,
    points: Annotated[int, typer.Option("--points", min=2, metavar="N", help="Networks on the way, the ends included.")] = 25,
    correction: Annotated[
        Correction,
        typer.Option("--repair", help="Correct each network on the way: reset its running statistics, or repair its activations."),
    ] = Correction.none,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Also measure the loss at each network's best softmax temperature.")
    ] = False,
    curve: Annotated[bool, typer.Option("--curve", help="Print the values at every point in place of the barriers.")] = False,
    plot: Annotated[Path | None, plot_option("the curve")] = None,
    spec: SpecFile = None,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Measure the loss on the straight line between A and B.

    The barrier is how far the loss rises above the line between the losses of the ends; how far it rises above the worse end is printed beside it. B is taken as it is, or aligned first with --match.

    Examples:
      weightspace barrier a.safetensors b.safetensors --eval tasks:digits --match weight --plot curve.png
      weightspace barrier a.safetensors b.safetensors --eval tasks:digits --match weight --repair repair --format json
    """
    import torch

    from weightspace.analysis.connectivity import barrier as run
    from weightspace.analysis.matching import match
    from weightspace.symmetry import act

    unwritten(plot, force, PICTURES)
    here = zoo_at(zoo)
    left, right = here.checkpoint(a), here.checkpoint(b)
    given, judge = right, evaluation_of(evaluation, left)
    if align:
        with progress("matching"):
            options: dict[str, Any] = {"task": judge} if needs_task(align) else {}
            found_match = match(left, right, spec_of(spec, here, a, left), align, generator=torch.Generator().manual_seed(seed), **options)
            right = act(found_match.element, right)
    with progress("measuring"):
        found = run(left, right, judge, points, repair=correction.mode, calibrate=calibrate)
    if curve:
        print_data(found.table(), format)
    else:
        rows = [
            {
                "quantity": one.quantity,
                "start": found.values[one.quantity][0],
                "end": found.values[one.quantity][-1],
                "interpolated": one.interpolated,
                "interpolated_at": one.interpolated_at,
                "worse": one.worse,
                "worse_at": one.worse_at,
            }
            for one in found.barriers.values()
        ]
        print_data(rows, format, _COLUMNS)
    kept = {f"{one.quantity}/{what}": getattr(one, what) for one in found.barriers.values() for what in ("interpolated", "worse")}
    parameters = {"eval": evaluation, "match": align, "seed": seed, "points": points, "repair": correction.value, "calibrate": calibrate}
    if here.record_pair(left, given, kept, measure="barrier", parameters=parameters):
        say("kept in the catalog, in pair_measurements")
    for note in found.notes:
        say(cells.safe(note))
    if plot is not None:
        print_figure(found.plot(), plot)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ALIGNMENT)(barrier)
