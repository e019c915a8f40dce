"""One pass over the models of a store that puts a file of the other form beside each, catalogues it, and only then lets the old one go."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from weightspace import identity, parallel
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.ingest import Progress
from weightspace.zoo.store.families import Families
from weightspace.zoo.store.members import Member, held_as, members, present
from weightspace.zoo.store.putting import described, open_held, put_fresh
from weightspace.zoo.store.roots import COMPACT, PLAIN, Held, Root, key_of, root_of
from weightspace.zoo.store.writing import in_order

FLUSH_SECONDS = 2.0  # between transactions


@dataclass
class Tended:
    """What compacting or restoring did, or would do.

    Attributes:
        models: that were asked for, in the store.
        changed: of them, those whose files are of the other form now.
        before: bytes of the files of all of them.
        after: the same afterwards.
        refused: names of models that stay as they are because something is wrong with them, with what.
        seconds: wall time.
    """

    models: int = 0
    changed: int = 0
    before: int = 0
    after: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


class Run:
    """One pass over models of the store: what replaces a file is catalogued in batches, and only then the file goes."""

    def __init__(
        self, catalog: Catalog, where: str | None, dry_run: bool, jobs: int | None, progress: Callable[[Progress], None] | None
    ) -> None:
        self.catalog, self.dry_run, self.progress = catalog, dry_run, progress
        self.root: Root = root_of(catalog.home)
        self.report = Tended()
        self.started = self.flushed = time.monotonic()
        self.threads = jobs or parallel.available_cores()
        self.pool: Executor = ThreadPoolExecutor(self.threads)
        with catalog.reading() as connection:
            everything = members(connection)
            self.families = Families(connection, everything)
            wanted = {one.number for one in members(connection, where)} if where else set(self.families.by_number)
        self.keys = present(self.root)
        self.chosen = [one for one in everything if one.number in wanted]
        self.others = [one for one in everything if one.number not in wanted]
        self.pending: list[tuple[Member, str]] = []

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self.flush()  # also what an interruption left
        finally:
            self.pool.shutdown()
            self.report.seconds = time.monotonic() - self.started

    def each(self, change: Callable[[Member, Held], int | None], suffix: str) -> None:
        """Go through the models, and change those that are of one form; `change` returns the new file's bytes, or None where it left the old."""
        total = sum(one.num_bytes for one in self.chosen)
        self.report.models, done = len(self.chosen), 0
        for at, member in enumerate(self.families.ordered(self.chosen)):
            now = self._counting(member)
            size = self.keys.get(key_of(member.id, now), 0) if now else 0
            self.report.before += size
            after = None
            try:
                self._settle(member, now)
                if now == suffix:
                    held = held_as(self.root, key_of(member.id, now))
                    after = change(member, held) if held is not None else None
            except FormatError as error:
                self.report.refused.append((member.name, _why(member, error)))
            if after is not None:
                self.report.changed += 1
                if not self.dry_run:
                    self.pending.append((member, COMPACT if suffix == PLAIN else PLAIN))
            self.report.after += size if after is None else after
            done += member.num_bytes
            if self.progress:
                self.progress(Progress(at + 1, len(self.chosen), done, total))
            if time.monotonic() - self.flushed > FLUSH_SECONDS:
                self.flush()

    def _counting(self, member: Member) -> str | None:
        """Which form counts: where a killed run or a backup left both, the one that the catalog names."""
        there = [suffix for suffix in (PLAIN, COMPACT) if key_of(member.id, suffix) in self.keys]
        return member.suffix if member.suffix in there else next(iter(there), None)

    def _settle(self, member: Member, now: str | None) -> None:
        """Let the form that does not count go, once the other has been verified, and let the catalog name the one that is there."""
        if now is None:
            raise FormatError(f"{member.path}: is gone", reason="missing", advice="'weightspace check' tells what is lost")
        other = key_of(member.id, COMPACT if now == PLAIN else PLAIN)
        if self.dry_run:
            return
        if other in self.keys:
            held = held_as(self.root, key_of(member.id, now))
            if held is not None and identified(open_held(self.root, held), self.pool) != member.id:
                raise damaged(member.path)
            self.root.remove(other)
            self.keys.pop(other)
        elif now != member.suffix:
            self.pending.append((member, now))

    def flush(self) -> None:
        """Tell the catalog of the new files, then let the old ones go."""
        pending, self.pending = self.pending, []
        self.flushed = time.monotonic()
        if not pending:
            return
        with self.catalog.writing() as connection:
            for member, suffix in pending:
                held = held_as(self.root, key_of(member.id, suffix))
                if held is None:
                    continue
                place = described(self.root, held)
                paths = [self.root.address(key_of(member.id, one)) for one in (PLAIN, COMPACT)]
                told = [place.path, place.format, place.size, place.modified]
                connection.execute(
                    "update files set path = ?, format = ?, size = ?, modified = ? where model_id = ? and path in (?, ?)",
                    [*told, member.number, *paths],
                )
                # Two rows where somebody put it while it was being compacted: one of them stays.
                connection.execute(
                    """delete from files where model_id = ? and path = ? and file_id >
                       (select min(file_id) from files where model_id = ? and path = ?)""",
                    [member.number, place.path] * 2,
                )
        for member, suffix in pending:
            old = key_of(member.id, COMPACT if suffix == PLAIN else PLAIN)
            if old in self.keys:
                self.root.remove(old)
                del self.keys[old]
        self.flushed = time.monotonic()

    def put(self, member: Member, suffix: str, write: Callable[[Path], object]) -> int:
        """Put a file of the other form beside the one that is there; returns its bytes."""
        key = key_of(member.id, suffix)
        put_fresh(self.root, key, member.id, write, damaged(member.path), lambda one: identified(one, self.pool))
        held = held_as(self.root, key)
        self.keys[key] = held.file.size if held is not None else 0
        return self.keys[key]


def damaged(path: str) -> FormatError:
    """What a file of the store is whose content is another than its name says."""
    return FormatError(f"{path}: does not hold the weights that its name says", reason="corrupt")


def _why(member: Member, error: FormatError) -> str:
    """Why a model stays as it is, and what to do about it: its file is the zoo's own, which nobody can download again."""
    if error.reason in ("missing", "unsupported", "unreadable"):
        return str(error)
    where = "" if member.id in error.detail else f"{member.path}: "
    return f"{where}{error.detail}; it is damaged, so run 'weightspace check --repair'"


def identified(checkpoint: Checkpoint, pool: Executor) -> str:
    """A checkpoint's id, its tensors read by several threads."""
    owned = [name for name, info in checkpoint.info.items() if info.alias_of is None]
    digests = dict(zip(owned, in_order(pool, checkpoint.tensor_hash, owned, 64), strict=True))
    return identity.model_id((name, one.dtype, one.shape, digests[one.alias_of or name]) for name, one in checkpoint.info.items()).hex()


__all__ = ["Run", "Tended", "damaged", "identified"]
