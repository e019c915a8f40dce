"""`weightspace embed`: a metanet's vectors of the models of a query, kept in the catalog."""

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import METANETS, Format, MetanetFile, OutputFormat, Where, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
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
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Read the models of a query with a metanet, and keep its vectors in the catalog for `similar` and `suggest`.

    Examples:
      weightspace embed --metanet predictor.safetensors --where "run is not null"
    """
    import torch

    from weightspace.cli.networks import batches_of, networks_of
    from weightspace.metanets import load_metanet, metanets

    here, left_out = zoo_at(zoo), LeftOut()
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
    here.record_embeddings(opened.id, family.name, vectors)
    rows = [{"model": name, "length": len(vector), "norm": float(torch.tensor(vector).norm())} for name, vector in vectors.items()]
    print_data(rows, format, _COLUMNS)
    say(f"{cells.counted(len(rows), 'vector')} kept under metanet {opened.id[:12]}; weightspace similar MODEL", style="dim")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=METANETS)(embed)
