"""`weightspace intruders`: singular vectors of a tuned model that its base has not, and what becomes of it when they are scaled."""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import Evaluation, evaluation_of
from weightspace.cli.options import (
    ANALYSIS,
    PICTURES,
    WEIGHTS,
    Force,
    Format,
    OutputFormat,
    Seed,
    ZooFolder,
    expect_apart,
    model_argument,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress
from weightspace.errors import AnalysisError, RecordError

if TYPE_CHECKING:
    from weightspace.analysis.intruders import Intruders
    from weightspace.checkpoint import Checkpoint
    from weightspace.zoo import Zoo

PLACE = 42


class Side(enum.StrEnum):
    """Whose singular vectors count."""

    left = "left"
    right = "right"


class Keeps(enum.StrEnum):
    """What a random update has of the real one."""

    norm = "norm"
    spectrum = "spectrum"


class Which(enum.StrEnum):
    """Which intruders of a layer are scaled."""

    top = "top"
    all = "all"
    guarded = "guarded"


class Control(enum.StrEnum):
    """What is scaled in the intruders' place."""

    neighbour = "neighbour"
    energy = "energy"
    random = "random"


_LAYERS = {
    "layer": Column("layer", cells.safe, whole=False),
    "count": Column("intruders", right=True),
    "guarded": Column("guarded", right=True),
    "right": Column("by right vectors", right=True, rank=3),
    "smallest_similarity": Column("least similar", cells.number, right=True),
    "relative_update_norm": Column("change", cells.number, right=True, rank=2),
    "top_intruder": Column("first", cells.plain, right=True, rank=2),
    "top_intruder_sigma": Column("sigma", cells.number, right=True, rank=2),
    "null_count": Column("by chance", cells.number, right=True, rank=1),
    "p": Column("p", cells.number, right=True, rank=1),
    "notes": Column("notes", cells.safe, whole=False, rank=4),
}


def intruders(
    base: Annotated[str, model_argument("BASE")],
    tuned: Annotated[str, model_argument("TUNED")],
    k: Annotated[int, typer.Option("--k", "-k", metavar="N", help="Singular vectors of each layer to look at.")] = 10,
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="The similarity under which a vector is an intruder.")] = 0.5,
    side: Annotated[Side, typer.Option("--side", help="Vectors of the outputs (left, as in the paper) or of the inputs.")] = Side.left,
    layers: Annotated[
        str, typer.Option("--layer", metavar="GLOB", show_default=False, help="Only layers whose names fit, as in '*.attn.*'.")
    ] = "*",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Look at tables of embeddings, too.")] = False,
    null: Annotated[int, typer.Option("--null", min=0, metavar="N", help="Also draw N random updates: p-values.")] = 0,
    null_keeps: Annotated[
        Keeps, typer.Option("--null-keeps", help="What random updates have of the real one: norm and rank, or all singular values.")
    ] = Keeps.norm,
    vectors: Annotated[bool, typer.Option("--vectors", help="Print every singular vector in place of the layers.")] = False,
    mitigate: Annotated[
        float | None,
        typer.Option("--mitigate", metavar="LAMBDA", show_default=False, help="Scale intruders: 0 removes them, 1 changes nothing."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", show_default=False, help="Where to write the mitigated model; of an adapter, a folder."
        ),
    ] = None,
    which: Annotated[
        Which, typer.Option("--which", help="Scale each layer's first intruder, all, or all outside of flat bands.")
    ] = Which.top,
    merged: Annotated[bool, typer.Option("--merged", help="Write the base with the mitigated adapter in it.")] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Keep the ranks of a mitigated adapter, which is then no longer exact.")
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="LAMBDAS", show_default=False, help="Measure the model at these lambdas, such as 0,0.5,1."),
    ] = None,
    evaluation: Evaluation = None,
    control: Annotated[
        list[Control] | None,
        typer.Option("--control", show_default=False, help="With --sweep: scale this, too, in the intruders' place; again for more."),
    ] = None,
    plot: Annotated[Path | None, plot_option("counts by layer (similarities of a single layer), or the sweep,")] = None,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Find singular vectors of TUNED that are like none of BASE's: its intruder dimensions.

    TUNED may be an adapter. Beside the paper's count stands one without vectors that were merely turned within a flat band of the base's spectrum.

    Examples:
      weightspace intruders base.safetensors tuned.safetensors --null 5
      weightspace intruders a.safetensors b.safetensors --layer 'fc1*' --vectors --plot fc1.png
      weightspace intruders a.safetensors b.safetensors --epsilon 0.9 --mitigate 0.5 -o mitigated.safetensors
      weightspace intruders a.safetensors b.safetensors --epsilon 0.9 --sweep 0,0.5,1 --eval tasks:digits --control neighbour
    """
    import torch

    from weightspace.analysis import intruders as library

    if mitigate is not None and sweep is not None:
        raise typer.BadParameter("give --mitigate or --sweep, not both")
    if (mitigate is None) != (output is None):
        raise typer.BadParameter("--mitigate LAMBDA and -o OUT go together")
    if (merged or truncate) and mitigate is None:
        raise typer.BadParameter("--merged and --truncate belong to --mitigate")
    if merged and truncate:
        raise typer.BadParameter("give --merged or --truncate, not both: a merged model has no ranks to keep")
    if control and sweep is None:
        raise typer.BadParameter("--control belongs to --sweep")
    lambdas = _lambdas(sweep) if sweep is not None else []
    unwritten(plot, force, PICTURES)
    here = zoo_at(zoo)
    before, after = here.checkpoint(base), here.checkpoint(tuned)
    scope: dict[str, Any] = {"layers": layers, "embeddings": embeddings, "cache": here.cache}
    generator = torch.Generator().manual_seed(seed)
    if (merged or truncate) and after.kind != "adapter":
        raise AnalysisError(f"{tuned}: is no adapter, expected one with --merged or --truncate; name an adapter, or leave the option out")
    if output is not None:
        expect_apart(output, [before, after])
        _expect_place(output, is_folder=after.kind == "adapter" and not merged, force=force)
        with progress("mitigating"):
            made = library.mitigate(
                before,
                after,
                mitigate or 0.0,
                which.value,
                k=k,
                epsilon=epsilon,
                side=side.value,
                merged=merged,
                truncate=truncate,
                **scope,
            )
            _write(made, output)
        print_data(_scaled(made), format)
        _tell_left_out((made.recipe or {})["left_out"])
        say(f"wrote {cells.safe(str(output))}")
        return
    if lambdas:
        judge = evaluation_of(evaluation, before)
        kinds = [one.value for one in control or []]
        with progress("measuring"):
            swept = library.sweep(
                before, after, lambdas, judge, kinds, which.value, k=k, epsilon=epsilon, side=side.value, generator=generator, **scope
            )
        print_data(swept.table, format)
        for note in swept.notes:
            say(cells.safe(note))
        _draw(swept, plot)
        return
    with progress("decomposing"):
        found = library.intruder_dimensions(
            before, after, k, epsilon, side.value, null=null, null_keeps=null_keeps.value, generator=generator, **scope
        )
    _print(found, vectors, format)
    if layers == "*" and not embeddings:
        _keep(here, before, after, found)
    else:
        say("not kept in the catalog, whose counts are of the layers that are looked at without --layer and --embeddings")
    _draw(found, plot)


def _lambdas(text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{cells.safe(text[:80])}' is no list of numbers; write --sweep 0,0.25,0.5,0.75,1") from None


def _expect_place(output: Path, *, is_folder: bool, force: bool) -> None:
    """See that the result can be written before work begins."""
    if not is_folder:
        unwritten(output, force, WEIGHTS)
    elif output.suffix in WEIGHTS:
        raise RecordError(
            f"{output}: a mitigated adapter is a folder of weights and config; name a folder, or take the merged model with --merged"
        )
    elif output.exists() and not (output.is_dir() and (force or not any(output.iterdir()))):
        raise RecordError(f"{output}: exists already; choose another name, or replace it with --force")


def _write(made: "Checkpoint", output: Path) -> None:
    import weightspace
    from weightspace.adapters import save_adapter
    from weightspace.provenance import stated

    said = stated(made.recipe or {}, made.parents)
    if made.kind == "adapter":
        save_adapter(made, output, said)
    else:
        weightspace.save(made, output, said)


def _scaled(made: "Checkpoint") -> list[dict[str, Any]]:
    """What was scaled in each layer."""
    recipe = made.recipe or {}
    rows = [{"layer": name, "scaled": ranks, "lambda": recipe["lambda"]} for name, ranks in recipe["ranks"].items()]
    if not rows:
        say("no intruders, so nothing was scaled")
    return rows


def _print(found: "Intruders", vectors: bool, format: Format) -> None:
    if vectors:
        print_data(found.vectors, format)
    else:
        shown = _LAYERS if found.null else {key: column for key, column in _LAYERS.items() if key not in ("null_count", "p")}
        print_data(found.table, format, shown)
    by_chance = f"; random updates gave {sum(found.null) / len(found.null):.4g}, p {found.p:.3g}" if found.null and found.p else ""
    say(f"{cells.counted(found.count, 'intruder')} in {cells.counted(len(found.layers), 'layer')}, {found.guarded} guarded{by_chance}")
    _tell_left_out(found.skipped)


def _tell_left_out(skipped: Mapping[str, str]) -> None:
    """Say which layers were not looked at, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        shown_names = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        say(f"left out: {cells.safe(shown_names)}: {cells.safe(reason)}")


def _keep(here: "Zoo", before: "Checkpoint", after: "Checkpoint", found: "Intruders") -> None:
    """Keep the counts as the measure of this name does."""
    from weightspace.analysis.measure import measures

    one = measures["intruders"]
    parameters = {"k": found.k, "epsilon": found.epsilon, "side": found.side}
    if here.record_pair(before, after, found.values, measure=one.name, version=one.version, parameters=parameters):
        say("kept in the catalog, in pair_measurements")


def _draw(result: Any, plot: Path | None) -> None:
    if plot is not None:
        print_figure(result.plot(), plot)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(intruders)
