"""Stitched networks: made as a plan says, trained, judged, told of and kept in the catalog."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from weightspace.cli import cells
from weightspace.cli.evaluation import judge_at
from weightspace.cli.output import Column
from weightspace.cli.progress import progress
from weightspace.cli.stitching import Material, Network
from weightspace.errors import AnalysisError, TaskError, one_line

if TYPE_CHECKING:
    import torch

    from weightspace.analysis.stitching import Patchwork
    from weightspace.analysis.stitching.pareto import Report
    from weightspace.analysis.stitching.plan import Plan
    from weightspace.analysis.stitching.saving import Kept
    from weightspace.checkpoint import Checkpoint
    from weightspace.task import Task
    from weightspace.zoo.zoo import Zoo

_ROUTES = {
    "route": Column("route", lambda at: "" if at is None else str(at), right=True),
    "network": Column("runs through", cells.safe, style="bold", whole=False),
    "flops": Column("FLOPs", cells.count, right=True),
    "parameters": Column("parameters", cells.count, right=True),
    "latency": Column("µs", lambda seconds: cells.number(None if seconds is None else 1e6 * seconds), right=True),
    "loss": Column("loss", cells.number, right=True, rank=1),
}


def realised(plan: "Plan", found: Material) -> "tuple[Patchwork, list[Network]]":
    """The patchwork of a plan, and its networks in the order of its chains."""
    from weightspace.analysis.stitching.proposing import realise

    with progress("stitching"):
        patchwork, order = realise(plan, found.chains, found.fitting, generator=chance(plan.seed))
    members = [found.networks[at] for at in order]
    patchwork.names = tuple(one.name for one in members)
    return patchwork, members


def trained(
    patchwork: "Patchwork", found: Material, steps: int, rate: float | None, freeze: bool, distil: str, seed: int
) -> "tuple[Patchwork, dict[str, Any]]":
    """A trained copy, and how it was trained: one route alone by the task, several jointly."""
    from weightspace.analysis.stitching.reassembly import fine_tune
    from weightspace.analysis.stitching.training import train

    chosen: dict[str, Any] = {} if rate is None else {"learning_rate": rate}
    with progress("training", "steps") as bar:
        if len(patchwork.routes) == 1:
            made = fine_tune(
                patchwork, found.fitting, steps=steps, stitches_only=freeze, generator=chance(seed), progress=bar.count, **chosen
            )
            return made, {"steps": steps, "freeze": freeze, **chosen}
        if not any(route.is_anchor for route in patchwork.routes):
            distil = "none"
        made, _ = train(
            patchwork, found.fitting, steps=steps, anchor_rate=0.0 if freeze else 1.0, distil=distil, generator=chance(seed),
            progress=bar.count, **chosen,
        )  # fmt: skip
        return made, {"steps": steps, "freeze": freeze, "distil": distil, **chosen}


def rows_told(report: "Report", *, only: Collection[int] | None = None, is_numbered: bool = True) -> list[dict[str, Any]]:
    """Routes as they are printed: their costs, and what they are worth before training and after."""
    return [
        {
            "route": row.route if is_numbered else None,
            "network": row.name,
            "flops": round(row.flops),
            "parameters": row.parameters,
            "latency": None if math.isnan(row.latency) else row.latency,
            "loss": row.loss,
            f"{report.metric}_before": row.score_before,
            report.metric: row.score,
            "front": row.on_front,
        }
        for row in report.rows
        if only is None or row.route in only
    ]


def columns_of(report: "Report") -> dict[str, Column]:
    """The columns of routes in a table."""
    metric = report.metric
    trained = any(row.loss != row.loss_before and not math.isnan(row.loss) for row in report.rows)  # a NaN differs from itself
    before = {f"{metric}_before": Column(f"{cells.safe(metric)} before", cells.number, right=True)} if trained else {}
    front = {"front": Column("front", lambda is_on: "yes" if is_on else "", rank=2)} if len(report.rows) > 1 else {}
    return {**_ROUTES, **before, metric: Column(cells.safe(metric), cells.number, right=True), **front}


def parents_told(patchwork: "Patchwork", members: Sequence[Network], found: Material) -> list[dict[str, Any]]:
    """Rows of the networks that no route of the patchwork is: what it was made of, to compare with."""
    from weightspace.analysis.stitching.pareto import report
    from weightspace.analysis.stitching.patchwork import Patchwork, anchors

    own = {route.pieces[0].chain for route in patchwork.routes if route.is_anchor}
    used = {piece.chain for route in patchwork.routes for piece in route.pieces}
    others = [one for at, one in enumerate(members) if at in used - own]
    if not others:
        return []
    chains = [one.chain for one in others]
    parents = report(Patchwork(chains, [], anchors(chains), [one.name for one in others]), found.test)
    return [{**row, "front": False} for row in rows_told(parents, is_numbered=False)]


def whole_network(patchwork: "Patchwork", route: int) -> int:
    """The chain that a route is.

    Raises:
        AnalysisError: it is stitched.
    """
    found = patchwork.routes[route]
    if not found.is_anchor:
        whole = [str(at) for at, one in enumerate(patchwork.routes) if one.is_anchor]
        hint = (
            f"those that are: --route {', '.join(whole)}" if whole else "this network has none that is; its parents are models of their own"
        )
        raise AnalysisError(f"route {route} is stitched, and --export writes one whole network; {hint}")
    return found.pieces[0].chain


def task_of_kept(kept: "Kept", evaluation: str | None) -> "Task":
    """What a stitched network is judged by: what a user names, or the task of a population that it is made of.

    Raises:
        TaskError: there is none.
    """
    from weightspace.modules import task_builders
    from weightspace.task import Task

    if evaluation is None:
        try:
            return task_builders["stitched"](kept.patchwork, kept.recipe, "test")
        except TaskError:
            known = kept.recipe.get("eval")
            hint = (
                f"it was made with --eval {one_line(known, 120)}, which runs only where you name it"
                if isinstance(known, str)
                else "name one with --eval"
            )
            raise TaskError(f"nothing is known to judge this network by; {hint}") from None
    found = judge_at(evaluation)
    if not isinstance(found, Task):
        raise TaskError(f"'{evaluation}' is a function of a state dict; name a function without arguments that returns a Task")
    return replace(found, module=kept.patchwork)


def keep(zoo: "Zoo", checkpoint: "Checkpoint", report: "Report", name: str | None, purpose: str, networks: Sequence[Network]) -> str:
    """Put a stitched network into the catalog with its parents, what it is worth, and a table of its routes in `measurements`; returns its name."""
    files = [one.checkpoint.path for one in networks if one.checkpoint.path is not None and not _is_there(zoo, one.checkpoint.id)]
    if files:
        with progress("cataloguing parents") as bar:
            zoo.create()
            zoo.ingest(files, progress=bar.update)
    parents = [id for id in checkpoint.parents if _is_there(zoo, id)]
    used = next(row for row in report.rows if row.route == (checkpoint.recipe or {})["route"])
    values = {report.metric.removeprefix("-"): used.score if report.metric != "-loss" else used.loss, "loss": used.loss}
    metrics = {"test": {key: value for key, value in values.items() if math.isfinite(value)}}
    title = name or f"stitched-{checkpoint.id[:6]}"
    id = zoo.add(checkpoint, title, recipe=checkpoint.recipe, parents=parents, metrics=metrics, tags={"stitched": purpose})
    for row in rows_told(report):
        told: Mapping[str, Any] = {key: value for key, value in row.items() if key not in ("route", "front")}
        finite = {key: value for key, value in told.items() if not isinstance(value, float) or math.isfinite(value)}
        zoo.record_measure(checkpoint, finite, measure="stitch", parameters={"route": row["route"]})
    [known] = zoo.sql(f"select name from models where id = unhex('{id}')").column(0).to_pylist()  # the same may be there by another name
    return str(known)


def _is_there(zoo: "Zoo", id: str) -> bool:
    return zoo.catalog.exists() and bool(zoo.sql(f"select 1 from models where id = unhex('{id}')").num_rows)


def chance(seed: int) -> "torch.Generator":
    """A source of chance with a seed.

    Raises:
        AnalysisError: the seed is of more than 64 bits.
    """
    import torch

    if not -(2**63) <= seed < 2**64:
        raise AnalysisError(f"expected a seed of 64 bits at most, found {one_line(str(seed), 60)}; take a smaller one")
    return torch.Generator().manual_seed(seed)


__all__ = ["chance", "columns_of", "keep", "parents_told", "realised", "rows_told", "task_of_kept", "trained", "whole_network"]
