"""`weightspace suggest`: which models to evaluate next, by their embeddings and what is known of others."""

import math
from typing import Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.evaluation import judge_at, judge_option, values_of
from weightspace.cli.options import METANETS, Format, OutputFormat, Seed, Where, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import MetanetError, RecordError

PLACE = 64

_COLUMNS = {
    "order": Column("", right=True),
    "model": Column("model", cells.safe, style="bold", whole=False),
    "value": Column("value", cells.number, right=True),
    "best": Column("best so far", cells.number, right=True),
}


def suggest(
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="The column of the model table that is to be large, as in test_accuracy.")
    ],
    budget: Annotated[int, typer.Option("--budget", min=1, metavar="N", help="How many models to name.")] = 5,
    eval: Annotated[str | None, judge_option("each model named, and record it, before the next is chosen")] = None,
    minimize: Annotated[bool, typer.Option("--minimize", help="The metric is to be small.")] = False,
    metanet: Annotated[
        str | None,
        typer.Option("--metanet", metavar="ID", show_default=False, help="Whose embeddings; by default the only ones there are."),
    ] = None,
    where: Where = None,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Name the models that are worth evaluating next.

    A Gaussian process on the models' embeddings predicts the metric where it is not known; named is what promises the largest improvement. With --eval each is evaluated and its numbers are recorded before the next is chosen, so that the budget goes to the best.

    Examples:
      weightspace suggest --metric test_accuracy --budget 2
    """
    import torch

    from weightspace.metanets.suggesting import suggest as chosen_of

    here = zoo_at(zoo)
    vectors = {row["model"]: row["vector"] for row in here.embeddings(metanet).to_pylist()}
    rows = [row for row in here.models(where).to_pylist() if row["name"] in vectors]
    if not rows:
        raise MetanetError("no model of the query has an embedding; run 'weightspace embed' first, or widen --where")
    name = metric.rpartition("_")[2]
    names = [row["name"] for row in rows]
    points = torch.tensor([vectors[one] for one in names])
    known = torch.tensor([_number(row.get(metric)) for row in rows])
    judge = judge_at(eval) if eval is not None else None
    generator = torch.Generator().manual_seed(seed)
    made: list[dict[str, Any]] = []
    failed: set[int] = set()
    if judge is None:
        made = [
            {"order": at, "model": names[one]}
            for at, one in enumerate(chosen_of(points, known, budget, maximize=not minimize, generator=generator), 1)
        ]
    else:
        with progress("evaluating"):
            for at in range(1, budget + 1):
                open_ = [one for one in range(len(names)) if one not in failed]
                [one] = chosen_of(points, known, 1, maximize=not minimize, allowed=open_, generator=generator)
                values = values_of(judge, here.open(names[one]))
                found = values.get(metric, values.get(name))
                if found is None:
                    raise RecordError(f"'{eval}' says {', '.join(sorted(values))}, not '{metric}'; name one of them by --metric")
                if math.isfinite(found):
                    here.record(names[one], metrics={metric: found})
                    known[one] = found
                else:  # it fell apart: nothing to record, and nothing to try again
                    failed.add(one)
                reached = known[known.isfinite()]
                best = float(reached.min() if minimize else reached.max()) if len(reached) else None
                made.append({"order": at, "model": names[one], "value": found if one not in failed else None, "best": best})
    print_data(made, format, {column: _COLUMNS[column] for column in made[0]})
    if failed:
        say(f"{cells.counted(len(failed), 'model')} got a value that is not finite, which is not recorded", style="yellow")
    if judge is None and format is Format.table:
        say(
            f"{int((~known.isnan()).sum()):,} of {cells.counted(len(names), 'model')} have {metric}; --eval evaluates what is named",
            style="dim",
        )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=METANETS)(suggest)
