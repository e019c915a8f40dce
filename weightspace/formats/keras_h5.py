"""Keras HDF5: `.h5`, `.hdf5`, `.weights.h5`, and the `.keras` archive with such a file inside.

Names are the datasets' paths. h5py is C code that a damaged file can crash, so it runs in child processes only:
one lists the datasets; contiguous ones are then read from the file directly, others are decoded by another child.
"""

import importlib.util
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from weightspace import dtypes, isolated
from weightspace.archive import STORED, Archive
from weightspace.checkpoint import Checkpoint, TensorInfo, tied
from weightspace.errors import FormatError, MissingDependencyError
from weightspace.formats import checkpoint_format
from weightspace.storage import Produced, SourceFile, Storage
from weightspace.zipped import first_name, part_of

MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS = "model.weights.h5"
MAX_LISTING = 256 << 20
MAX_EXPANDED = 1 << 30  # bytes of a compressed weights file inside a .keras archive
BATCH = 32 << 20  # bytes that one child decodes at least, when there are so many: it takes a third of a second to start
_OPTIMIZER = ("optimizer_weights/", "optimizer/")
_MEMBERS = ("metadata.json", "config.json", WEIGHTS)


def sniff_h5(path: Path, head: bytes) -> bool:
    """The magic string, at the beginning or behind a user block."""
    return any(head[at : at + 8] == MAGIC for at in (0, 512, 1024, 2048))


def sniff_keras(path: Path, head: bytes) -> bool:
    """A zip archive that begins with one of Keras' members and holds a weights file."""
    if first_name(head) not in _MEMBERS:
        return False
    try:
        return WEIGHTS in Archive(SourceFile.at(path))
    except FormatError:
        return True  # damaged, which opening will tell


@checkpoint_format("keras_h5", sniff=sniff_h5)
def open_h5(path: Path) -> Checkpoint:
    """List the datasets in a child process; optimizer weights stand apart, in `extras`."""
    file = SourceFile.at(path)
    source = {"path": str(path), "offset": 0, "nbytes": file.size, "deflated": False}
    return _listed(path, "keras_h5", source, lambda offset, count: part_of_file(file, offset, count))


@checkpoint_format("keras", sniff=sniff_keras)
def open_keras(path: Path) -> Checkpoint:
    """Open the weights file inside a .keras archive, with the archive's config as metadata."""
    archive = Archive(SourceFile.at(path))
    if WEIGHTS not in archive:
        raise FormatError(f"{path}: no '{WEIGHTS}' in this Keras archive", reason="missing", advice="save the model again")
    member = archive[WEIGHTS]
    deflated = member.method != STORED
    if deflated and member.size > MAX_EXPANDED:
        raise FormatError(
            f"{path}: '{WEIGHTS}' is compressed and has {member.size} bytes, more than {MAX_EXPANDED}",
            reason="unsupported",
            advice="unpack the archive and open the .h5 inside",
        )
    source = {"path": str(path), "offset": member.offset, "nbytes": member.size, "packed": member.packed, "deflated": deflated}
    checkpoint = _listed(path, "keras", source, partial(part_of, archive, WEIGHTS))
    ...
