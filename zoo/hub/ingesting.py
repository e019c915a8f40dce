"""Cataloguing repositories of the Hub from what it says of them and from the headers of their files; no weights are read."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from weightspace.remote.listing import names
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.hub.linking import link
from weightspace.zoo.hub.looking import Known, Looked, look, stem
from weightspace.zoo.ingest import Progress
from weightspace.zoo.records import ModelRecord, Place, Record, Refusal
from weightspace.zoo.write import forget_paths, write_records

READERS = 8  # repositories that are asked for at once
FLUSH_SECONDS = 2.0
FLUSH_REPOSITORIES = 200
FLUSH_TENSORS = 40_000


@dataclass
class HubReport:
    """What cataloguing from the Hub did.

    Attributes:
        catalogued: repositories whose headers were read.
        unchanged: repositories whose commit was known.
        refused: repositories that hold no weights that can be read so, or are closed.
        edges: new edges to bases that cards declare, of these repositories or of others that waited for them.
        bytes_read: of their files, headers and adapter configurations alone.
        num_files: files of which headers were read.
        seconds: wall time.
        interrupted: whether Ctrl-C ended it; what was done is in the catalog.
    """

    catalogued: int = 0
    unchanged: int = 0
    refused: list[Refusal] = field(default_factory=list)
    edges: int = 0
    bytes_read: int = 0
    num_files: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def is_all_refused(self) -> bool:
        """Whether nothing came of it."""
        return bool(self.refused) and not self.catalogued and not self.unchanged


def search(
    *, author: str | None = None, search: str | None = None, filter: Sequence[str] = (), limit: int | None = None, pinned: bool = False
) -> Iterator[str]:
    """Yield the names of models on the Hub, page by page.

    Args:
        author: user or organisation.
        search: part of a name.
        filter: tags, libraries and tasks that each model has all of.
        limit: no more than so many.
        pinned: with the commit that each is at, `org/name@commit`: what is known at this commit need not be asked for.

    Raises:
        FormatError: the Hub cannot be asked.
    """
    return names({"author": author, "search": search, "filter": list(filter)}, limit, pinned=pinned)


def ingest_hub(
    catalog: Catalog,
    repositories: Iterable[str],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> HubReport:
    """Catalogue models of the Hub by their headers; running it again reads only repositories with a new commit.

    A model whose weights nobody has read has tensors without statistics, and ids that follow from the files' SHA-256 and the places in
    them: the same file in two repositories is one content, but no such id is that of weights that were read. Bases that a card or an
    adapter's configuration declares become edges as soon as both are in the catalog.

    Args:
        catalog: created if it does not exist.
        repositories: `hf:org/name[@revision][/file]`, or `org/name`; taken as they come, a few ahead.
        progress: called after each.

    Raises:
        CatalogError: the catalog cannot be written.
    """
    started = time.monotonic()
    catalog.create()
    batch, report, done = _Batch(catalog), HubReport(), 0
    known = _known(catalog)
    try:
        with ThreadPoolExecutor(READERS) as readers:
            for looked in _in_order(readers, partial(look, known=known), repositories):
                done += 1
                _count(report, looked)
                batch.add(looked)
                if progress is not None:
                    progress(Progress(done, done, report.bytes_read, report.bytes_read))
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        batch.flush()
    report.edges = link(catalog)
    report.seconds = time.monotonic() - started
    return report


class _Batch:
    """Records on their way into the catalog, never many at once."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self.flushed = catalog, time.monotonic()
        self.pending: list[Record] = []
        self.outdated: list[str] = []
        self.tensors = 0

    def add(self, looked: Looked) -> None:
        """Take in what was found, and write what waits if it is much or has waited long."""
        self.outdated += looked.outdated
        if looked.record is not None:
            self.pending.append(looked.record)
            self.tensors += len(looked.record.tensors) if isinstance(looked.record, ModelRecord) else 0
        is_much = len(self.pending) >= FLUSH_REPOSITORIES or self.tensors >= FLUSH_TENSORS
        if is_much or time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self.pending or self.outdated:
            with self.catalog.writing() as connection:
                forget_paths(connection, self.outdated)
                write_records(connection, self.pending)
        self.pending, self.outdated, self.tensors, self.flushed = [], [], 0, time.monotonic()


def _known(catalog: Catalog) -> dict[str, Known]:
    """What the catalog has of each repository, by its address without a revision."""
    made: dict[str, Known] = {}
    nowhere = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)
    with catalog.reading() as connection:
        for (path,) in connection.execute("select path from files where starts_with(path, 'hf:')").fetchall():
            made.setdefault(stem(path), Known()).files.add(path)
        rows = connection.execute(
            "select path, reason, detail, advice, size, stamp from quarantine where starts_with(path, 'hf:')"
        ).fetchall()
    for path, reason, detail, advice, size, stamp in rows:
        place = Place(path, None, 0, size, nowhere, stamp)
        made.setdefault(stem(path), Known()).refused[path] = Refusal(place, reason, detail, advice)
    return made


def _in_order(readers: ThreadPoolExecutor, work: Callable[[str], Looked], names: Iterable[str]) -> Iterator[Looked]:
    """Work on a few names ahead, and yield what comes out in order; what has not begun is given up when the caller stops."""
    ahead: list[Future[Looked]] = []
    rest = iter(names)
    try:
        for name in rest:
            ahead.append(readers.submit(work, name))
            if len(ahead) >= 2 * READERS:
                yield ahead.pop(0).result()
        while ahead:
            yield ahead.pop(0).result()
    finally:
        for one in ahead:
            one.cancel()


def _count(report: HubReport, looked: Looked) -> None:
    report.bytes_read += looked.bytes_read
    report.num_files += looked.num_files
    if looked.record is None:
        report.unchanged += 1
    elif isinstance(looked.record, Refusal):
        report.refused.append(looked.record)
    else:
        report.catalogued += 1


__all__ = ["HubReport", "ingest_hub", "search"]
