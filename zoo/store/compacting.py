"""Compacting a store: each content once, fine-tunes as what differs from their parents, every file verified before another goes."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats.compact import read_compact_header
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.ingest import Progress
from weightspace.zoo.store.choosing import LEAST, chosen
from weightspace.zoo.store.families import sketch_of
from weightspace.zoo.store.graph import Needs
from weightspace.zoo.store.members import Member, needed, strings_of, tending
from weightspace.zoo.store.putting import open_held
from weightspace.zoo.store.roots import COMPACT, PLAIN, Held, find, key_of
from weightspace.zoo.store.running import Run, Tended, damaged, identified
from weightspace.zoo.store.writing import Kept, Same, Sink, Stored, write_compact

WORTH = 0.98  # of its bytes: a model that does not shrink by a fiftieth stays as it is


def compact(
    catalog: Catalog,
    where: str | None = None,
    *,
    dry_run: bool = False,
    jobs: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Tended:
    """Rewrite models of the store so that they take less; what was done stays done if it is interrupted, and a second run goes on.

    Args:
        catalog: of the zoo.
        where: SQL condition on models, as in `Zoo.models`; all if left out.
        dry_run: only compute what would be saved.
        jobs: threads; as many as there are cores if left out.
        progress: called after each model.

    Raises:
        CatalogError: the store cannot be written, or another process is at it.
    """
    with contextlib.nullcontext() if dry_run else tending(catalog), Run(catalog, where, dry_run, jobs, progress) as run:
        run.each(_Compacting(run).compacted, PLAIN)
    return run.report


class _Compacting:
    """What is known while models are compacted: who needs whom, and who holds the tensors that several have."""

    def __init__(self, run: Run) -> None:
        self.run, self.families = run, run.families
        self.needs: Needs = needed(run.root, run.keys)
        self.owners: dict[bytes, tuple[str, str]] = {}
        self.trusted: dict[str, bool] = {}
        settled = [*run.others, *(one for one in run.chosen if key_of(one.id, PLAIN) not in run.keys)]
        wanted = {one.architecture for one in run.chosen if key_of(one.id, PLAIN) in run.keys}
        for member in settled:
            if member.architecture in wanted or member.number in self.families.shared:
                held = find(run.root, member.id)
                with contextlib.suppress(FormatError):  # what is damaged cannot serve as a base
                    if held is not None:
                        self._take_in(member, held)

    def _take_in(self, member: Member, held: Held) -> None:
        """Let a model that stays as it is serve as the base of others."""
        lying = None
        if held.key.endswith(COMPACT):
            lying = {name for name, entry in read_compact_header(held.file)[0]["tensors"].items() if "at" in entry}
        for name, digest in self.families.shared.get(member.number, {}).items():
            if lying is None or name in lying:
                self.owners.setdefault(digest, (member.id, name))
        self.families.remember(member, sketch_of(open_held(self.run.root, held)))

    def _may(self, member: Member, base: str) -> bool:
        """Whether a model may be based on another: no circle, no long chain, and what lies there is what its name says."""
        if base == member.id or not self.needs.may(member.id, base):
            return False
        if base not in self.trusted:
            opened = self._opened(base)
            try:
                self.trusted[base] = opened is not None and identified(opened, self.run.pool) == base
            except FormatError:
                self.trusted[base] = False
        return self.trusted[base]

    def compacted(self, member: Member, held: Held) -> int | None:
        """Compact one model; None where that would save nothing."""
        checkpoint = open_held(self.run.root, held)
        sketch = sketch_of(checkpoint)
        candidates = self.families.candidates(member, sketch, self.owners)
        kept = self._kept(member, checkpoint, [one for one in candidates if self._may(member, one)])
        size = self._written(member, checkpoint, held, kept)
        self.families.remember(member, sketch)
        if size is None:
            kept = {}
        elif not self.run.dry_run:
            self.trusted[member.id] = True
        self.needs.record(member.id, {model for one in kept.values() if (model := _base_of(one)) is not None})
        for name, digest in self.families.shared.get(member.number, {}).items():
            if not isinstance(kept.get(name), Same):
                self.owners.setdefault(digest, (member.id, name))
        return size

    def _kept(self, member: Member, checkpoint: Checkpoint, candidates: list[str]) -> Kept:
        kept: dict[str, Stored | Same] = {}
        mine: dict[bytes, str] = {}
        digests = self.families.shared.get(member.number, {})
        for name, info in checkpoint.info.items():
            digest = digests.get(name)
            if info.alias_of is not None or digest is None or info.nbytes < LEAST:
                continue
            owner = self.owners.get(digest)
            if digest in mine:
                kept[name] = Same(None, mine[digest])
            elif owner is not None and self._may(member, owner[0]):
                kept[name] = Same(*owner)
            else:
                mine[digest] = name
        bases = {one: found for one in candidates if (found := self._opened(one)) is not None}
        rest = [name for name, info in checkpoint.info.items() if info.alias_of is None and name not in kept]
        return {**kept, **chosen(checkpoint, rest, bases, self.run.pool)}

    def _opened(self, model: str) -> Checkpoint | None:
        held = find(self.run.root, model)
        try:
            return None if held is None else open_held(self.run.root, held)
        except FormatError:
            return None  # it is damaged, which is told where it is asked for

    def _written(self, member: Member, checkpoint: Checkpoint, held: Held, kept: Kept) -> int | None:
        """Write the file; where it is not worth it, or only to be computed, it goes nowhere."""
        strings, run = strings_of(held), self.run

        def write(stream: Sink) -> int:
            return write_compact(checkpoint, member.id, strings, kept, stream, run.pool, ahead=4 * run.threads)

        if run.dry_run:
            if identified(checkpoint, run.pool) != member.id:
                raise damaged(member.path)
            size = write(_Nowhere())
            return size if size < held.file.size * WORTH else None
        try:
            return run.put(member, COMPACT, partial(_synced, write, int(held.file.size * WORTH)))
        except _NotWorthError:
            return None


def _base_of(one: Stored | Same) -> str | None:
    return one.model if isinstance(one, Same) else one.base[0] if one.base is not None else None


class _NotWorthError(Exception):
    """A compact file is no smaller than the plain one."""


def _synced(write: Callable[[Sink], int], least: int, path: Path) -> None:
    """Write a file, and see that it is on the disk."""
    with path.open("xb") as stream:
        if write(stream) >= least:
            raise _NotWorthError
        stream.flush()
        os.fsync(stream.fileno())


class _Nowhere:
    """Takes everything and keeps nothing."""

    def write(self, data: Any, /) -> int:
        """Say that it was written."""
        return memoryview(data).nbytes

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Say that it was done."""
        return offset


__all__ = ["Tended", "compact"]
