"""`weightspace lineage`: who descends from whom among catalogued models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.options import ANALYSIS, PICTURES, Format, OutputFormat, Seed, ZooFolder, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, print_figure, say
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.analysis.lineage import Edge, Entry, Lineage
    from weightspace.zoo.zoo import Zoo

PLACE = 44

_COLUMNS = {
    "parent": Column("parent"),
    "child": Column("child", style="bold"),
    "kind": Column("kind"),
    "probability": Column("probability", cells.number, right=True),
    "direction": Column("direction", cells.number, right=True),
    "weight": Column("weight", cells.number, right=True, rank=1),
    "evidence": Column("evidence", whole=False),
}

_FACTS = """
    select models.name, lower(hex(models.id)) as id, base_model,
           (select list(p.name) from edges join models p on p.model_id = edges.parent_id
                where edges.child_id = models.model_id and edges.evidence = 'recipe') as parents,
           (select any_value(edges.kind) from edges where edges.child_id = models.model_id and edges.evidence = 'recipe') as made,
           (select max(runs.key) from files join runs using (run_id) where files.model_id = models.model_id) as run,
           (select max(step) from files where files.model_id = models.model_id) as step, models.kind as kind
    from models order by models.model_id
"""


def lineage(
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", show_default=False, help="Look at the models of a catalog query alone.")
    ] = None,
    descendants: Annotated[
        str | None, typer.Option("--descendants", metavar="MODEL", show_default=False, help="Only what descends from this model.")
    ] = None,
    ancestors: Annotated[
        str | None, typer.Option("--ancestors", metavar="MODEL", show_default=False, help="Only what this model descends from.")
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, metavar="P", help="Probability from which an edge holds.")] = 0.5,
    refused: Annotated[bool, typer.Option("--refused", help="Also print pairs that were compared and do not hold.")] = False,
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help="Compare weights, or take declarations and hashes alone.")] = True,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", show_default=False, help="Draw the trees into a PNG, SVG or PDF file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    seed: Seed = 0,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Find who descends from whom among the models of the catalog.

    One row an edge, with what was done, its probability, that of its direction (empty where nothing tells: a permuted copy has none) and the evidence. Edges are kept in the catalog.

    Examples:
      weightspace lineage
      weightspace lineage --descendants base --plot family.png
      weightspace lineage --where "num_params < 1000" --no-weights --format json
    """
    import torch

    from weightspace.analysis.lineage import lineage as run
    from weightspace.analysis.lineage.lineage import row

    if descendants is not None and ancestors is not None:
        raise typer.BadParameter("--descendants and --ancestors exclude each other; give one")
    unwritten(plot, force, PICTURES)
    here = zoo_at(zoo)
    entries = _entries(here, where)
    with progress("comparing"):
        generator = torch.Generator().manual_seed(seed)
        found = run(entries, threshold=threshold, weights=weights, cache=here.cache, generator=generator)
    shown: list[Edge] = _shown(here, found, descendants, ancestors)
    if refused:
        shown += [pair for pair in found.pairs if pair.probability < threshold]
    print_data([row(edge) for edge in shown], format, _COLUMNS)
    kept = _keep(here, found)
    families = [family for family in found.families if len(family) > 1]
    say(f"{cells.counted(len(entries), 'model')}, {cells.counted(len(families), 'family', 'families')} of two or more")
    if kept:
        say(f"kept {cells.counted(kept, 'edge')} in the catalog")
    if plot is not None:
        print_figure(found.plot(), plot)


def _entries(zoo: "Zoo", where: str | None) -> "list[Entry]":
    """The models of a query and what the catalog says of their origin."""
    from weightspace.analysis.lineage import Declared, Entry

    chosen = set(zoo.models(where)["name"].to_pylist())
    made = []
    for fact in zoo.sql(_FACTS).to_pylist():
        if fact["name"] in chosen and fact["kind"] != "trainer":
            told = [Declared(parent, fact["made"], "its recipe") for parent in fact["parents"] or ()]
            if fact["base_model"]:
                told.append(Declared(fact["base_model"], "adapter" if fact["kind"] == "adapter" else "finetune", "its card"))
            made.append(Entry(fact["name"], zoo.open(fact["name"]), tuple(told), fact["run"], fact["step"], fact["id"]))
    return made


def _shown(zoo: "Zoo", found: "Lineage", descendants: str | None, ancestors: str | None) -> "list[Edge]":
    if descendants is None and ancestors is None:
        return list(found.edges)
    name: Any = zoo.page(descendants or ancestors or "").model["name"]
    return found.descendants(name) if descendants is not None else found.ancestors(name)


def _keep(zoo: "Zoo", found: "Lineage") -> int:
    """Keep the edges in the catalog, in place of what was inferred of these models before."""
    from weightspace.zoo.edges import Edge as Stored

    edges = [Stored(edge.parent, edge.child, edge.kind, edge.evidence, edge.probability) for edge in found.edges]
    return zoo.record_edges(edges, among=found.names)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(lineage)
