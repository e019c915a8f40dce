"""Checkpoint formats: one file each, found by content, opened without executing anything."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weightspace import naming
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, guarded
from weightspace.registry import Registry

HEAD = 4096  # bytes of a file that a sniffer sees


@dataclass(frozen=True)
class Format:
    """How one kind of checkpoint is recognised and opened.

    Attributes:
        name: short name, as in the catalog's `format` column.
        sniff: tells from the path and the first `HEAD` bytes of a file (none for a folder) whether this format fits.
        open: reads the header and returns a lazy Checkpoint.
        claims: for formats of several files: which files of a folder belong to the checkpoint that `sniff` saw there.
    """

    name: str
    sniff: Callable[[Path, bytes], bool]
    open: Callable[[Path], Checkpoint]
    claims: Callable[[Path], frozenset[Path]] | None = None


formats: Registry[Format] = Registry("checkpoint format", package="weightspace.formats")


def checkpoint_format(
    name: str, *, sniff: Callable[[Path, bytes], bool], claims: Callable[[Path], frozenset[Path]] | None = None
) -> Callable[[Callable[[Path], Checkpoint]], Callable[[Path], Checkpoint]]:
    """Register a function that opens a format; give `claims` where the checkpoint is a folder of several files."""

    def register(open: Callable[[Path], Checkpoint]) -> Callable[[Path], Checkpoint]:
        formats.add(name, Format(name, sniff, open, claims))
        return open

    return register


def head_of(path: Path) -> bytes:
    """Read the first bytes of a file; a folder has none."""
    if path.is_dir():
        return b""
    if not path.is_file():
        reason = "is not a regular file" if path.exists() else "does not exist"
        raise FormatError(f"{path}: {reason}", reason="unreadable", advice="check the path")
    try:
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})", reason="unreadable", advice="check its permissions") from None


def sniff(path: Path) -> Format | None:
    """Find the format of a file or folder by its content; None when no format fits."""
    head = head_of(path)
    return next((found for found in formats.values() if found.sniff(path, head)), None)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a file or folder as a lazy Checkpoint.

    Raises:
        FormatError: it does not exist, is of no known format, or is damaged; nothing in it was executed.
    """
    place = Path(path)
    found = guarded(sniff, place)
    if found is None:
        kind = "folder without a checkpoint in it" if place.is_dir() else "file of no known checkpoint format"
        known = ", ".join(formats)
        raise FormatError(f"{place}: a {kind}", reason="unknown", advice=f"formats read here: {known}")
    return naming.recognised(guarded(found.open, place))
