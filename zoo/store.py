"""The zoo's own store of weights: one deterministic safetensors file a content, `store/ab/<id>.safetensors`."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weightspace.checkpoint import Checkpoint
from weightspace.errors import CatalogError, FormatError
from weightspace.formats.safetensors import open_safetensors, save
from weightspace.zoo.reading import Read
from weightspace.zoo.records import Description, ModelRecord, Place

Wanted = tuple[Checkpoint, Read, str, Description, Mapping[str, Any] | None]
"""What `kept` is told of a checkpoint."""

_WRITERS = 16  # threads; each waits most of its time until the disk has a small file
STAMP = 0  # files of the store never change: their name is the identity of what is in them


def store_path(home: Path, model_id: str) -> Path:
    """Where the weights with this id (hex) lie in the store of a zoo."""
    return home / "store" / model_id[:2] / f"{model_id}.safetensors"


def put(home: Path, checkpoint: Checkpoint, model_id: str) -> Path:
    """Write the weights into the store, unless they are there already.

    Raises:
        FormatError: a dtype that safetensors cannot hold, or a source that is not what it was when its id was taken.
        CatalogError: the store cannot be written, or the disk is full.
    """
    path = store_path(home, model_id)
    if path.exists():
        return path
    fresh = path.with_name(f".{model_id}.{secrets.token_hex(4)}.new")
    try:
        with _writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            save(checkpoint, fresh)
            # Under its final name lies what the name says, also when the source was being written meanwhile.
            if open_safetensors(fresh).id != model_id:
                source = checkpoint.path or "the weights"
                raise FormatError(
                    f"{source}: changed while being copied", reason="unreadable", advice="ingest it again when it is finished"
                )
            fresh.replace(path)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()
    return path


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Tell trouble of the store, which every further file would meet, from trouble of what is put there."""
    try:
        yield
    except (OSError, FormatError) as error:
        cause = error.__context__ if isinstance(error, FormatError) else error
        if not isinstance(cause, OSError):
            raise
        raise CatalogError(f"{path}: cannot be written ({cause.strerror}); check the folder, its permissions and the free space") from None


def copied(home: Path, checkpoint: Checkpoint, record: ModelRecord) -> ModelRecord:
    """Copy a checkpoint into the store and describe the copy as a further file of the same model."""
    path = put(home, checkpoint, record.id.hex())
    return replace(record, place=place_of(home, path), description=Description(tags=record.description.tags))


def kept(
    home: Path, checkpoint: Checkpoint, read: Read, name: str, description: Description, recipe: Mapping[str, Any] | None = None
) -> ModelRecord:
    """Put a checkpoint that was read and measured into the store, and describe it there.

    Args:
        home: the zoo's `.weightspace`.
        checkpoint: whose weights are written.
        read: what was measured of it.
        name: in the catalog.
        description: what else is known.
        recipe: in place of the checkpoint's own.

    Raises:
        FormatError, CatalogError: see `put`.
    """
    path = put(home, checkpoint, read.id.hex())
    return ModelRecord(
        place=place_of(home, path),
        name=name,
        id=read.id,
        weights_id=read.weights_id,
        fingerprint=read.fingerprint,
        kind=read.kind,
        num_params=read.num_params,
        num_bytes=read.num_bytes,
        tensors=read.rows,
        description=description,
        recipe=recipe if recipe is not None else checkpoint.recipe,
    )


def kept_many(home: Path, wanted: Sequence[Wanted]) -> list[ModelRecord]:
    """Do what `kept` does for many checkpoints, in order; the disk takes files that are synced side by side together.

    Each file is whole and on the disk before it has its name, so that nothing is catalogued that may be lost.

    Raises:
        FormatError, CatalogError: see `put`.
    """
    with ThreadPoolExecutor(_WRITERS) as writers:
        return list(writers.map(lambda one: kept(home, *one), wanted))


def place_of(home: Path, path: Path) -> Place:
    """Describe a file of the store."""
    status = path.stat()
    modified = datetime.fromtimestamp(status.st_mtime_ns / 1e9, UTC).replace(tzinfo=None)
    return Place(str(path.relative_to(home.parent)), "safetensors", 1, status.st_size, modified, stamp=STAMP)
