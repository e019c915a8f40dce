"""Models of the Hub read whole: each file brought here first and held against its hash, which no range of it can be."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.remote.downloading import downloaded
from weightspace.remote.file import RemoteFile
from weightspace.remote.hub import SCHEME
from weightspace.storage import FileSpan


@contextlib.contextmanager
def brought(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """A checkpoint whose files of the Hub lie here while the block runs; any other as it is.

    Raises:
        FormatError: a file cannot be had, or is not what its hash says.
    """
    spans = {name: one for name, one in checkpoint.storages.items() if isinstance(one, FileSpan)}
    files = {one.file for one in spans.values() if isinstance(one.file, RemoteFile) and one.file.address.startswith(SCHEME)}
    if not files:
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="weightspace-") as folder:
        local = {file: downloaded(file, Path(folder), f"{file.version}.safetensors") for file in files}
        here = {
            name: replace(one, file=local[one.file])
            for name, one in spans.items()
            if isinstance(one.file, RemoteFile) and one.file in local
        }
        yield replace(checkpoint, storages={**checkpoint.storages, **here})


__all__ = ["brought"]
