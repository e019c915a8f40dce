"""Keras HDF5: `.h5`, `.hdf5`, `.weights.h5`, and the `.keras` archive with such a file inside.

Names are the datasets' paths. h5py is C code that a damaged file can crash, so it runs in child processes only:
one lists the datasets; contiguous ones are then read from the file directly, others are decoded by another child.
"""

import importlib.util
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from weightspace.checkpoint import Checkpoint, TensorInfo, tied
from weightspace.companions import MAX_CONFIG
from weightspace.containers import isolated
from weightspace.containers.archive import STORED, Archive, first_name
from weightspace.errors import FormatError, MissingDependencyError
from weightspace.formats import checkpoint_format
from weightspace.formats.safetensors import parse_json
from weightspace.storage import FileSpan, Produced, SourceFile, Storage

MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS = "model.weights.h5"
MAX_LISTING = 256 << 20
MAX_EXPANDED = 1 << 29  # bytes of a compressed weights file inside a .keras archive
BATCH = 32 << 20  # bytes that one child decodes at least, when there are so many: it takes a third of a second to start
MAX_TEXT = 1 << 16
SLOWEST = 4 << 20  # bytes a second: what a child is given on top of its time
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
    return _open(path, "keras_h5", source, partial(FileSpan, file), {})


@checkpoint_format("keras", sniff=sniff_keras)
def open_keras(path: Path) -> Checkpoint:
    """Open the weights file inside a .keras archive, with the archive's config as metadata."""
    archive = Archive(SourceFile.at(path))
    member = archive.get(WEIGHTS)
    if member is None:
        raise FormatError(f"{path}: no '{WEIGHTS}' in this Keras archive", reason="missing", advice="save the model again")
    deflated = member.method != STORED
    if deflated and member.size > MAX_EXPANDED:
        raise FormatError(
            f"{path}: '{WEIGHTS}' is compressed and has {member.size} bytes, more than {MAX_EXPANDED}",
            reason="unsupported",
            advice="unpack the archive and open the .h5 inside",
        )
    metadata: dict[str, Any] = {}
    if "metadata.json" in archive:
        metadata |= parse_json(archive.read("metadata.json", MAX_CONFIG), path)
    if "config.json" in archive:
        metadata["model_config"] = archive.read("config.json", MAX_CONFIG)[:MAX_TEXT].decode("utf-8", "replace")
    source = {"path": str(path), "offset": member.offset, "nbytes": member.size, "packed": member.packed, "deflated": deflated}
    return _open(path, "keras", source, partial(archive.part, WEIGHTS), metadata)


def _open(
    path: Path, format: str, source: Mapping[str, Any], span: Callable[[int, int], Storage], metadata: Mapping[str, Any]
) -> Checkpoint:
    """Turn a child's listing of an HDF5 file into a checkpoint; `span` takes a range of the HDF5 file's bytes."""
    if importlib.util.find_spec("h5py") is None:
        raise MissingDependencyError.of("h5py", "reading Keras HDF5", "keras")
    lines = isolated.run("weightspace.containers.hdf5_reading:list_datasets", source, subject=str(path), limit=MAX_LISTING).splitlines()
    attributes, *entries = [json.loads(line) for line in lines]
    info: dict[str, TensorInfo] = {}
    owners: dict[str, str] = {}
    decoded: list[TensorInfo] = []
    offsets: dict[str, int] = {}
    skipped: list[str] = []
    for entry in entries:
        name = entry["name"]
        if "skipped" in entry:
            skipped.append(name)
            continue
        info[name] = TensorInfo(name, entry["dtype"], tuple(entry["shape"]))
        if "alias_of" in entry:
            owners[name] = entry["alias_of"]
        if entry["offset"] is None:
            decoded.append(info[name])
        else:
            offsets[name] = entry["offset"]
    decoder = _Decoder(source, tuple(decoded))
    storages: dict[str, Storage] = {name: span(offset, info[name].nbytes) for name, offset in offsets.items()}
    storages |= {one.name: Produced(one.nbytes, partial(decoder.take, one)) for one in decoded}
    optimizer = {name for name in info if name.startswith(_OPTIMIZER)}
    kept = {name: one for name, one in info.items() if name not in optimizer}
    made = {**attributes["attributes"], **metadata} | ({"skipped": skipped[:1000]} if skipped else {})
    return Checkpoint(
        tied(kept, {name: owner for name, owner in owners.items() if name in kept}),
        {name: storages[name] for name in kept},
        format,
        path=path,
        files=(path,),
        metadata=made,
        extras={name: info[name] for name in info if name in optimizer},
    )


@dataclass
class _Decoder:
    """Decodes compressed, chunked and foreign-endian datasets; one child serves the next ones too, up to `BATCH` bytes."""

    source: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]

    def __post_init__(self) -> None:
        self._ahead: dict[str, memoryview] = {}
        self._lock = threading.Lock()

    def take(self, tensor: TensorInfo) -> memoryview:
        """Decode one dataset, or hand out what an earlier child decoded ahead."""
        with self._lock:
            if tensor.name not in self._ahead:
                self._ahead = self._decode(tensor)
            return self._ahead.pop(tensor.name)

    def _decode(self, wanted: TensorInfo) -> dict[str, memoryview]:
        batch, total = [wanted], wanted.nbytes
        for following in self.tensors[self.tensors.index(wanted) + 1 :]:
            total += following.nbytes
            if total > BATCH:
                break
            batch.append(following)
        sizes = {one.name: one.nbytes for one in batch}
        raw = isolated.run(
            "weightspace.containers.hdf5_reading:read_datasets",
            {**self.source, "names": list(sizes)},
            subject=self.source["path"],
            limit=sum(sizes.values()),
            seconds=isolated.SECONDS + sum(sizes.values()) // SLOWEST,
        )
        if len(raw) != sum(sizes.values()):
            raise FormatError(
                f"{self.source['path']}: expected {sum(sizes.values())} bytes of {len(sizes)} datasets, found {len(raw)}",
                reason="truncated",
                advice="copy or download it again",
            )
        made, view, at = {}, memoryview(raw), 0
        for name, size in sizes.items():
            made[name] = view[at : at + size]
            at += size
        return made
