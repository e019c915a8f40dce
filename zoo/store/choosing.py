"""How each tensor of a model is best kept: raw, packed, or packed as its difference from one of several bases, tried on a piece of it."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from weightspace.checkpoint import Checkpoint
from weightspace.packing import CHUNK, WAYS, Bytes, pack, width_of
from weightspace.storage import Storage, part, read
from weightspace.zoo.store.writing import Stored

WORTH = 0.98  # of its bytes: what does not shrink by a fiftieth stays raw, which costs nothing to read
LEAST = 128  # bytes: what is smaller stays raw


def chosen(checkpoint: Checkpoint, names: list[str], bases: Mapping[str, Checkpoint], pool: Executor) -> dict[str, Stored]:
    """How to keep the tensors of these names.

    Args:
        checkpoint: that has them.
        names: of tensors that are tied to none.
        bases: models whose tensors of the same name, dtype and shape may serve, by id.
        pool: threads that try.
    """
    return dict(zip(names, pool.map(lambda name: _best(checkpoint, name, bases), names), strict=True))


def _best(checkpoint: Checkpoint, name: str, bases: Mapping[str, Checkpoint]) -> Stored:
    info = checkpoint.info[name]
    if info.nbytes < LEAST:
        return Stored(is_packed=False)
    width = width_of(info.dtype)
    count = min(CHUNK, info.nbytes)
    start = (info.nbytes - count) // 2 // CHUNK * CHUNK  # a chunk as it would be written
    count = min(count, info.nbytes - start)
    raw = _bytes(checkpoint.storages[name], start, count)
    best, least = Stored(is_packed=False), int(count * WORTH)
    if (size := len(pack(raw, width))) < least:
        best, least = Stored(), size
    delta: tuple[Stored, Bytes] | None = None
    for model, base in bases.items():
        if name in base.info and (base.info[name].dtype, base.info[name].shape) == (info.dtype, info.shape):
            other = _bytes(base.storages[name], start, count)
            if (size := len(pack(raw, width, other))) < least:
                best, least = Stored(True, (model, name), base.storages[name]), size
                delta = best, other
    if delta is not None:
        for way in WAYS[1:]:
            if (size := len(pack(raw, width, delta[1], way))) < least:
                best, least = replace(delta[0], way=way), size
    return best


def _bytes(storage: Storage, start: int, count: int) -> Bytes:
    return np.frombuffer(read(part(storage, start, count)), np.uint8)


__all__ = ["LEAST", "chosen"]
