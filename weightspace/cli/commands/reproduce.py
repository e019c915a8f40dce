"""`weightspace reproduce`: published claims, each tried by a small experiment with its baseline beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.left_out import LeftOut
from weightspace.cli.options import ANALYSIS, Backend, Force, Format, Jobs, OutputFormat, ZooFolder, unwritten, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import AnalysisError

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACE = 90

_LISTED = {
    "claim": Column("claim", style="bold"),
    "verdict": Column("verdict"),
    "held": Column("findings held"),
    "statement": Column("what is claimed", whole=False, least=40),
    "source": Column("source", whole=False, rank=1),
    "seconds": Column("seconds", right=True, rank=2),
}
_FOUND = {
    "claim": Column("claim", style="bold"),
    "verdict": Column("verdict"),
    "quantity": Column("finding", whole=False, least=30),
    "value": Column("here", right=True),
    "baseline": Column("baseline", right=True),
    "against": Column("which is", whole=False, rank=1),
    "bar": Column("asked", whole=False),
    "held": Column("held", lambda held: "yes" if held else "no"),
}


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False, help="Claims, as --list names them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every claim that the catalog has no findings of.")] = False,
    again: Annotated[bool, typer.Option("--again", help="With --all, also those that it has.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List the claims, or the named ones, with what came of them.")] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=2, metavar="N", show_default=False, help="Other than each claim asks for.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Write the whole ledger as a markdown page.")
    ] = None,
    jobs: Jobs = None,
    backend: Backend = "local",
    force: Force = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Try published claims: small experiments with their baselines.

    Each claim is tried over some seeds, against bars that were fixed beforehand, and its findings are kept in the catalog's table `claims`: held, held in part, or did not hold. They take seconds to minutes each.

    Examples:
      weightspace reproduce --list
      weightspace reproduce --list relu-scaling
      weightspace reproduce relu-scaling --seeds 2
      weightspace reproduce relu-scaling -o ledger.md
    """
    from weightspace.experiments.claim import claims
    from weightspace.experiments.ledger import page, summary

    here = zoo_at(zoo)
    if not (names or everything or listed or output):
        raise AnalysisError("nothing to try; name claims, or give --all, or --list")
    if names and everything:
        raise AnalysisError("--all tries every claim, and names choose some; give one of the two")
    unwritten(output, force, (".md",))
    known = {row["claim"] for row in here.claims().to_pylist()} if here.catalog.exists() else set()
    named = [claims[name].name for name in names or ()]
    wanted = ([] if listed else named) or [name for name in claims if everything and (again or name not in known)]
    if wanted:
        print_data(_tried(here, wanted, seeds, jobs, backend), format, _FOUND)
    rows = here.claims().to_pylist() if here.catalog.exists() else []
    if listed:
        print_data([row for row in summary(rows) if not named or row["claim"] in named], format, _LISTED)
    if output is not None:
        output.write_text(page(rows), "utf-8")
        say(f"wrote {cells.safe(str(output))}")


def _tried(here: Any, wanted: list[str], seeds: int | None, jobs: int | None, backend: str) -> list[dict[str, Any]]:
    """Try claims, and keep what is found of each as soon as it is there."""
    from weightspace import parallel
    from weightspace.experiments.ledger import Wanted, tried

    left_out, rows = LeftOut(), []
    here.create()
    with progress("trying", unit="claims") as bar:
        found: Iterable[Any] = parallel.run(tried, [Wanted(name, seeds) for name in wanted], jobs=jobs, backend=backend)
        for done, one in enumerate(found, 1):
            if one.refused:
                left_out(one.name, AnalysisError(one.refused))
            else:
                here.record_claims(one.rows)
                rows += one.rows
            bar.count(done, len(wanted))
    left_out.report("findings", is_all=not rows)
    return rows


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=ANALYSIS)(reproduce)
