"""`weightspace populate`: many small networks trained at once, straight into the catalog."""

from typing import Annotated, Any

import typer

from weightspace.cli.options import CATALOG, Backend, Format, OutputFormat, Seed, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.cli.settings import settings_of
from weightspace.errors import RecordError, one_line

PLACE = 59

_LISTED = {
    "name": Column("population", style="bold"),
    "summary": Column("what it is", whole=False),
    "settings": Column("settings", whole=False, rank=1),
}
_ELSEWHERE = ("seed", "count", "jobs", "backend", "data")  # settings with options of their own


def populate(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", show_default=False, help="Which population; without it all are listed.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=0, metavar="N", show_default=False, help="How many networks.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", show_default=False, help="A setting of the population; lists are written 8,16."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            show_default=False,
            help="digits, mnist1d, an .npz file with x and y, or a folder of MNIST's idx files.",
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the populations with their settings.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", show_default=False, help="Threads that train; by default one a core.")
    ] = None,
    backend: Backend = "local",
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Train a population of small networks into the catalog.

    Every network has a run with its hyperparameters, seed, metrics and the split that metanets use, and a recipe that trains it again. Networks that are there already are not trained again, so that an interrupted run goes on where it stopped, and a larger count adds to what there is.

    Examples:
      weightspace populate --list
      weightspace populate mlps --count 2 --data digits --set widths=8 --set depths=1 --set steps=0,20
      weightspace populate sirens --count 2 --set per_image=2 --set steps=20 --set psnr_floor=10
    """
    from weightspace.zoo.populations import populations
    from weightspace.zoo.populations.filling import fill, summary_of
    from weightspace.zoo.populations.filling import settings_of as defaults_of

    if listed or name is None:
        print_data([_row(one, summary_of(one), defaults_of(one)) for one in populations], format, _LISTED)
        return
    defaults = defaults_of(name)
    given: dict[str, Any] = {"count": count, "data": data, "jobs": jobs, "backend": backend}
    owner = f"population '{name}'"
    for key in ("count", "data"):
        if given[key] is not None and key not in defaults:
            raise RecordError(f"{owner} has no setting '{key}'; leave --{key} out, and see its settings with: weightspace populate --list")
    for text in setting or []:
        key, _, value = map(str.strip, text.partition("="))
        if key in _ELSEWHERE and key in defaults:
            raise RecordError(f"{owner}: '{key}' has an option of its own; write --{key} {one_line(value, 60) or key.upper()}")
    known = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in defaults.items() if key not in _ELSEWHERE}
    chosen = settings_of([_as_list(text, known) for text in setting or []], known, owner)
    own = {key: value for key, value in given.items() if value is not None and key in defaults}
    with progress("training", "networks") as bar:
        done = fill(zoo_at(zoo), name, progress=bar.update, seed=seed, **own, **chosen)
    failed = f", {done.failed} of them failed and in no split" if done.failed else ""
    say(f"trained {done.networks} networks{failed}; {done.known} were there already")
    row = {"population": name, "networks": done.networks, "checkpoints": done.checkpoints, "known": done.known, "failed": done.failed}
    print_data([row], format)


def _as_list(text: str, defaults: dict[str, Any]) -> str:
    """A setting as YAML has it: a list needs no brackets."""
    key, equals, value = text.partition("=")
    is_list = isinstance(defaults.get(key.strip()), tuple) and not value.strip().startswith("[")
    return f"{key}{equals}[{value}]" if is_list else text


def _row(name: str, summary: str, defaults: dict[str, Any]) -> dict[str, Any]:
    settings = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
    return {"name": name, "summary": summary, "settings": settings}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(populate)
