"""`weightspace match`: one network's neurons put in the order of another's."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import Evaluation, needs_task, task_of
from weightspace.cli.options import (
    ALIGNMENT,
    WEIGHTS,
    Force,
    Format,
    OutputFormat,
    Seed,
    SpecFile,
    ZooFolder,
    model_argument,
    spec_of,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.cli.settings import settings_of
from weightspace.provenance import stated

if TYPE_CHECKING:
    from weightspace.analysis.matching import Match

PLACE = 30

_COLUMNS = {
    "method": Column("method"),
    "l2_before": Column("distance", cells.number, right=True),
    "l2_after": Column("after", cells.number, right=True),
    "reduction": Column("less", lambda value: f"{value:.1%}", right=True),
    "null": Column("by chance", lambda value: "" if value is None else f"{value:.1%}", right=True),
    "cosine_before": Column("cosine", cells.number, right=True, rank=2),
    "cosine_after": Column("after", cells.number, right=True, rank=2),
    "sweeps": Column("sweeps", right=True, rank=3),
    "stopped": Column("stopped", rank=4),
}


def match(
    a: Annotated[str, model_argument("A")],
    b: Annotated[str, model_argument("B")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Write the moved B as safetensors.")
    ] = None,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="How: weight, activation, straight_through, ...")] = "weight",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", show_default=False, help="An option of the method, such as restarts=5."),
    ] = None,
    spec: SpecFile = None,
    null: Annotated[
        int,
        typer.Option(
            "--null",
            min=0,
            metavar="N",
            help="Also match N pairs of random networks with the same spectra: the distance that chance removes.",
        ),
    ] = 0,
    evaluation: Evaluation = None,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Put the neurons of B in the order of A's.

    Finds permutations (and signs, where activations are odd) of B's neurons that bring its weights nearest to A's and leave its function as it is. The axes' names come from the catalog, from a known architecture, or from --spec.

    Examples:
      weightspace match a.safetensors b.safetensors -o aligned.safetensors
      weightspace match a.safetensors b.safetensors --option restarts=5 --null 3 --format json
    """
    import torch

    import weightspace
    from weightspace.analysis.matching import match as run
    from weightspace.symmetry import act

    unwritten(output, force, WEIGHTS)
    here = zoo_at(zoo)
    left, right = here.checkpoint(a), here.checkpoint(b)
    named = spec_of(spec, here, a, left)
    options = _options(method, option or [])
    if needs_task(method):
        options["task"] = task_of(evaluation, right)
    with progress("matching"):
        found = run(left, right, named, method, generator=torch.Generator().manual_seed(seed), **options)
    by_chance = None
    if null:
        from weightspace.analysis.matching.null import null_reduction

        with progress("matching random networks"):
            by_chance = null_reduction(left, right, named, draws=null, generator=torch.Generator().manual_seed(seed)).mean
    row = {**_row(found), "null": by_chance}
    print_data([row], format, _COLUMNS if null else {key: column for key, column in _COLUMNS.items() if key != "null"})
    kept = {key: row[key] for key in ("l2_before", "l2_after", "reduction", "cosine_before", "cosine_after") if row[key] is not None}
    parameters = {"method": method, "seed": seed, "options": _options(method, option or [])}
    if here.record_pair(left, right, kept if by_chance is None else {**kept, "null": by_chance}, measure="match", parameters=parameters):
        say("kept in the catalog, in pair_measurements")
    for group, count in found.ties.items():
        say(f"{cells.safe(group)}: {count} members could change places without any loss")
    if output is not None:
        recipe = {
            "kind": "match",
            "method": method,
            "seed": seed,
            "options": _options(method, option or []),
        }
        weightspace.save(act(found.element, right), output, stated(recipe, [left.id, right.id]))
        say(f"wrote {cells.safe(str(output))}")


def _options(method: str, texts: list[str]) -> dict[str, Any]:
    """Read what a method is to be told.

    Raises:
        UnknownNameError: no such method, or it has no such option.
        RecordError: a value of another type than the option's.
    """
    from weightspace.analysis.matching.match import methods

    parameters = inspect.signature(methods[method]).parameters.values()
    settable = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("generator", "task", "masks")}
    return settings_of(texts, settable, f"method '{method}'")


def _row(found: "Match") -> dict[str, Any]:
    return {
        "method": found.method,
        "l2_before": found.l2_before,
        "l2_after": found.l2_after,
        "reduction": found.reduction,
        "cosine_before": found.cosine_before,
        "cosine_after": found.cosine_after,
        "sweeps": found.sweeps,
        "stopped": found.stopped,
        "objective": list(found.objective),
        "restarts": list(found.restarts),
        "ties": dict(found.ties),
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ALIGNMENT)(match)
