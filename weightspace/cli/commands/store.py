"""`weightspace store`: what the zoo's own store holds, kept small or plain."""

from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Format, OutputFormat, Where, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.zoo.store.running import Tended

PLACE = 22
_TOLD = 20  # models with which something is wrong

group = typer.Typer(
    name="store",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The zoo's own store of weights, kept small or plain.",
)

Threads = Annotated[int | None, typer.Option("--jobs", min=1, metavar="N", show_default="as many as there are cores", help="Threads.")]

_FAMILIES = {
    "family": Column("family", lambda name: cells.safe(name) if name is not None else "(without family)", style="cyan", whole=False),
    "models": Column("models", right=True),
    "compact": Column("compact", right=True, rank=1),
    "bytes": Column("weights", cells.size, right=True),
    "kept": Column("kept in", cells.size, right=True),
    "saved": Column("saved", lambda share: f"{share:z.1%}", right=True),
}


@group.command()
def ls(zoo: ZooFolder = None, format: OutputFormat = Format.table) -> None:
    """List the families of models in the store, and what they take.

    A family is what the catalog's edges join, or what is kept as what differs from one another.

    Examples:
      weightspace store ls
      weightspace store ls --format json
    """
    rows = zoo_at(zoo).store_families()
    print_data(rows, format, _FAMILIES)
    if format is Format.table and not rows:
        say("the store is empty; 'weightspace ingest --copy PATH' fills it", style="dim")


@group.command()
def compact(
    where: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be saved.")] = False,
    jobs: Threads = None,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Rewrite models of the store so that they take less, without any loss.

    Each tensor is kept once, a fine-tune as what differs from its parent, the rest compressed; what does not shrink stays as it is. Models open as before. A file goes only when the new one is on the disk and verified, so the run may be ended at any moment. A model with which something is wrong stays as it is, and the command ends with 1.

    Examples:
      weightspace store compact --dry-run
      weightspace store compact --where "num_params > 100" --format json
    """
    with progress("Compacting", "models") as bar:
        done = zoo_at(zoo).compact(where, dry_run=dry_run, jobs=jobs, progress=bar.update)
    _tell(done, "would be compacted" if dry_run else "compacted", format)


@group.command()
def restore(where: Where = None, jobs: Threads = None, zoo: ZooFolder = None, format: OutputFormat = Format.table) -> None:
    """Write compact models of the store as plain files again.

    They are byte for byte what they were before 'store compact'. A model with which something is wrong stays as it is, and the command ends with 1.

    Examples:
      weightspace store restore
    """
    with progress("Restoring", "models") as bar:
        done = zoo_at(zoo).restore_store(where, jobs=jobs, progress=bar.update)
    _tell(done, "restored", format)


def _tell(done: "Tended", what: str, format: Format) -> None:
    for name, why in done.refused[:_TOLD]:
        say(f"{cells.safe(name)}: left as it is: {cells.safe(why)}", style="yellow")
    if len(done.refused) > _TOLD:
        say(f"{len(done.refused) - _TOLD:,} more are left as they are; 'weightspace check' tells what is wrong with them", style="yellow")
    if format is Format.table:
        share = f" ({1 - done.after / done.before:.1%} less)" if done.after < done.before else ""
        say(f"{done.changed:,} of {done.models:,} models {what}: {cells.size(done.before)} before, {cells.size(done.after)} after{share}")
    else:
        row = {"models": done.models, "changed": done.changed, "before": done.before, "after": done.after, "seconds": done.seconds}
        print_data([{**row, "refused": [{"model": name, "why": why} for name, why in done.refused]}], format)
    if done.refused:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, rich_help_panel=CATALOG)
