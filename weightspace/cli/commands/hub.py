"""`weightspace hub`: models of the Hub catalogued from their headers, models and zoos pushed and pulled."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, Format, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, say
from weightspace.cli.progress import progress
from weightspace.errors import CatalogError

if TYPE_CHECKING:
    from weightspace.zoo.hub import Pushed

PLACE = 70

group = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})

Author = Annotated[str | None, typer.Option("--author", metavar="NAME", show_default=False, help="Of a user or organisation.")]
Search = Annotated[str | None, typer.Option("--search", metavar="TEXT", show_default=False, help="With this in the name.")]
Filter = Annotated[
    list[str] | None, typer.Option("--filter", metavar="TAG", show_default=False, help="With this tag, library or task; may be repeated.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", show_default=False, help="No more than so many.")]
_LISTED = {"repository": Column("repository"), "catalogued": Column("in the catalog", lambda known: "yes" if known else "")}


@group.command()
def ls(
    author: Author = None,
    search: Search = None,
    filter: Filter = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="No more than so many; more are told of.")] = 100,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """List models on the Hub, and say which of them are in the catalog.

    The first 100 that the Hub tells are listed, or as many as --limit says.

    Examples:
      weightspace hub ls --author lab
      weightspace hub ls --search toy --limit 10 --format json
    """
    from weightspace.zoo import hub

    one = zoo_at(zoo)
    paths = one.sql("select path from files where starts_with(path, 'hf:')")["path"].to_pylist() if one.catalog.exists() else []
    known = {path.removeprefix("hf:").partition("@")[0] for path in paths}
    names = list(hub.search(author=author, search=search, filter=filter or (), limit=limit + 1))
    print_data([{"repository": name, "catalogued": name in known} for name in names[:limit]], format, _LISTED)
    if len(names) > limit:
        say(f"the first {limit:,} are listed, there are more; --limit N lists more of them")
    if not names:
        say("the Hub lists no model that fits", style="dim")


@group.command()
def ingest(
    repositories: Annotated[
        list[str] | None, typer.Argument(metavar="[REPO]...", show_default=False, help="As org/name, or hf:org/name@revision/file.")
    ] = None,
    author: Author = None,
    search: Search = None,
    filter: Filter = None,
    limit: Limit = None,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Catalogue models of the Hub from what it says of them and from the headers of their files.

    No weights are read: a model opens by range, tensor by tensor, when something asks for them. A second run reads only what has a new commit, so an interrupted one just goes on. Bases that cards declare become edges, whichever comes first.

    Examples:
      weightspace hub ingest lab/toy
      weightspace hub ingest --author lab --limit 100
    """
    from weightspace.zoo import hub

    wanted: Iterable[str] = repositories or ()
    if author or search or filter:
        wanted = chain(wanted, hub.search(author=author, search=search, filter=filter or (), limit=limit, pinned=True))
    elif not repositories:
        raise CatalogError("nothing to catalogue; name repositories, or search with --author, --search or --filter")
    with progress("reading headers") as bar:
        report = hub.ingest_hub(zoo_at(zoo).catalog, wanted, progress=bar.update)
    row = {
        "catalogued": report.catalogued, "unchanged": report.unchanged, "refused": len(report.refused), "edges": report.edges,
        "files": report.num_files, "bytes_read": report.bytes_read, "seconds": round(report.seconds, 3),
    }  # fmt: skip
    print_data([row], format)
    for refusal in report.refused[:3]:
        say(f"{refusal.reason}: {cells.safe(refusal.detail)}; {cells.safe(refusal.advice)}")
    if len(report.refused) > 3:
        say(f"and {len(report.refused) - 3:,} more; 'weightspace ls --quarantined' lists them")
    if report.interrupted:
        say("interrupted: everything counted here is safe in the catalog; run the same command again to go on")
        raise typer.Exit(130)
    if report.is_all_refused:
        raise typer.Exit(1)


@group.command()
def push(
    to: Annotated[
        str, typer.Option("--to", metavar="REPO", show_default=False, help="The repository, as org/name; made if there is none.")
    ],
    private: Annotated[bool, typer.Option("--private", help="A repository that is made here is for those whom its owner lets in.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A repository that is made here is for everybody.")] = False,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", show_default=False, help="One model as a model repository, or several as a zoo; all by default."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", show_default=False, help="Of the zoo only models that fit, as in 'run is not null'."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Push a model with its card, or models as a zoo with all that the catalog knows; only what is new there is sent.

    One MODEL becomes a model repository; several, --where, or --to datasets/org/name a zoo, which is a data set: Parquet tables keyed by content, and each distinct tensor once. Models that are chosen are added to a zoo that is there; all of them together take the place of what it says. Where files lie on this machine is not told. The token is the one of `hf auth login`.

    Examples:
      weightspace hub push --to lab/zoo --private
      weightspace hub push base --to lab/base --public --dry-run
      weightspace hub push base tuned --to lab/pair --private
    """
    from weightspace.zoo import hub

    if private and public:
        raise CatalogError("--private and --public exclude each other, so nothing was sent; give one of them")
    if not (private or public):
        raise typer.BadParameter("say --private or --public: what a repository is that is made here")
    one, wanted = zoo_at(zoo), models or []
    if wanted and where is not None:
        raise CatalogError("models and --where are two ways to say what to push; give one of them")
    if len(wanted) == 1 and not to.removeprefix("hf:").startswith("datasets/"):
        made = hub.push_model(one, wanted[0], to, private=private, dry_run=dry_run)
    else:
        with progress("pushing", unit="models") as bar:
            made = hub.push_zoo(one, to, models=wanted, where=where, private=private, dry_run=dry_run, progress=bar.update)
    print_data([row for row in _pushed(made)], format)
    if made.unsendable:
        say(
            f"the weights of {cells.counted(len(made.unsendable), 'model')} cannot stand in safetensors and were left out: {cells.safe(made.unsendable[0])}, …"
        )
    if dry_run and not made.is_seen:
        from weightspace.remote.hub import login

        why = "cannot be seen by this login" if login() else "cannot be seen, since nobody is logged in (`hf auth login`)"
        say(f"{cells.safe(made.repo)}: is not there, or {why}; so all is counted as new", style="yellow")
    if made.is_private != private:
        say(f"{cells.safe(made.repo)} was there already, is private, and stays so")
    if made.new_branch is not None:
        say(f"branch '{cells.safe(made.new_branch)}' {'would be' if dry_run else 'was'} made")
    say("nothing was sent" if made.commit is None else f"commit {made.commit[:12]} of {cells.safe(made.repo)}")


def _pushed(made: "Pushed") -> Iterator[dict[str, object]]:
    yield {"repository": made.repo, "models": made.models, "new tensors": made.tensors, "files": len(made.files), "bytes": made.num_bytes}


@group.command()
def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO", show_default=False, help="A zoo or a model, as org/name or org/name@revision.")],
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Bring a zoo that was pushed, or a model, into this zoo: the same models under the same ids.

    A second run brings only what is missing.

    Examples:
      weightspace hub pull lab/zoo
      weightspace hub pull lab/toy --zoo elsewhere
    """
    from weightspace.zoo import hub

    one = zoo_at(zoo)
    if hub.is_zoo(repo):
        with progress("pulling", unit="models") as bar:
            made = hub.pull_zoo(one.catalog, repo, progress=bar.update)
        print_data(
            [
                {
                    "repository": made.repo,
                    "models": made.models,
                    "new": made.new_models,
                    "stored": made.stored,
                    "without weights": made.without_weights,
                }
            ],
            format,
        )
    else:
        print_data([{"repository": repo, "id": hub.pull_model(one, repo)}], format)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(group, name="hub", help="Catalogue, push and pull models of the Hub.", rich_help_panel=CATALOG)
