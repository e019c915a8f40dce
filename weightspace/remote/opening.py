"""Opening a checkpoint elsewhere from its header alone: which files hold its weights, and tensors as ranges of these."""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from weightspace import naming
from weightspace.checkpoint import Checkpoint, TensorInfo, tied
from weightspace.errors import FormatError, one_line
from weightspace.formats.safetensors import read_header
from weightspace.provenance import told
from weightspace.remote import buckets, hub
from weightspace.remote.file import RemoteFile
from weightspace.storage import FileSpan, Storage

ZOO = "weights/index.parquet"  # what a data set has that is a zoo which was pushed
READERS = 8  # headers of shards that are read at once
_SHARD = re.compile(r"(?P<stem>.+)-(?P<at>\d{5,6})-of-(?P<of>\d{5,6})\.safetensors")
_PREFERRED = ("model.safetensors", "adapter_model.safetensors", "diffusion_pytorch_model.safetensors")


def is_remote(source: str) -> bool:
    """Whether a source is an address and no path."""
    return source.startswith(hub.SCHEME) or re.match(r"[a-z][a-z0-9+.-]+://", source) is not None


def open_remote(source: str) -> Checkpoint:
    """Open a checkpoint on the Hub or in an object store; headers are read now, tensors when they are asked for, by range.

    Args:
        source: `hf:org/name[@revision][/file]`, or an address that fsspec knows, of a file or a folder.

    Raises:
        FormatError: nothing there, no safetensors, or a damaged header.
    """
    if not source.startswith(hub.SCHEME):
        return of_files(source, buckets.files_at(source))
    address = hub.HubAddress.parse(source)
    return of_repository(source, address, hub.repository(address))


def of_repository(source: str, address: hub.HubAddress, found: Any) -> Checkpoint:
    """A checkpoint at an address, by what the Hub has said of the repository."""
    if not address.path:
        expect_no_zoo(address, found)
    said = hub.said_of(found)
    return of_files(source, hub.files_of(address, found), {"card": said} if said else {})


def expect_no_zoo(address: hub.HubAddress, found: Any) -> None:
    """See that a repository is no zoo that was pushed, whose shards of tensors are not models.

    Raises:
        FormatError: it is one.
    """
    if address.kind == "dataset" and any(one.rfilename == ZOO for one in found.siblings or ()):
        advice = f"bring it here with 'weightspace hub pull {address.repo}'"
        raise FormatError(f"{address}: is a zoo that was pushed, and no model", reason="unsupported", advice=advice)


def of_files(source: str, files: Sequence[RemoteFile], said: Mapping[str, Any] | None = None) -> Checkpoint:
    """A checkpoint from the files that hold its weights among those given."""
    chosen = weights_among(source, files)
    with ThreadPoolExecutor(READERS) as readers:
        headers = list(readers.map(_header, chosen))
    info: dict[str, TensorInfo] = {}
    storages: dict[str, Storage] = {}
    metadata: dict[str, Any] = {}
    for file, (each, spans, strings) in zip(chosen, headers, strict=True):
        twice = next((name for name in each if name in info), None)
        if twice is not None:
            raise FormatError(
                f"{file.address}: tensor '{one_line(twice, 80)}' lies in two shards", reason="corrupt", advice="save it again"
            )
        each = tied(each, {name: owner for name, owner in strings.items() if name not in each and owner in each})
        info |= each
        storages |= {name: spans[one.alias_of or name] for name, one in each.items()}
        metadata |= strings
    recipe, parents = told(metadata)
    kind = "signature" if recipe is not None and recipe.get("kind") == "signature" else "full"
    made = Checkpoint(
        info, storages, "safetensors", None, (), {**metadata, **(said or {}), "address": source}, kind, recipe=recipe, parents=parents
    )
    return naming.recognised(made)


def _header(file: RemoteFile) -> tuple[dict[str, TensorInfo], dict[str, FileSpan], dict[str, str]]:
    try:
        return read_header(file)
    except FormatError:
        file.forget()  # what came may be at fault, and not the file
        raise


def weights_among(source: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The file that holds the weights, or all of its shards, by their names.

    Raises:
        FormatError: there is none, several that do not belong together, or shards are missing.
    """
    found = {PurePosixPath(one.address).name: one for one in files if one.address.endswith(".safetensors")}
    sole = [found[name] for name in _PREFERRED if name in found][:1] or (list(found.values()) if len(found) == 1 else [])
    if sole and not _SHARD.fullmatch(PurePosixPath(sole[0].address).name):
        return sole
    families: dict[tuple[str, int], dict[int, RemoteFile]] = {}
    for name, one in found.items():
        if parts := _SHARD.fullmatch(name):
            families.setdefault((parts["stem"], int(parts["of"])), {})[int(parts["at"])] = one
    stem = next((key for key in families if key[0] == "model"), next(iter(families), None) if len(families) == 1 else None)
    if stem is not None:
        shards = families[stem]
        missing = [at for at in range(1, stem[1] + 1) if at not in shards]
        if missing:
            raise FormatError(
                f"{source}: shard {missing[0]} of {stem[1]} is missing", reason="missing", advice="see that the upload is complete"
            )
        return [shards[at] for at in sorted(shards)]
    if not found:
        raise FormatError(
            f"{source}: holds no safetensors, the only format that is read from afar",
            reason="unsupported",
            advice="download it and give its path",
        )
    names = ", ".join(sorted(found)[:3])
    raise FormatError(
        f"{source}: holds {len(found)} safetensors files, such as {names}", reason="unknown", advice="add the file's name to the address"
    )


__all__ = ["ZOO", "expect_no_zoo", "is_remote", "of_files", "of_repository", "open_remote", "weights_among"]
