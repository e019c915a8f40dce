"""Writing compact files: how each tensor is to be kept is given, and carried out by several threads."""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats.compact import MAGIC, START
from weightspace.packing import CHUNK, pack, width_of
from weightspace.storage import Storage, part, read

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Sink(Protocol):
    """What a file is written to."""

    def write(self, data: Any, /) -> int:
        """Take bytes; returns how many."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in the file.

    Attributes:
        is_packed: whether it is packed, and not as it is.
        base: model and tensor that it is the difference from.
        storage: the bytes of that tensor.
        way: see `weightspace.packing.pack`.
    """

    is_packed: bool = True
    base: tuple[str, str] | None = None
    storage: Storage | None = None
    way: str = "xor"


@dataclass(frozen=True)
class Same:
    """A tensor that is equal to one of another model, or of this one (model None)."""

    model: str | None
    tensor: str


Kept = Mapping[str, Stored | Same]
"""How each tensor that is tied to none is to be kept; those left out as they are."""


def write_compact(
    checkpoint: Checkpoint, model: str, strings: Mapping[str, str], kept: Kept, stream: Sink, pool: Executor, *, ahead: int = 8
) -> int:
    """Write a compact file.

    Args:
        checkpoint: the weights.
        model: their id.
        strings: what their own container says besides tensors.
        kept: how each of its tensors is kept.
        stream: to write to, at its beginning.
        pool: threads that pack.
        ahead: chunks that may wait to be written.

    Returns:
        Its bytes.

    Raises:
        FormatError: a name that is no Unicode, or a source that is damaged.
        OSError: it cannot be written.
    """
    bases = list(dict.fromkeys(other for one in kept.values() if (other := _model_of(one)) is not None))
    numbers = {other: at for at, other in enumerate(bases)}
    stream.write(MAGIC + bytes(START - len(MAGIC)))
    entries: dict[str, dict[str, Any]] = {}
    at = START
    for name, info in checkpoint.info.items():
        way = kept.get(name, Stored(is_packed=False))
        entry: dict[str, Any] = {"dtype": info.dtype, "shape": list(info.shape)}
        if info.alias_of is not None:
            entry["alias_of"] = info.alias_of
        elif isinstance(way, Same):
            entry |= {"of": way.tensor} if way.model is None else {"base": numbers[way.model], "of": way.tensor}
        elif way.is_packed and info.nbytes:
            sizes = [stream.write(one) for one in _chunks(checkpoint, name, way, pool, ahead)]
            entry |= {"at": [at, at + sum(sizes)], "chunks": sizes}
            if way.base is not None:
                entry |= {"base": numbers[way.base[0]], "of": way.base[1], "way": way.way}
        else:
            entry["at"] = [at, at + sum(stream.write(block) for block in checkpoint.storages[name].blocks())]
        at = entry["at"][1] if "at" in entry else at
        entries[name] = entry
    said = {"id": model, "chunk": CHUNK, "bases": bases, "metadata": dict(strings), "tensors": entries}
    try:
        raw = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("a tensor has a name that is no Unicode", reason="unsupported", advice="rename it") from None
    stream.write(raw)
    stream.seek(len(MAGIC))
    stream.write(at.to_bytes(8, "little") + len(raw).to_bytes(8, "little"))
    return at + len(raw)


def _model_of(one: Stored | Same) -> str | None:
    return one.model if isinstance(one, Same) else one.base[0] if one.base is not None else None


def _chunks(checkpoint: Checkpoint, name: str, way: Stored, pool: Executor, ahead: int) -> Iterator[bytes]:
    """The packed chunks of a tensor, in order."""
    info, storage = checkpoint.info[name], checkpoint.storages[name]
    width = width_of(info.dtype)

    def packed(start: int) -> bytes:
        return pack_range(storage, start, min(CHUNK, info.nbytes - start), width, way)

    return in_order(pool, packed, range(0, info.nbytes, CHUNK), ahead)


def pack_range(storage: Storage, start: int, count: int, width: int, way: Stored) -> bytes:
    """Pack one chunk of a tensor."""
    raw = np.frombuffer(read(part(storage, start, count)), np.uint8)
    base = np.frombuffer(read(part(way.storage, start, count)), np.uint8) if way.storage is not None else None
    return pack(raw, width, base, way.way)


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Results of a function in the order of the items, at most so many of them waiting to be taken."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()
            with contextlib.suppress(BaseException):
                one.exception()


__all__ = ["Kept", "Same", "Sink", "Stored", "in_order", "pack_range", "write_compact"]
