"""`weightspace stitch`: networks cut and joined to others, planned, made and run."""

import enum
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import Evaluation
from weightspace.cli.options import (
    ANALYSIS,
    PICTURES,
    WEIGHTS,
    Force,
    Format,
    Model,
    Models,
    OutputFormat,
    Seed,
    Where,
    ZooFolder,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import print_data, print_figure, say
from weightspace.cli.progress import progress
from weightspace.cli.stitch_plans import CUTS, WAYS, Asked, Purpose, expect_allowed, joined_only, proposed, read_plan, way_told, write_plan
from weightspace.cli.stitched import columns_of, keep, parents_told, realised, rows_told, task_of_kept, trained, whole_network
from weightspace.cli.stitching import Material, material_of
from weightspace.errors import AnalysisError

if TYPE_CHECKING:
    from weightspace.analysis.stitching.plan import Plan
    from weightspace.zoo.zoo import Zoo

PLACE = 44
PLANS = (".yaml", ".yml")


class Distil(enum.StrEnum):
    """What a family's routes learn from its largest network."""

    hard = "hard"
    soft = "soft"
    none = "none"


Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--module",
        metavar="MODULE:FUNCTION",
        show_default=False,
        help="Builds the module of a model that does not say how itself; once for all of these, or once for each in order.",
    ),
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="CUT:CUT", show_default=False, help="Where the first model is left, and where the second is entered."),
]
As = Annotated[
    Purpose | None,
    typer.Option(
        "--as",
        show_default=False,
        help="Two models joined at one place each (pairs), all sizes between several models (family), or one network of pieces of many (reassembly).",
    ),
]
KindName = Annotated[
    str,
    typer.Option(
        "--kind",
        metavar="KIND",
        help="How stitches are found: linear, low_rank, orthogonal, permutation, ..., and controls such as random.",
    ),
]
Options = Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", show_default=False, help="A setting of the kind.")]
Bias = Annotated[
    str, typer.Option("--bias", metavar="HOW", help="A bias for each unit (units), or for each at each pixel or token (places).")
]
Share = Annotated[
    str, typer.Option("--share", metavar="HOW", help="Whether joins of a family have stitches of their own, joint or averaged.")
]
MaxFlops = Annotated[
    int | None, typer.Option("--max-flops", min=1, metavar="N", show_default=False, help="FLOPs of one example at most, stitches included.")
]
MaxParams = Annotated[
    int | None, typer.Option("--max-params", min=1, metavar="N", show_default=False, help="Parameters at most, stitches included.")
]
Blocks = Annotated[int, typer.Option("--blocks", min=2, metavar="K", help="Blocks of each network in a reassembly.")]


def allow_option(what: str) -> Any:
    """The option `--allow`: code that `what` names."""
    return typer.Option("--allow", metavar="MODULE:FUNCTION", show_default=False, help=f"Code of yours that the {what} names and may run.")


group = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@group.command("plan")
def make_plan(
    models: Models = None,
    where: Where = None,
    evaluation: Evaluation = None,
    module: Modules = None,
    purpose: As = None,
    at: At = None,
    kind: KindName = "linear",
    option: Options = None,
    bias: Bias = "places",
    share: Share = "own",
    max_flops: MaxFlops = None,
    max_params: MaxParams = None,
    blocks: Blocks = 4,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The plan to write, a .yaml file.")
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Find where models can be cut and joined, how well that fits, and what it costs.

    One model alone is cut, and its cuts are listed. Of two, every cut of the first is joined to every one of the second; the error is what a stitch misses on examples that it was not found on, as a share of their variance. The plan is a file to read and to change; nothing is made of it yet.

    Examples:
      weightspace stitch plan small.safetensors --module networks:small --eval networks:digits
      weightspace stitch plan small.safetensors large.safetensors --module networks:small --module networks:large --eval networks:digits -o plan.yaml
      weightspace stitch plan small.safetensors large.safetensors --module networks:small --module networks:large --eval networks:digits --as family -o family.yaml
    """
    unwritten(output, force, PLANS)
    here = zoo_at(zoo)
    asked = Asked(
        models or [], where, evaluation, module or [], purpose, at, kind, option or [], bias, share, max_flops, max_params, blocks, seed
    )
    found, plan = proposed(here, asked)
    if plan is None:
        if output is not None:
            raise AnalysisError("a plan needs two models or more, found one; name another to join it to")
        cuts = found.chains[0].cuts
        print_data([{"cut": one.name, "units": one.units, "shape": list(one.shape), "group": one.group} for one in cuts], format, CUTS)
        return
    print_data([way_told(number, way, found.networks) for number, way in enumerate(plan.routes)], format, WAYS)
    if output is not None:
        write_plan(plan, output)


@group.command()
def build(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PLAN|MODEL...", show_default=False, help="A plan, a .yaml file; or the models themselves, as for `stitch plan`."
        ),
    ],
    evaluation: Evaluation = None,
    module: Modules = None,
    purpose: As = None,
    at: At = None,
    kind: KindName = "linear",
    option: Options = None,
    bias: Bias = "places",
    share: Share = "own",
    max_flops: MaxFlops = None,
    max_params: MaxParams = None,
    blocks: Blocks = 4,
    allow: Annotated[list[str] | None, allow_option("plan")] = None,
    steps: Annotated[int, typer.Option("--train", min=0, metavar="STEPS", help="Train for so many steps, one route drawn for each.")] = 0,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=0, metavar="RATE", show_default=False, help="Of training, at its first step.")
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Train stitches alone.")] = False,
    distil: Annotated[Distil, typer.Option("--distil", help="What a family's routes learn from its largest network.")] = Distil.hard,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", show_default=False, help="In the catalog.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="A .safetensors file to write as well.")
    ] = None,
    plot: Annotated[Path | None, plot_option("score against FLOPs of all routes")] = None,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Make a stitched network, and catalogue it with its parents and what each route is worth.

    It is made of a plan, or of two models and --at, or of several and --as. Stitches are found on the examples that the networks learned from and judged on those that they did not see; of a task given with --eval, on every other example each.

    Examples:
      weightspace stitch build small.safetensors large.safetensors --at fc1:fc2 --module networks:small --module networks:large --eval networks:digits -o joined.safetensors
      weightspace stitch build family.yaml --train 20 --name family --plot family.png --allow networks:small --allow networks:large --allow networks:digits
    """
    from weightspace.analysis.stitching.pareto import report
    from weightspace.analysis.stitching.plot import drawn
    from weightspace.analysis.stitching.saving import checkpoint_of_patchwork, write

    unwritten(output, force, WEIGHTS)
    unwritten(plot, force, PICTURES)
    here = zoo_at(zoo)
    asked = Asked(
        sources, None, evaluation, module or [], purpose, at, kind, option or [], bias, share, max_flops, max_params, blocks, seed
    )
    plan, found = _planned(here, asked, allow or [])
    patchwork, members = realised(plan, found)
    with progress("judging"):
        before = report(patchwork, found.test)
    training: dict[str, Any] | None = None
    after = before
    if steps:
        patchwork, training = trained(patchwork, found, steps, learning_rate, freeze, distil.value, plan.seed)
        with progress("judging"):
            after = report(patchwork, found.test, before=before)
    patchwork.use(after.best().route)
    told = {
        "purpose": plan.purpose,
        "layer": {"kind": plan.kind, "settings": dict(plan.settings), "bias": plan.bias, "share": plan.share},
        "seed": plan.seed,
        "training": training,
        "eval": plan.evaluation,
    }
    batch = next(iter(found.fitting.batches))
    checkpoint = checkpoint_of_patchwork(patchwork, [one.member for one in members], batch, told=told)
    if output is not None:
        write(checkpoint, output)
    rows = [*parents_told(patchwork, members, found), *rows_told(after)]
    if output is None or here.catalog.exists():
        title = keep(here, checkpoint, after, name, plan.purpose, members)
    print_data(rows, format, columns_of(after))
    if output is not None:
        say(f"wrote {cells.safe(str(output))}")
    if output is None or here.catalog.exists():
        say(f"kept in the catalog; weightspace stitch run {cells.safe(title)} runs it", style="dim")
    if plot is not None:
        print_figure(drawn(after), plot)


@group.command()
def run(
    model: Model,
    evaluation: Evaluation = None,
    route: Annotated[
        int | None, typer.Option("--route", min=0, metavar="N", show_default=False, help="Which route; by default the one that was best.")
    ] = None,
    max_flops: MaxFlops = None,
    max_latency: Annotated[
        float | None,
        typer.Option(
            "--max-latency", min=0, metavar="MS", show_default=False, help="Milliseconds for one example at most, in a batch of 64."
        ),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Evaluate every route.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", show_default=False, help="Write the network that the route is, as it was, into a .safetensors file."
        ),
    ] = None,
    allow: Annotated[list[str] | None, allow_option("network")] = None,
    plot: Annotated[Path | None, plot_option("score against FLOPs of all routes")] = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Run one route of a stitched network, or all: loss, metric, FLOPs and latency.

    The route is named, or the best one within a budget is taken. A route that is one whole network can be taken out again: bit for bit as it went in, unless it was trained.

    Examples:
      weightspace stitch run family --all --allow networks:small --allow networks:large --eval networks:digits
      weightspace stitch run family --max-flops 200 --allow networks:small --allow networks:large --eval networks:digits
      weightspace stitch run family --route 0 --allow networks:small --allow networks:large --eval networks:digits --export back.safetensors
    """
    from weightspace.analysis.stitching.pareto import report
    from weightspace.analysis.stitching.plot import drawn
    from weightspace.analysis.stitching.saving import anchor, load_patchwork, write

    unwritten(export, force, WEIGHTS)
    unwritten(plot, force, PICTURES)
    if sum(one is not None for one in (route, max_flops or max_latency)) + all > 1:
        raise AnalysisError("--route, a budget and --all are three ways to choose; give one")
    here = zoo_at(zoo)
    checkpoint = here.checkpoint(model)
    with progress("building"):
        kept = load_patchwork(checkpoint, allow=allow or [])
    patchwork, wanted = kept.patchwork, kept.patchwork.route if route is None else route
    patchwork.use(wanted)
    task = task_of_kept(kept, evaluation)
    with progress("judging"):
        found = report(patchwork, task)
    if max_flops is not None or max_latency is not None:
        limits = {"max_flops": max_flops, "max_latency": None if max_latency is None else max_latency / 1000}
        wanted = found.best(**{key: value for key, value in limits.items() if value is not None}).route
    taken = None if export is None else anchor(kept, whole_network(patchwork, wanted), allow=allow or [], parent=checkpoint.id)
    if taken is not None and export is not None:
        write(taken, export)
    print_data(rows_told(found, only=None if all else [wanted]), format, columns_of(found))
    if taken is not None:
        say(f"wrote {cells.safe(str(export))}, id {taken.id[:12]}")
    if plot is not None:
        print_figure(drawn(found), plot)


def _planned(here: "Zoo", asked: Asked, allow: Collection[str]) -> "tuple[Plan, Material]":
    """The plan in a file, or one for the models that are named, with its networks."""
    if len(asked.models) == 1 and Path(asked.models[0]).suffix.lower() in (*PLANS, ".json"):
        plan = read_plan(Path(asked.models[0]))
        given: Mapping[str, Any] = {
            "--as": asked.purpose,
            "--at": asked.at,
            "--kind": asked.kind != "linear",
            "--option": asked.options,
            "--bias": asked.bias != "places",
            "--share": asked.share != "own",
            "--max-flops": asked.max_flops,
            "--max-params": asked.max_params,
        }
        said = next((flag for flag, value in given.items() if value), None)
        if said is not None:
            raise AnalysisError(f"{said} is for planning, and '{asked.models[0]}' is a plan already; leave it out, or change the plan")
        plan = replace(plan, evaluation=asked.evaluation or plan.evaluation, seed=asked.seed or plan.seed)
        expect_allowed(plan, asked.models[0], {*allow, asked.evaluation})
        return plan, material_of(here, plan.models, asked.modules, plan.evaluation)
    if len(asked.models) < 2:
        raise AnalysisError(f"one model alone, '{asked.models[0]}', is stitched to nothing; name another, or a plan that ends in .yaml")
    if asked.at is None and asked.purpose in (None, Purpose.pairs):
        raise AnalysisError(
            "say where to join the models with --at CUT:CUT, or what to make of them with --as; see: weightspace stitch plan"
        )
    found, made = proposed(here, asked)
    assert made is not None
    return joined_only(made), found


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(
        group, name="stitch", rich_help_panel=ANALYSIS,
        help="Cut networks and join them to others: plan, build and run.",
    )  # fmt: skip
