"""`weightspace train-metanet`: train a metanet to tell a property of networks from their weights."""

import json
from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import (
    METANETS,
    PICTURES,
    WEIGHTS,
    Force,
    Format,
    OutputFormat,
    Seed,
    Where,
    ZooFolder,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress
from weightspace.cli.settings import settings_of
from weightspace.errors import MetanetError

PLACE = 60

_FAMILIES = {
    "family": Column("family", style="bold"),
    "reads": Column("reads"),
    "honours": Column("honours", whole=False),
    "architectures": Column("architectures", rank=1),
    "what": Column("what", whole=False),
    "reference": Column("paper", rank=2),
}
_EXTRA = {"predictor": Column("predictor", style="bold")}


def train_metanet(
    family: Annotated[
        str | None, typer.Argument(metavar="[FAMILY]", show_default=False, help="The kind of metanet; without it they are listed.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="SQL",
            show_default=False,
            help="What to tell: a column of the model table, or an expression such as \"hyperparameters->>'width'\".",
        ),
    ] = None,
    where: Where = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", show_default=False, help="The .safetensors file to write.")
    ] = None,
    head: Annotated[str, typer.Option("--head", metavar="NAME", help="regression, ranking or classification.")] = "regression",
    beside: Annotated[
        list[str] | None,
        typer.Option("--beside", metavar="SQL", show_default=False, help="A number that the head sees beside the weights; repeatable."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", show_default=False, help="A setting of the family.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, metavar="N", help="Passes over the networks, at most.")] = 100,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Networks a step.")] = 32,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0, metavar="RATE", help="At its highest.")] = 1e-3,
    patience: Annotated[int, typer.Option("--patience", min=1, metavar="N", help="Epochs without progress before it stops.")] = 20,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where that is safe.")] = False,
    plot: Annotated[
        Path | None, plot_option("predictions against the truth on networks held out (of classes and rankings the training)")
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Train a metanet on the networks of a query, judge it on ones held out, and catalogue it.

    Networks are split by run (or by the datum that they were fitted to), never by checkpoint; a population's own split is kept. Beside the metanet stands what guessing would give. Interrupted, the same command goes on where it stopped.

    Examples:
      weightspace train-metanet
      weightspace train-metanet statistics --target test_accuracy --where "run is not null" --epochs 5 -o predictor.safetensors --plot held-out.png
    """
    from weightspace.metanets import metanets

    if family is None:
        listed = [
            {
                "family": name,
                "reads": one.reads,
                "honours": ", ".join(sorted(one.honours)),
                "architectures": "any" if one.any_architecture else "those built for",
                "what": one.summary,
                "reference": one.reference,
            }
            for name, one in sorted(metanets.items())
        ]
        print_data(listed, format, _FAMILIES)
        return
    if target is None or output is None:
        lacking = "--target" if target is None else "-o"
        raise MetanetError(
            f"expected what to tell and where to write, found no {lacking}; write as in --target test_accuracy -o p.safetensors"
        )
    unwritten(output, force, WEIGHTS)
    unwritten(plot, force, PICTURES)
    from weightspace.cli.learning import Request, learn
    from weightspace.cli.networks import networks_of
    from weightspace.metanets import Schedule, save_predictor
    from weightspace.provenance import MAX_PARENTS, stated

    schedule = Schedule(epochs, batch_size, learning_rate, patience=patience, precision="bf16" if bf16 else "fp32", seed=seed)
    columns = {"target": target} | {f"beside {at}": expression for at, expression in enumerate(beside or [])}
    request = Request(
        family,
        settings_of(option or [], metanets[family].settings, f"metanet '{family}'"),
        head,
        "target",
        list(columns)[1:],
        schedule,
        seed,
    )
    here, left_out = zoo_at(zoo), LeftOut()
    wanted = f"({where or 'true'}) and ({target}) is not null"
    with progress("reading networks"):
        found = networks_of(here, wanted, left_out, asked=columns, needs_module=metanets[family].reads == "function")
    state = output.with_name(f".{output.stem}.training")
    with progress("training"):
        made = learn(found, request, state, left_out)
    told = {"target": target, "classes": json.dumps(made.classes), "beside": json.dumps(beside or [])}
    recipe = {
        "kind": "metanet", "family": family, "settings": dict(request.settings), "head": head, "target": target, "where": where,
        "beside": beside or [], "networks": dict(made.sizes), "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "patience": patience, "seed": seed,
    }  # fmt: skip
    save_predictor(made.predictor, output, told | stated(recipe, made.taught_by[:MAX_PARENTS]))
    state.unlink(missing_ok=True)
    here.ingest(output)
    judged = {name: value for name, value in made.rows[0].items() if isinstance(value, float) and value == value}
    here.record(str(output), metrics={"test": judged}, tags={"metanet": family, "target": target})
    print_data(made.rows, format, {name: _EXTRA.get(name) or Column(name, cells.number, right=True) for name in made.rows[0]})
    if plot is not None:
        print_figure(made.plot(target), plot)
    sizes = ", ".join(f"{count:,} {name}" for name, count in made.sizes.items())
    say(f"networks: {sizes}; saved and catalogued: weightspace predict MODEL --metanet {output}", style="dim")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-metanet", rich_help_panel=METANETS)(train_metanet)
