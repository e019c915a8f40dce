"""`weightspace merge`: many models into one, as a recipe says."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import judge_at, judge_option, values_of
from weightspace.cli.merging import catalogue, told_health
from weightspace.cli.options import ALIGNMENT, Format, OutputFormat, ZooFolder, byte_count, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import MergeError

if TYPE_CHECKING:
    from weightspace.analysis.merging import Plan
    from weightspace.checkpoint import Checkpoint

PLACE = 33

_STEPS = {
    "tensor": Column("tensor"),
    "dtype": Column("dtype"),
    "shape": Column("shape", cells.shape),
    "from": Column("from", lambda names: ", ".join(map(cells.safe, names)), whole=False, rank=3),
    "parameters": Column("parameters", lambda given: _parameters(given), whole=False, rank=2),
}


def merge(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", show_default=False, help="A YAML file; mergekit's are understood as they are.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", show_default=False, help="The folder, or the .safetensors file, to write."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, and write nothing.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Tensors that are worked on at once.")] = 1,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="Where values are combined: cpu, cuda, cuda:1, ...")] = "cpu",
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="BYTES", help="Bytes of tensors in a file, as in 5GB or 500MB.")
    ] = "5GB",
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", show_default=False, help="In place of the recipe's seed of what is left to chance.")
    ] = None,
    evaluation: Annotated[str | None, judge_option("the result")] = None,
    gate: Annotated[
        Path | None,
        typer.Option(
            "--gate",
            metavar="RULES",
            show_default=False,
            help="A YAML file of rules, as in 'accuracy: {min: 0.9}'; a result that breaks one is not catalogued.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a merge that is there.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Merge models as a recipe says, one tensor at a time.

    Everything is checked before work begins. A run that was killed goes on where it stopped. Beside the weights lie a manifest with the ids of all parents, the recipe and a model card; where there is a zoo, the result and its parents are catalogued.

    Examples:
      weightspace merge ties.yaml -o merged/
      weightspace merge ties.yaml --dry-run
      weightspace merge soup.yaml -o soup.safetensors --eval tasks:digits --gate rules.yaml
    """
    from dataclasses import replace

    from weightspace.analysis.merging import Recipe, prepare
    from weightspace.analysis.merging import merge as run
    from weightspace.analysis.merging.gate import Gate

    if output is None and not dry_run:
        raise typer.BadParameter("name what to write with -o OUT, or look at the plan with --dry-run")
    limit = byte_count(shard_size)
    rules = None if gate is None else Gate.read(gate)
    if evaluation is None and rules is not None and rules.asks_evaluation:
        raise MergeError(f"{gate}: has rules about an evaluation; name it with --eval MODULE:FUNCTION")
    read = Recipe.read(recipe)
    here = zoo_at(zoo)
    prepared = prepare(read if seed is None else replace(read, seed=seed), here.checkpoint)
    if dry_run or output is None:
        _tell_plan(prepared.plan, format)
        return
    models = list(prepared.models.ready.values())
    judge = None if evaluation is None else judge_at(evaluation)
    for note in prepared.plan.notes:
        say(cells.safe(note))
    with progress("merging", "tensors") as bar:
        merged = run(
            prepared, output, opener=here.checkpoint, jobs=jobs, device=device, shard_bytes=limit, force=force,
            spec_of=here.spec, progress=bar.update,
        )  # fmt: skip
    found = told_health(output)
    metrics: dict[str, float] = {}
    parents: list[dict[str, float]] = []
    if judge is not None:
        with progress("evaluating"):
            metrics = values_of(judge, merged)
            parents = [values_of(judge, one) for one in models] if rules is not None and rules.asks_parents else []
    _tell_result(merged, prepared.plan.method.name, output, metrics, format)
    if rules is not None:
        values = {"warnings": float(len(found.warnings)), "nonfinite": float(found.nonfinite), **metrics}
        failures = list(rules.failures(values, parents))
        if failures:
            raise MergeError(f"{output} does not pass {gate}: {'; '.join(failures)}; it was written and not catalogued")
    catalogue(here, prepared, merged, output, metrics)


def _tell_result(merged: "Checkpoint", method: str, output: Path, metrics: Mapping[str, float], format: Format) -> None:
    """Print what was made, and how it was judged."""
    columns = {
        "model": Column("model"),
        "id": Column("id", lambda id: id[:12]),
        "method": Column("method"),
        "tensors": Column("tensors", cells.count, right=True, rank=3),
        "bytes": Column("size", cells.size, right=True, rank=2),
        **{name: Column(cells.safe(name), cells.number, right=True) for name in metrics},
    }
    row = {"model": str(output), "id": merged.id, "method": method, "tensors": len(merged), "bytes": merged.num_bytes, **metrics}
    print_data([row], format, columns)


def _tell_plan(plan: "Plan", format: Format) -> None:
    """Print what would be done; what stands in its way goes last, and makes the command fail."""
    rows: list[dict[str, Any]] = [
        {
            "tensor": step.name,
            "dtype": step.dtype,
            "shape": list(step.shape),
            "from": [f"{part.source}" if part.name == step.name else f"{part.source}:{part.name}" for part in step.all_parts],
            "parameters": {} if step.is_copy else {key.rstrip("_"): value for key, value in step.parameters.items()},
        }
        for step in plan.steps
    ]
    # What would stand in every row alike is said once.
    alike = {key for key in ("from", "parameters") if len(rows) > 1 and all(row[key] == rows[0][key] for row in rows)}
    print_data(rows, format, {key: column for key, column in _STEPS.items() if key not in alike})
    made_of = f" of {_STEPS['from'].show(rows[0]['from'])}" if "from" in alike else ""
    say(f"{plan.method.name}{made_of}: {cells.counted(len(rows), 'tensor')}, {cells.size(plan.num_bytes)}")
    if "parameters" in alike and rows[0]["parameters"]:
        say(f"parameters: {_parameters(rows[0]['parameters'])}")
    for note in plan.notes:
        say(cells.safe(note))
    for problem in plan.problems:
        say(f"error: {cells.safe(problem)}", style="red")
    if plan.problems:
        raise typer.Exit(1)


def _parameters(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in given.items())


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "/".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ALIGNMENT)(merge)
