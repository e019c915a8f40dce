"""`weightspace serve`: the catalog of a zoo for other machines."""

from typing import Annotated

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, ZooFolder, zoo_at
from weightspace.cli.output import say

PLACE = 27


def serve(
    address: Annotated[str, typer.Argument(metavar="[HOST:PORT]", help="Where to listen.")] = "127.0.0.1:9494",
    write: Annotated[bool, typer.Option("--write", help="Take writes; everybody then goes through this server.")] = False,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0, metavar="N", show_default=False, help="End by itself after so long.")
    ] = None,
    zoo: ZooFolder = None,
) -> None:
    """Serve the catalog to other machines.

    They use it as --zoo quack:HOST:PORT. Both sides need DuckDB's extension 'quack' and the same secret in $WEIGHTSPACE_TOKEN. Weights are not served: they are read from where they lie, a folder that all machines mount (--zoo quack:HOST:PORT/FOLDER where it has another path there), the Hub or an object store. The traffic is not encrypted; put a proxy with TLS before it where a network is not your own.

    Examples:
      weightspace serve --seconds 2
    """
    from weightspace.zoo.serving import serve as served

    here = zoo_at(zoo)
    served(here.catalog, address, write=write, seconds=seconds, ready=lambda: _tell(str(here.folder), address, write))


def _tell(folder: str, address: str, write: bool) -> None:
    """Say that it listens."""
    say(
        f"serving {cells.safe(folder)} at quack:{cells.safe(address)} {'for reading and writing' if write else 'for reading'}; Ctrl-C ends it"
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(serve)
