"""Restoring a store: compact models as plain files again, byte for byte what they were."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.formats.safetensors import header
from weightspace.storage import Storage, part
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.ingest import Progress
from weightspace.zoo.store.members import Member, strings_of, tending
from weightspace.zoo.store.putting import open_held
from weightspace.zoo.store.roots import COMPACT, PLAIN, Held
from weightspace.zoo.store.running import Run, Tended
from weightspace.zoo.store.writing import in_order

PIECE = 1 << 22  # bytes that a thread writes at a time


def restore(
    catalog: Catalog, where: str | None = None, *, jobs: int | None = None, progress: Callable[[Progress], None] | None = None
) -> Tended:
    """Write compact models as plain files again, byte for byte what they were; arguments and errors as in `compacting.compact`."""
    with tending(catalog), Run(catalog, where, False, jobs, progress) as run:
        run.each(partial(_restored, run), COMPACT)
    return run.report


def _restored(run: Run, member: Member, held: Held) -> int | None:
    """Write one model as a plain file."""
    return run.put(member, PLAIN, partial(save_in_pieces, open_held(run.root, held), strings_of(held), pool=run.pool, threads=run.threads))


def save_in_pieces(checkpoint: Checkpoint, strings: dict[str, str], path: Path, *, pool: Executor, threads: int) -> None:
    """Write a checkpoint as safetensors as `weightspace.formats.safetensors.save` does, by several threads."""
    head, order = header(checkpoint.info, strings)
    with path.open("xb") as stream:
        stream.write(head)
        stream.flush()
        descriptor = stream.fileno()

        def copied(piece: tuple[Storage, int, int, int]) -> None:
            storage, start, count, at = piece
            for block in part(storage, start, count).blocks():
                at += os.pwrite(descriptor, block, at)

        for _ in in_order(pool, copied, _pieces(checkpoint, order, len(head)), 2 * threads):
            pass
        os.fsync(descriptor)


def _pieces(checkpoint: Checkpoint, order: list[str], at: int) -> Iterator[tuple[Storage, int, int, int]]:
    """Storage, start and bytes of what is to be copied, and to where in the file."""
    for name in order:
        storage, nbytes = checkpoint.storages[name], checkpoint.info[name].nbytes
        for start in range(0, nbytes, PIECE):
            yield storage, start, min(PIECE, nbytes - start), at + start
        at += nbytes


__all__ = ["restore", "save_in_pieces"]
