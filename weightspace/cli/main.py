"""The `weightspace` command: finds the commands and turns what goes wrong into one line and an exit code."""

import contextlib
import errno
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from weightspace import __version__
from weightspace.cli import commands
from weightspace.cli.output import say
from weightspace.errors import WeightSpaceError, one_line

FAILED, INTERRUPTED, PIPE_CLOSED = 1, 130, 141  # the last two are what a shell reports for SIGINT and SIGPIPE


class _Root(TyperGroup):
    """The root of all commands; every one of them, its arguments too, runs inside its `invoke`."""

    def invoke(self, ctx: Any) -> Any:
        with _told():
            return super().invoke(ctx)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Report what a user can act on in one line; a fault of ours keeps its traceback."""
    try:
        yield
        sys.stdout.flush()  # here, and not while Python shuts down, where a closed pipe could not be caught
    except WeightSpaceError as error:
        say(f"error: {error}", style="red")
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        say("interrupted; the catalog is valid, and nothing half done is in it")
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        if error.errno == errno.EPIPE:
            # What is still buffered goes nowhere, quietly: the reader has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from None
        where = f"{one_line(str(error.filename))}: " if error.filename else ""
        say(f"error: {where}{error.strerror or error}; check the path, its permissions and the free space", style="red")
        raise typer.Exit(FAILED) from None


app = typer.Typer(
    name="weightspace",
    cls=_Root,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"weightspace {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Neural-network checkpoints as data: catalog them, ask in SQL, compare, share.

    A zoo lives in [b].weightspace/[/b] of the working folder or its nearest parent that has one.
    """


def _register() -> None:
    """Let every file of `weightspace.cli.commands` add its commands, those of a lower `PLACE` first."""
    found = [importlib.import_module(f"{commands.__name__}.{module.name}") for module in pkgutil.iter_modules(commands.__path__)]
    for module in sorted(found, key=lambda one: (one.PLACE, one.__name__)):
        module.register(app)


_register()


def main() -> None:
    """Run the command line; names that the terminal's encoding lacks are shown escaped."""
    for name, value in (("HF_HUB_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):  # bars and messages are our own
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
