"""`weightspace measure`: any registered measure, of models, pairs of them, or what they compute."""

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli.evaluation import Evaluation, task_of
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import (
    ANALYSIS,
    PICTURES,
    Backend,
    Force,
    Format,
    Jobs,
    Models,
    OutputFormat,
    Seed,
    Where,
    ZooFolder,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure
from weightspace.cli.progress import progress
from weightspace.cli.settings import settings_of
from weightspace.errors import AnalysisError

if TYPE_CHECKING:
    from weightspace.analysis.measure import Measure, Taking, Values
    from weightspace.zoo.zoo import Zoo

PLACE = 46

_LISTED = {
    "name": Column("measure", style="bold"),
    "of": Column("of"),
    "summary": Column("what it is", whole=False),
    "settings": Column("settings", whole=False, rank=1),
    "reference": Column("reference", whole=False, rank=2),
}


def measure(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", show_default=False, help="Which measure; without it all are listed.")
    ] = None,
    models: Models = None,
    where: Where = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", show_default=False, help="A setting of the measure.")
    ] = None,
    evaluation: Evaluation = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", show_default=False, help="The key to draw, where there are several.")
    ] = None,
    plot: Annotated[Path | None, plot_option("it")] = None,
    jobs: Jobs = None,
    backend: Backend = "local",
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Take a measure of models, of pairs of models, or of what they compute.

    Results of catalogued models are kept in the catalog, in measurements and pair_measurements; with --where all models of a query are measured, or all pairs of them, nothing twice, and models that it cannot be taken of are left out. A pair is taken in both orders where the measure has a direction. Measures of single matrices are taken by `weightspace spectra`.

    Examples:
      weightspace measure
      weightspace measure lipschitz base.safetensors
      weightspace measure cka a.safetensors b.safetensors --eval tasks:digits --plot cka.png
    """
    from weightspace.analysis.measure import Taking, measures
    from weightspace.analysis.measured import Measured

    if name is None:
        print_data([_listed(one) for one in measures.values()], format, _LISTED)
        return
    unwritten(plot, force, PICTURES)
    one = measures[name]
    if one.of == "matrix":
        raise AnalysisError(f"'{name}' is a measure of matrices; take it with: weightspace spectra MODEL --measure {name}")
    settings = settings_of(option or [], one.settings, f"measure '{name}'")
    here = zoo_at(zoo)
    arity = 2 if one.of in ("pair", "task pair") else 1
    if where is None and len(models or []) < arity:
        raise AnalysisError(
            f"'{name}' is taken of {'two models' if arity == 2 else 'a model'}, found {len(models or [])}; name more, or give --where"
        )
    task = task_of(evaluation, here.checkpoint(_first(here, models, where))) if one.of.startswith("task") else None
    taking = Taking(name, settings, seed, task, is_own=evaluation is None)
    parameters = taking.parameters | _code(taking, evaluation)
    found = (
        _over_query(here, one, taking, where, parameters, {"jobs": jobs, "backend": backend})
        if where is not None
        else _of_models(here, one, taking, models or [], parameters)
    )
    result = Measured(one, tuple(names for names, _ in found), tuple(values for _, values in found))
    print_data(result.table, format)
    if plot is not None:
        print_figure(result.plot(key), plot)


def _code(taking: "Taking", evaluation: str | None) -> dict[str, Any]:
    """What results depend on beside settings: the task, or what builds the module, by name and as a digest."""
    from weightspace.cli.digest import function_digest, task_digest

    if taking.task is not None:
        return {"eval": evaluation, "digest": task_digest(taking.task, evaluation)}
    build = taking.settings.get("build")
    return {"digest": function_digest(build)} if build else {}


def _first(here: "Zoo", models: list[str] | None, where: str | None) -> str:
    """A model that the task is made for, where none is named."""
    if models:
        return models[0]
    names: list[str] = here.models(where, limit=1)["name"].to_pylist()
    if not names:
        raise AnalysisError("the query finds no models; widen --where")
    return names[0]


def _over_query(
    here: "Zoo", one: "Measure", taking: "Taking", where: str | None, parameters: dict[str, Any], workers: dict[str, Any]
) -> list[tuple[tuple[str, ...], "Values"]]:
    """Take it over a query; what is known is not computed again."""
    is_pair = one.of in ("pair", "task pair")
    left_out = LeftOut()
    filed: dict[str, Any] = {"measure": one.name, "version": one.version, "parameters": parameters}
    take = functools.partial(here.map_pairs, ordered=not one.is_symmetric) if is_pair else here.map
    with progress("measuring"):
        rows = take(taking, where, **filed, **workers, skip=left_out).to_pylist()
    titles = ("a", "b") if is_pair else ("model",)
    left_out.report(f"'{one.name}'", is_all=not rows)
    if not rows:
        raise AnalysisError("the query finds " + ("fewer than two models" if is_pair else "no models") + "; widen --where")
    return [(tuple(row.pop(title) for title in titles), row) for row in rows]


def _of_models(
    here: "Zoo", one: "Measure", taking: "Taking", models: list[str], parameters: dict[str, Any]
) -> list[tuple[tuple[str, ...], "Values"]]:
    """Take it of models that are named, and keep it where they are catalogued."""
    opened = [(model, here.checkpoint(model)) for model in models]
    found = []
    for group in itertools.combinations(opened, 2 if one.of in ("pair", "task pair") else 1):
        names, checkpoints = zip(*group, strict=True)
        with progress("measuring"):
            values = taking(*checkpoints)
        filed: dict[str, Any] = {"measure": one.name, "version": one.version, "parameters": parameters}
        first, *others = checkpoints
        if not others:
            here.record_measure(first, values, **filed)
        else:
            here.record_pair(first, others[0], {key: value for key, value in values.items() if isinstance(value, int | float)}, **filed)
        found.append((names, values))
    return found


def _listed(one: "Measure") -> dict[str, Any]:
    settings = ", ".join(f"{key}={value!r}" for key, value in one.settings.items())
    return {"name": one.name, "of": one.of, "summary": one.summary, "settings": settings, "reference": one.reference}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(measure)
