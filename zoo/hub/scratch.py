"""Folders in a zoo for what is on its way: locked while a process works in one, and cleared away after one that was killed."""

import contextlib
import fcntl
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from weightspace.errors import CatalogError

POLL = 0.1  # seconds between looks at a lock: a lock that waits by itself would not hear Ctrl-C


@contextlib.contextmanager
def outgoing(home: Path) -> Iterator[Path]:
    """A new folder for what is sent; it is gone afterwards, and so are those of processes that were killed.

    Args:
        home: the zoo's `.weightspace`. Where nobody may write there, the folder is one of the system's own for such things.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = home / "push"
            place.mkdir(parents=True, exist_ok=True)
            _clear(place)
            folder = place / secrets.token_hex(8)
            stack.enter_context(_held(place / f"{folder.name}.lock"))
            stack.callback(_remove, folder)
            folder.mkdir()
        except OSError:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weightspace-push-")))
        yield folder


def _remove(folder: Path) -> None:
    """Remove a folder, then its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # unless there are others


def _clear(place: Path) -> None:
    """Remove what processes left that were sending when they were killed: nobody holds its lock."""
    for lock in place.glob("*.lock"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _held(lock, make=False):
            _remove(lock.with_suffix(""))
    place.mkdir(exist_ok=True)


@contextlib.contextmanager
def incoming(home: Path) -> Iterator[Path]:
    """The folder of what is brought, which one pull has at a time; it is gone when a pull is done, and stays for the next where one broke off.

    Raises:
        CatalogError: nothing can be written there.
    """
    folder = home / "pull"
    with contextlib.ExitStack() as stack:
        try:
            home.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    stack.enter_context(_held(home / "pull.lock"))
                    break
                except BlockingIOError:
                    time.sleep(POLL)
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise CatalogError(f"{home}: cannot be written ({error.strerror}); check the folder and its permissions") from None
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _held(lock: Path, *, make: bool = True) -> Iterator[None]:
    """Hold a lock.

    Raises:
        BlockingIOError: another process holds it.
        FileNotFoundError: there is none, and none is to be made.
    """
    with lock.open("a+b" if make else "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


__all__ = ["incoming", "outgoing"]
