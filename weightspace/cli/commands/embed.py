"""`weightspace embed`: a metanet's vectors of the models of a query, kept in the catalog."""

from pathlib import Path
from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import (
    METANETS,
    PICTURES,
    Colour,
    Force,
    Format,
    MetanetFile,
    OutputFormat,
    Where,
    ZooFolder,
    plot_option,
    unwritten,
    zoo_at,
)
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress
from weightspace.errors import MetanetError

PLACE = 61

_COLUMNS = {
    "model": Column("model", cells.safe, style="bold", whole=False),
    "length": Column("length", right=True),
    "norm": Column("norm", cells.number, right=True),
}


def embed(
    metanet: MetanetFile,
    where: Where = None,
    plot: Annotated[Path | None, plot_option("the vectors on their two principal axes")] = None,
    colour: Colour = None,
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Read the models of a query with a metanet, and keep its vectors in the catalog for `similar` and `suggest`.

    Examples:
      weightspace embed --metanet predictor.safetensors --where "run is not null"
      weightspace embed --metanet predictor.safetensors --plot map.png --colour test_accuracy
    """
    unwritten(plot, force, PICTURES)
    import numpy as np
    import torch

    from weightspace.cli.networks import batches_of, networks_of
    from weightspace.metanets import load_metanet, metanets
    from weightspace.zoo.plotting import embedding_map, values_by_model

    here, left_out = zoo_at(zoo), LeftOut()
    known = None if plot is None or colour is None else values_by_model(here.models(), colour)
    opened = here.checkpoint(metanet)
    net = load_metanet(opened)
    family = metanets[net.recipe.name]
    vectors: dict[str, list[float]] = {}
    with progress("embedding"), torch.no_grad():
        found = networks_of(here, where, left_out, needs_module=family.reads == "function")
        for some, weights in batches_of(found, left_out):
            try:
                made = net(weights)
            except MetanetError as error:
                for one in some:
                    left_out(one.row["name"], error)
                continue
            for one, vector in zip(some, made, strict=True):
                if vector.isfinite().all():
                    vectors[one.row["name"]] = vector.tolist()
                else:
                    left_out(
                        one.row["name"],
                        MetanetError("gets a vector that is not finite; its weights may be far larger than those trained on"),
                    )
    left_out.report("vectors", is_all=not vectors)
    values = None if known is None else [known[name] for name in vectors]
    title = f"{cells.counted(len(vectors), 'model')} as metanet {opened.id[:12]} sees them"
    figure = (
        None if plot is None else embedding_map(np.array(list(vectors.values()), np.float32), values, label=colour or "", title=title)
    )  # before anything is kept, since there may be too few models for a map
    here.record_embeddings(opened.id, family.name, vectors)
    rows = [{"model": name, "length": len(vector), "norm": float(torch.tensor(vector).norm())} for name, vector in vectors.items()]
    print_data(rows, format, _COLUMNS)
    say(f"{cells.counted(len(rows), 'vector')} kept under metanet {opened.id[:12]}; weightspace similar MODEL", style="dim")
    if plot is not None and figure is not None:
        print_figure(figure, plot)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=METANETS)(embed)
