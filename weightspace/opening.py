"""`ws.open`: one door for paths, folders, catalog names and ids, the Hub and object stores."""

from collections.abc import Callable
from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.formats import open_checkpoint
from weightspace.registry import Registry
from weightspace.remote import is_remote, open_remote

openers: Registry[Callable[[str], Checkpoint | None]] = Registry("opener")
"""Ways to open what is not a path, tried in order: each takes the source and returns None where it is not its own."""


def open(source: str | Path) -> Checkpoint:
    """Open a checkpoint lazily: a file, a folder, a shard index, an adapter folder, a catalog name or id, `hf:org/name`, `s3://...`.

    Of what lies elsewhere only headers are read now, and each tensor by range when it is asked for; see `weightspace.remote`.

    Raises:
        FormatError: nothing there, an unknown format, or a damaged or hostile file; nothing in it was executed.
    """
    text = str(source)
    if isinstance(source, str) and is_remote(text):
        return open_remote(text)
    if not Path(source).exists() and isinstance(source, str):
        _load_wings()
        for opener in openers.values():
            found = opener(text)
            if found is not None:
                return found
    return open_checkpoint(source)


def _load_wings() -> None:
    """Let the wings that can open more register themselves; the only place where the core names one, and by string alone."""
    import importlib

    importlib.import_module("weightspace.zoo.opener")
