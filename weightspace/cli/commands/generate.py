"""`weightspace generate`: new weights from a generator, fitted on what a query finds or taken from the catalog."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import judge_at, judge_option
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import GENERATION, Force, Format, OutputFormat, Seed, Where, ZooFolder, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.cli.settings import settings_of
from weightspace.errors import GenerationError

if TYPE_CHECKING:
    from weightspace.analysis.generation import Kind

PLACE = 68

_LISTED = {
    "generator": Column("generator", style="bold"),
    "learns": Column("learns from"),
    "takes": Column("takes", whole=False),
    "what": Column("what", whole=False),
    "reference": Column("paper", rank=2, whole=False),
    "settings": Column("settings", rank=3, whole=False),
}
_MADE = {"model": Column("model", cells.safe, style="bold", whole=False), "id": Column("id", lambda id: id[:12])}


def generate(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[GENERATOR|MODEL]",
            show_default=False,
            help="A kind of generator, or one in the catalog; without it the kinds are listed.",
        ),
    ] = None,
    where: Where = None,
    count: Annotated[int, typer.Option("--count", min=1, metavar="N", help="How many networks.")] = 1,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="SQL",
            show_default=False,
            help="What networks are made under, a number of each network of the query; or @item, the datum that each was fitted to, or @examples of its data. Repeatable.",
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="VALUE",
            show_default=False,
            help="The value of a condition for what is made, in order; of @item and @examples a model.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", show_default=False, help="A hyperparameter that the networks made differ in, as in width=24."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", show_default=False, help="A setting of the generator.")
    ] = None,
    align: Annotated[
        str | None,
        typer.Option("--align", metavar="HOW", show_default=False, help="Align the networks before: reference, merge or universe."),
    ] = None,
    augment: Annotated[
        int, typer.Option("--augment", min=0, metavar="N", help="Add so many copies of each network, their neurons in random order.")
    ] = 0,
    norms: Annotated[
        str, typer.Option("--norms", metavar="POLICY", help="What becomes of running statistics: generate, fuse or re-estimate.")
    ] = "generate",
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", show_default=False, help="Of the generator in the catalog.")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="MODULE:FUNCTION",
            show_default=False,
            help="Code of yours that a generator of the catalog names and may run.",
        ),
    ] = None,
    evaluation: Annotated[str | None, judge_option("what is made")] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", metavar="FILE", show_default=False, help="Write the evaluation card, an .html file, with the same as .json beside it."
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the kinds with their settings.")] = False,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Make new weights, and catalogue them with what made them.

    A kind of generator is fitted on the networks that --where finds (or through the task they were trained on), and kept in the catalog, where it can be drawn from again by its name. What is made is judged on examples that training did not see, and --card shows it beside the baselines that embarrass: noised checkpoints, the plain mean, a Gaussian.

    Examples:
      weightspace generate --list
      weightspace generate mean --where "run is not null" --count 2 --align reference
    """
    from weightspace.analysis.generation import generators
    from weightspace.cli.generated import card_task, fit_and_keep, make, opened, write_card
    from weightspace.cli.generating import condition_given, material_of, wish_for

    if listed or source is None:
        print_data([_row(kind) for _, kind in sorted(generators.items())], format, _LISTED)
        return
    unwritten(card, force, (".html",))
    here, left_out, judge = zoo_at(zoo), LeftOut(), None if evaluation is None else judge_at(evaluation)
    if source in generators:
        kind, wished = generators[source], tuple(condition or ())
        chosen = settings_of(option or [], kind.settings, f"generator '{source}'")
        if wished:
            kind.expect_conditions()
        asked = condition_given(here, wished, given or [])
        with progress("reading networks"):
            found = material_of(here, where, kind, wished, left_out)
        left_out.report("networks", is_all=False)
        if card is not None:
            card_task(judge, found.material.like or {})
        with progress("fitting", "steps") as bar:
            kept = fit_and_keep(here, source, found, wished, name, seed, bar.count, align=align, augment=augment, norms=norms, **chosen)
    else:
        fitting = {"--where": where, "--condition": condition, "--option": option, "--align": align, "--augment": augment, "--name": name}
        said = next((flag for flag, value in fitting.items() if value), None)
        if said is not None:
            raise GenerationError(
                f"'{source}' is no kind of generator, and {said} is for fitting one; leave it out, or name one of: {', '.join(sorted(generators))}"
            )
        kept = opened(here, source, allow or [])
        asked = condition_given(here, kept.conditions, given or [])
        if card is not None:
            card_task(judge, kept.fitted.recipe.get("like") or {})
    wish = wish_for(here, kept.fitted, kept.conditions, asked, setting or [])
    with progress("making networks"):
        rows = make(here, kept, count, wish, seed, judge)
    print_data(rows, format, {key: _MADE.get(key) or Column(cells.safe(key), cells.number, right=True) for key in rows[0]})
    if card is not None:
        with progress("judging", "rows") as bar:
            verdict = write_card(here, kept, wish, judge, card, seed, bar.count)
        say(cells.safe(verdict))
    if name is not None and kept.name != name:
        say(f"another model has the name {cells.safe(name)}, so the generator is kept as {cells.safe(kept.name)}")
    wanted = [f"{kept.name}/{seed}-{at}" for at in range(len(rows))]  # or with digits of the id, where other weights have the name
    known = [row["model"] for row, name in zip(rows, wanted, strict=True) if row["model"] not in (name, f"{name}@{row['id'][:8]}")]
    if known:
        say(f"the same weights were in the catalog already, and keep their names there: {cells.safe(', '.join(known))}")
    say(f"kept in the catalog; weightspace generate {cells.safe(kept.name)} draws from it again", style="dim")


def _row(kind: "Kind") -> dict[str, Any]:
    settings = ", ".join(f"{key}={value!r}" for key, value in kind.settings.items())
    learns, takes = (", ".join(sorted(words)) for words in (kind.learns, kind.takes))
    return {
        "generator": kind.name,
        "learns": learns,
        "takes": takes,
        "what": kind.summary,
        "reference": kind.reference,
        "settings": settings,
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=GENERATION)(generate)
