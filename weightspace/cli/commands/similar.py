"""`weightspace similar`: the models nearest to one."""

import enum
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import (
    METANETS,
    PICTURES,
    Colour,
    Force,
    Format,
    Model,
    OutputFormat,
    Where,
    ZooFolder,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress
from weightspace.errors import FormatError

if TYPE_CHECKING:
    import pyarrow as pa

    from weightspace.checkpoint import Checkpoint
    from weightspace.zoo.zoo import Zoo

PLACE = 63


class By(enum.StrEnum):
    """What models are compared by."""

    embedding = "embedding"
    weights = "weights"


_COLUMNS = {"similarity": Column("cosine", cells.number, right=True), "name": Column("model", cells.safe, whole=False)}


def similar(
    model: Model,
    by: Annotated[By, typer.Option("--by", help="Compare what a metanet says of models, or their weights as they stand.")] = By.embedding,
    metanet: Annotated[
        str | None, typer.Option("--metanet", metavar="ID", show_default=False, help="Whose embeddings, where there are several metanets.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="Models at most.")] = 10,
    where: Where = None,
    plot: Annotated[Path | None, plot_option("all embeddings on their two principal axes")] = None,
    colour: Colour = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """List the models nearest to one, by the cosine of their embeddings.

    Embeddings are what 'weightspace embed' left in the catalog; every one is compared, and metrics stand beside. With --by weights: the cosine of all weights of the models of the same architecture, without any alignment, so that a permuted copy is far away; this reads them.

    Examples:
      weightspace similar run-3
      weightspace similar run-3 --where "num_params < 1e6" --plot map.png --colour test_accuracy
      weightspace similar run-3 --by weights --limit 3 --format json
    """
    unwritten(plot, force, PICTURES)
    if by is By.weights and (metanet or plot):
        raise typer.BadParameter("compares no embeddings; leave --metanet and --plot out", param_hint="--by weights")
    here = zoo_at(zoo)
    known = None if plot is None or colour is None else _known(here, colour)
    data: Any = _by_weights(here, model, limit, where) if by is By.weights else here.similar(model, metanet, limit, where)
    print_data(data, format, _columns(data))
    if plot is not None:
        _draw(here, model, metanet, known, colour or "", plot)


def _columns(data: "pa.Table") -> dict[str, Column]:
    """The two that are always there, then the metrics that some row has."""
    rest = [name for name in data.column_names if name not in _COLUMNS and data[name].null_count < data.num_rows]
    return _COLUMNS | {name: Column(cells.safe(name), cells.number, right=True, rank=1) for name in rest}


def _by_weights(zoo: "Zoo", model: str, limit: int, where: str | None) -> "pa.Table":
    """Compare weights, and put the metrics beside."""
    import pyarrow as pa

    from weightspace.analysis.weight_neighbours import weight_cosines
    from weightspace.zoo.model_table import COLUMNS

    page = zoo.page(model).model
    same = f"architecture_id = {page['architecture_id']} and model_id <> {page['model_id']}"
    siblings = zoo.models(f"{same} and (\n{where}\n)" if where else same)
    names, left_out = siblings["name"].to_pylist(), LeftOut()
    with progress("comparing weights"):
        found = weight_cosines(zoo.open(model), _opened(zoo, names, left_out))
    left_out.report("a cosine", is_all=not found)
    known = [name if name in found and math.isfinite(found[name]) else None for name in names]
    order = sorted((at for at, name in enumerate(known) if name is not None), key=lambda at: -found[names[at]])[:limit]
    if not order:
        say("no other model of this architecture", style="dim")
    nearest = siblings.take(pa.array(order, pa.int64()))
    cosines = pa.array([found[names[at]] for at in order], pa.float64())
    metrics = {name: nearest[name] for name in nearest.column_names if name not in COLUMNS}
    return pa.table({"name": nearest["name"], "similarity": cosines, **metrics})


def _opened(zoo: "Zoo", names: list[str], left_out: LeftOut) -> "Iterator[tuple[str, Checkpoint]]":
    for name in names:
        try:
            yield name, zoo.open(name)
        except FormatError as error:
            left_out(name, error)


def _known(zoo: "Zoo", colour: str) -> dict[str, Any]:
    from weightspace.zoo.plotting import values_by_model

    return values_by_model(zoo.models(), colour)


def _draw(zoo: "Zoo", model: str, metanet: str | None, known: Mapping[str, Any] | None, label: str, plot: Path) -> None:
    import numpy as np

    from weightspace.zoo.plotting import embedding_map

    embedded = zoo.embeddings(metanet)
    names = embedded["model"].to_pylist()
    values = None if known is None else [known[name] for name in names]
    own = zoo.page(model).model["name"]
    vectors = np.stack([np.asarray(one, np.float32) for one in embedded["vector"].to_pylist()])
    figure = embedding_map(vectors, values, label=label, title=f"{len(names):,} models, {own} ringed", marked=names.index(own))
    print_figure(figure, plot)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=METANETS)(similar)
