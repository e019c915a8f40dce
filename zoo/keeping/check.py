"""Checking a zoo: its catalog, its store and the files where they lie, each against the others."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from weightspace import parallel
from weightspace.errors import CatalogError, one_line
from weightspace.zoo import store
from weightspace.zoo.ingest import Progress
from weightspace.zoo.keeping.catalog_file import misshapen, unreadable
from weightspace.zoo.keeping.circles import circles
from weightspace.zoo.keeping.findings import CheckReport, Finding
from weightspace.zoo.keeping.forms import form_findings, other_forms
from weightspace.zoo.keeping.house import GRACE, cache_findings, leftovers, lock_findings, unlisted
from weightspace.zoo.keeping.identities import mismatches
from weightspace.zoo.keeping.misplaced import misnamed, stray_findings
from weightspace.zoo.keeping.places import Row, Seen, batches, is_stored, place_findings
from weightspace.zoo.keeping.promises import Inspection, promised
from weightspace.zoo.keeping.rules import broken
from weightspace.zoo.keeping.statistics import NAMES, differing
from weightspace.zoo.write import Connection

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

FEW = 64 << 20  # less bytes than this are read in this process: starting workers would take longer
_LOST = """
    select m.model_id, name, lower(hex(id)) from models m where model_id not in (select model_id from files where model_id is not null)
    order by model_id
"""


def check(
    zoo: "Zoo",
    *,
    quick: bool = False,
    repair: bool = False,
    jobs: int | None = None,
    backend: str = "local",
    progress: Callable[[Progress], None] | None = None,
    grace: int | float = GRACE,
) -> CheckReport:
    """Verify a zoo, and mend what can be mended if that is asked for.

    Weights are read block by block. Models of which only headers were ever read, and files elsewhere, are not fetched.

    Args:
        zoo: to look at.
        quick: leave out the content of weights: files are opened, and their headers, sizes and times compared.
        repair: mend what can be; see `weightspace.zoo.keeping.mending.mend`.
        jobs: processes; by default as many as there are cores, and this one alone where little is to be read.
        backend: see `weightspace.parallel`.
        progress: called after each file.
        grace: seconds within which what the catalog does not know may still belong to a process at work.

    Raises:
        CatalogError: there is no zoo, it is of a newer version, or another process holds its lock for too long.
    """
    started = time.monotonic()
    if not zoo.catalog.exists():
        with zoo.catalog.reading():  # says that there is none, and what to do
            pass

    def inspect(only: frozenset[str] | None = None) -> Inspection:
        return _Inspector(zoo, not quick, jobs, backend, progress, grace).inspect(only)

    found = inspect()
    report = CheckReport()
    left = found.findings
    if repair and left:
        from weightspace.zoo.keeping.mending import mend

        everything = dict.fromkeys(left)
        if not found.is_open:
            mend(zoo, found)
            found = inspect()  # what could not be looked at before
            everything |= dict.fromkeys(found.findings)
        touched = mend(zoo, found)
        left = inspect(touched | {found.rows[one.where].path if one.where in found.rows else one.where for one in found.findings}).findings
        open_still = {(finding.kind, finding.where, finding.what) for finding in left}
        report.mended = [one for one in everything if (one.kind, one.where, one.what) not in open_still]
    report.models, report.files, report.unread, report.bytes_read = found.models, found.files, found.unread, found.bytes_read
    report.findings = left
    report.seconds = time.monotonic() - started
    return report


class _Inspector:
    """One look at a zoo."""

    def __init__(
        self, zoo: "Zoo", is_deep: bool, jobs: int | None, backend: str, progress: Callable[[Progress], None] | None, grace: int | float
    ) -> None:
        self.zoo, self.is_deep, self.jobs, self.backend, self.progress, self.grace = zoo, is_deep, jobs, backend, progress, grace
        self.home = zoo.catalog.home
        self.found = Inspection(is_deep=is_deep)
        self.known: set[str] = set()
        self.bytes_found = 0
        self.measured: dict[bytes, tuple[Any, ...]] = {}

    def inspect(self, only: frozenset[str] | None) -> Inspection:
        """Look at everything, or of the files only at some."""
        self.found.findings += [*lock_findings(self.home), *leftovers(self.home, self.grace)]
        if any(one.kind == "lock" for one in self.found.findings):
            self.found.is_open = False
            return self.found  # the catalog cannot be opened before that is out of the way
        try:
            self.found.findings += self._rows()
        except CatalogError as error:
            self.found.is_open = False
            said = str(error).removeprefix(f"{self.zoo.catalog.path}: ").partition(";")
            advice = said[2].strip() or "restore the catalog from a backup"
            self.found.findings.append(Finding("catalog", said[0], "catalog.duckdb", advice))
        if not self.found.is_open:
            return self.found
        for batch in batches(self.zoo.catalog.reading):
            self._take(batch, only)
        self.found.findings += unlisted(self.home, self.known, self.grace)
        self.found.findings += stray_findings(self.home, self.known, self.found.belongs)
        odd = misnamed(store.root_of(self.home), self.found)
        self.found.findings += cache_findings(self.home, is_deep=self.is_deep)
        still = list(self._still(dict.fromkeys(self.found.findings)))
        if not still:
            self.found.findings = []
            return self.found
        with self.zoo.catalog.reading() as connection:
            models = {model for (model,) in connection.execute("select lower(hex(id)) from models").fetchall()} if odd else set[str]()
            self.found.belongs |= {path: model for path, model in odd.items() if model in models}
            self.found.findings = promised(connection, self.zoo.folder, replace(self.found, findings=still))
        return self.found

    def _rows(self) -> Iterator[Finding]:
        """What is wrong inside the catalog, in one view of it."""
        with self.zoo.catalog.reading() as connection:
            torn = [*unreadable(connection)]
            yield from torn
            if torn:
                self.found.is_open = False
                return
            shape = [*misshapen(connection)]
            yield from shape
            if any(one.kind == "schema" and not one.is_mendable for one in shape):
                self.found.is_open = False
                return
            yield from broken(connection)
            yield from mismatches(connection)
            yield from circles(connection)
            yield from self._lost(connection)
            counts = "select count(*), count(*) filter (is_finite is null) from models"
            [(self.found.models, self.found.unread)] = connection.execute(counts).fetchall()
            [(self.bytes_found,)] = connection.execute(
                "select coalesce(sum(size), 0)::bigint from files where not contains(path, ':')"
            ).fetchall()

    def _lost(self, connection: Connection) -> Iterator[Finding]:
        for number, name, digest in connection.execute(_LOST).fetchall():
            place = store.stored(self.home, digest) if digest else None
            advice = (
                "its weights lie in the store"
                if place
                else "bring its file back and ingest it again; the catalog does not know where it lay"
            )
            yield Finding(
                "lost", "the catalog knows no file of it", f"models: {one_line(str(name), 200)}", advice, place is not None, (number,)
            )

    def _take(self, rows: list[Row], only: frozenset[str] | None) -> None:
        """Look at the files of some rows, and compare the statistics of what they hold with those of the catalog."""
        self.known.update(row.path for row in rows if is_stored(row))
        others = other_forms(self.zoo.folder, rows)
        chosen = [row for row in rows if only is None or {row.path, others.get(row.path, row.path)} & only]
        self.measured.clear()
        few = not self.is_deep or self.bytes_found < FEW
        jobs = self.jobs or (1 if few else parallel.available_cores())
        findings = place_findings(self.zoo.folder, chosen, is_deep=self.is_deep, jobs=jobs, backend=self.backend, seen=self._seen)
        for row, finding in findings:
            self.found.findings.append(finding)
            self.found.rows.setdefault(finding.where, row)
            if finding.kind == "missing":
                self.found.content[row.path] = None
        odd = form_findings(self.zoo.folder, chosen, others, self.found, jobs=jobs, backend=self.backend)
        for finding in odd:
            self.found.findings.append(finding)
            self.known.add(finding.where)
        self.known.update(self.found.forms.values())
        if self.measured:
            with self.zoo.catalog.reading() as connection:
                self.found.findings += odd_statistics(connection, self.measured)

    def _seen(self, row: Row, seen: Seen) -> None:
        self.found.files += 1
        self.found.bytes_read += (row.size or 0) if self.is_deep else 0
        if seen.error is not None:
            self.found.content[row.path] = None
        elif seen.read is not None:
            if row.id is None or seen.read.id != bytes(row.id):
                self.found.content[row.path] = seen.read.id
            self.measured |= {one[4]: (one[1], one[2], *one[5:]) for one in seen.read.rows}
        if self.progress:
            done = self.found.bytes_read
            self.progress(Progress(self.found.files, self.found.files, done, max(self.bytes_found, done)))

    def _still(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Leave out what other processes have settled meanwhile: files that were catalogued or forgotten since they were looked at."""
        kept = list(findings)
        asked = {one.where for one in kept if one.kind == "unknown"} | {
            self.found.rows[one.where].path for one in kept if one.where in self.found.rows
        }
        there = self._catalogued(asked) if asked else set()
        for one in kept:
            row = self.found.rows.get(one.where)
            if not (one.where in there if one.kind == "unknown" else row is not None and row.path not in there):
                yield one

    def _catalogued(self, paths: set[str]) -> set[str]:
        with self.zoo.catalog.reading() as connection:
            connection.register("asked", pa.table({"path": pa.array(sorted(paths), pa.string())}))
            found = {path for (path,) in connection.execute("select path from files semi join asked using (path)").fetchall()}
            connection.unregister("asked")
        return found


def odd_statistics(connection: Connection, measured: Mapping[bytes, tuple[Any, ...]]) -> Iterator[Finding]:
    """Compare statistics that were just taken with those of the catalog.

    Args:
        connection: open for reading.
        measured: by hash: dtype, shape, elements, bytes, then as `NAMES`.
    """
    connection.register("asked", pa.table({"hash": pa.array(list(measured), pa.binary())}))
    columns = f"hash, tensor_id, dtype, shape, numel, nbytes, {', '.join(NAMES)}"
    rows = connection.execute(f"select {columns} from tensors semi join asked using (hash)").fetchall()
    connection.unregister("asked")
    for digest, number, *known in rows:
        fresh = measured[bytes(digest)]
        plain = next(
            (name for name, old, new in zip(("dtype", "shape", "numel", "nbytes"), known, fresh, strict=False) if old != new), None
        )
        name = plain or differing(known[4:], fresh[4:])
        if name is not None:
            yield Finding("statistics", f"its {name} is not that of its content", f"tensors: {number}", "", True)
