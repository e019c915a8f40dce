"""`weightspace repair`: an interpolated network whose activations vary as its parents' do."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.commands.barrier import Correction
from weightspace.cli.evaluation import Evaluation, task_of
from weightspace.cli.options import ALIGNMENT, WEIGHTS, Force, Format, OutputFormat, ZooFolder, model_argument, unwritten, zoo_at
from weightspace.cli.output import print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import TaskError
from weightspace.provenance import stated

PLACE = 32


def repair(
    a: Annotated[str, model_argument("A")],
    b: Annotated[str, model_argument("B")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The file to write.")],
    evaluation: Evaluation = None,
    t: Annotated[float, typer.Option("--at", min=0, max=1, metavar="T", help="Where between A (0) and B (1).")] = 0.5,
    correction: Annotated[
        Correction, typer.Option("--repair", help="Reset running statistics alone, or repair activations.")
    ] = Correction.repair,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Interpolate A and an aligned B, and mend the activations.

    Networks between two others have activations that vary too little; each channel gets back the mean and the deviation that lie between its parents' (REPAIR, arXiv:2211.08403). Prints what the network is worth before and after.

    Examples:
      weightspace repair a.safetensors aligned.safetensors --eval tasks:digits -o middle.safetensors
    """
    import weightspace
    from weightspace.analysis.connectivity import repair as run
    from weightspace.analysis.connectivity.paths import line

    mode = correction.mode
    if mode is None:
        raise TaskError("found --repair none, which would do nothing; give reset or repair")
    unwritten(output, force, WEIGHTS)
    here = zoo_at(zoo)
    left, right = here.checkpoint(a), here.checkpoint(b)
    task = task_of(evaluation, left)
    start, end = left.state_dict(), right.state_dict()
    between = line(start, end)(t)
    with progress("repairing"):
        found = run(task, between, start, end, t, mode=mode)
    print_data([{"network": "before", **task.evaluate(between)}, {"network": "after", **task.evaluate(found.state_dict)}], format)
    for note in found.notes:
        say(cells.safe(note))
    recipe = {
        "kind": "repair",
        "mode": mode,
        "t": t,
    }
    weightspace.save(found.state_dict, output, stated(recipe, [left.id, right.id]))
    say(f"wrote {cells.safe(str(output))}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ALIGNMENT)(repair)
