"""`weightspace optimize`: the values of a recipe that an evaluation scores best."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import judge_at, judge_option, values_of
from weightspace.cli.merging import catalogue, told_health
from weightspace.cli.options import ALIGNMENT, Format, OutputFormat, Seed, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import MergeError, UnknownNameError

if TYPE_CHECKING:
    from weightspace.analysis.merging.optimize import Best, Try
    from weightspace.analysis.merging.search_space import Space
    from weightspace.task import Task
    from weightspace.zoo import Zoo

PLACE = 35
SOURCE = "optimize"


def optimize(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            show_default=False,
            help="A YAML file with {search: \\[low, high]} or {choose: \\[a, b]} in place of some values.",
        ),
    ],
    evaluation: Annotated[str, judge_option("every try")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", show_default=False, help="Merge with the best values into this folder or file."),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help="Which of the numbers counts.")] = "loss",
    maximize: Annotated[bool, typer.Option("--maximize", help="More is better: look for the highest.")] = False,
    tries: Annotated[int, typer.Option("--tries", min=1, metavar="N", help="Merges to evaluate, those of earlier runs among them.")] = 32,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="How to search: gp, random, nelder_mead or differential_evolution.")
    ] = "gp",
    force: Annotated[bool, typer.Option("--force", help="Replace a merge that is there.")] = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Search the values of a recipe that make the best merge.

    Every try is a run in the catalog, with its values and what came of it. An interrupted search goes on: the same command does not evaluate again what is known.

    Examples:
      weightspace optimize search.yaml --eval tasks:digits --tries 20 -o best.safetensors
      weightspace optimize search.yaml --eval tasks:digits --metric accuracy --maximize --method random
    """
    from weightspace.analysis.merging import merge, prepare
    from weightspace.analysis.merging.optimize import optimize as run
    from weightspace.analysis.merging.recipe_text import document
    from weightspace.analysis.merging.search_space import space as space_of

    if output is not None and output.exists() and not force:  # the rest is checked when the merge is made
        raise MergeError(f"{output}: exists already; choose another name, or replace it with --force")
    space = space_of(document(recipe, "recipe")[1])
    here = zoo_at(zoo)
    judge = judge_at(evaluation)
    search = _Search(here, judge, metric, _digest(space, evaluation, here), recipe.stem, seed)
    known = search.known()
    with progress("searching"):
        best = run(space, search.score, method=method, tries=tries, seed=seed, known=known, on_try=search.keep, maximize=maximize)
    _tell(best, metric, maximize, format)
    say(f"{len(best.tries)} tries, {len(best.tries) - search.made} of them known before; best {metric} {best.score:.6g}")
    if output is not None:
        prepared = prepare(best.recipe, here.checkpoint)
        with progress("merging", "tensors") as bar:
            merged = merge(prepared, output, opener=here.checkpoint, spec_of=here.spec, force=force, progress=bar.update)
        told_health(output)
        say(f"wrote {cells.safe(str(output))}")
        catalogue(here, prepared, merged, output, values_of(judge, merged))


def _digest(space: "Space", evaluation: str, zoo: "Zoo") -> str:
    """What tells searches apart: the recipe, the models that it names, and what judges them."""
    import numpy as np
    from blake3 import blake3

    from weightspace.analysis.merging.prepare import open_models
    from weightspace.analysis.merging.recipe import Recipe
    from weightspace.analysis.merging.search_space import key_of

    middle = space.fill(space.at(np.full(len(space.dimensions), 0.5)))
    ids = {name: model.id for name, model in open_models(Recipe.read(middle), zoo.checkpoint).parents.items()}
    return blake3(key_of({"recipe": space.recipe, "models": ids, "evaluation": evaluation}).encode()).hexdigest()[:16]


@dataclass
class _Search:
    """A search whose tries are runs of the catalog.

    Attributes:
        zoo: that keeps them.
        judge: of a merged model.
        metric: the number of the judge's that counts.
        digest: that tells the search from others.
        name: of the recipe.
        seed: of the search.
        made: tries so far, those known before not among them.
        measured: all numbers of the try that is being made.
    """

    zoo: "Zoo"
    judge: "Task | Callable[..., Any]"
    metric: str
    digest: str
    name: str
    seed: int
    made: int = 0
    measured: dict[str, float] = field(default_factory=dict)

    def known(self) -> dict[str, float | None]:
        """What earlier runs of the same search found, by the try's key; what failed may have been mended, so it is tried again."""
        if not self.zoo.catalog.exists():
            return {}
        rows = self.zoo.sql(
            "select runs.tags ->> 'key' as key, metrics.value as value from runs join metrics using (run_id) "
            "where metrics.name = ? and starts_with(runs.key, ?) and runs.status = 'finished'",
            [self.metric, f"{SOURCE}:{self.digest}:"],
        ).to_pylist()
        return {row["key"]: row["value"] for row in rows}

    def score(self, recipe: dict[str, Any]) -> float:
        """Merge and judge."""
        from weightspace.analysis.merging import merge, prepare

        self.measured = {}
        merged = merge(prepare(recipe, self.zoo.checkpoint), opener=self.zoo.checkpoint, spec_of=self.zoo.spec)
        self.measured = values_of(self.judge, merged)
        return self.measured.get(self.metric, math.nan)

    def keep(self, made: "Try") -> None:
        """Record a try.

        Raises:
            UnknownNameError: the judge measures no such metric; no other try would.
        """
        from weightspace.zoo.metrics import Metric
        from weightspace.zoo.runs.run import Run, plain_values

        if self.measured and self.metric not in self.measured:
            raise UnknownNameError.of("number of the evaluation", self.metric, self.measured)
        self.made += 1
        run = Run(
            f"{SOURCE}:{self.digest}:{made.key}",
            " ".join([self.name, *map(str, made.values.values())]),
            SOURCE,
            self.seed,
            plain_values(dict(made.values)),
            {"key": made.key, **({"failure": made.failure} if made.failure else {})},
            "failed" if made.score is None else "finished",
            metrics=tuple(Metric(name, value) for name, value in self.measured.items() if math.isfinite(value)),
        )
        self.zoo.record_runs([run])


def _tell(best: "Best", metric: str, maximize: bool, format: Format) -> None:
    """Print all tries, the best first."""
    ordered = sorted(best.tries, key=lambda one: (one.score is None, (-1 if maximize else 1) * (one.score or 0.0)))
    columns = {name: Column(_last(name), cells.number, right=True) for name in best.values}
    columns[metric] = Column(metric, cells.number, right=True)
    if any(one.failure for one in ordered):
        columns["failure"] = Column("failure", whole=False)
    print_data([{**one.values, metric: one.score, "failure": one.failure or ""} for one in ordered], format, columns)


def _last(name: str) -> str:
    """The end of a value's place, which tells most: `models[1].parameters.weight` has a long way before it."""
    return name.replace("parameters.", "")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ALIGNMENT)(optimize)
