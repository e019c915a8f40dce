"""Where weights lie: each file of a zoo beside what the catalog says of it, its content against the hashes."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from weightspace import identity, parallel
from weightspace.checkpoint import Checkpoint
from weightspace.errors import DAMAGE, FormatError, one_line
from weightspace.formats import open_checkpoint
from weightspace.remote import is_remote
from weightspace.zoo import store
from weightspace.zoo.discover import discover
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.sidecars import odd_beside
from weightspace.zoo.reading import Read, finished, measured
from weightspace.zoo.write import Connection

BATCH = 500  # rows of `files` that are looked at together
_FILES = """
    select file_id, f.model_id, path, stamp, sidecar_stamp, sha256, f.size, num_files, f.metadata::varchar, m.id, fingerprint,
           m.num_bytes, m.name
    from files f left join models m using (model_id) left join architectures a using (architecture_id)
    where file_id > ? and path <> '' order by file_id, f.rowid limit ?
"""


class Row(NamedTuple):
    """A row of `files` with what its model's row says."""

    file_id: int
    model_id: int | None
    path: str
    stamp: int
    sidecar_stamp: int | None
    sha256: bytes | None
    size: int | None
    num_files: int | None
    metadata: str | None
    id: bytes | None
    fingerprint: bytes | None
    num_bytes: int | None
    name: str | None


@dataclass(frozen=True)
class Task:
    """A file to look at: its header alone, or all of it."""

    path: Path
    is_deep: bool
    with_sha256: bool = False


@dataclass(frozen=True)
class Seen:
    """What was found in a file: why it cannot be read, or what it holds."""

    error: str | None = None
    fingerprint: bytes = b""
    num_bytes: int = 0
    read: Read | None = None
    sha256: bytes | None = None


def look(task: Task) -> Seen:
    """Read a file's header, or measure all its tensors block by block; what is wrong with it becomes the answer."""
    try:
        checkpoint = open_checkpoint(task.path)
        fingerprint = identity.architecture_id((info.name, info.shape) for info in checkpoint.info.values())
        if not task.is_deep:
            return Seen(None, fingerprint, checkpoint.num_bytes)
        read = read_all(checkpoint)
        digest = _sha256(task.path) if task.with_sha256 and task.path.is_file() else None
        return Seen(None, fingerprint, checkpoint.num_bytes, read, digest)
    except FormatError as error:
        return Seen(error.detail)
    except DAMAGE as error:
        return Seen(one_line(f"{task.path}: damaged ({error or type(error).__name__})"))


def read_all(checkpoint: Checkpoint) -> Read:
    """Measure all tensors of a checkpoint."""
    [rows] = measured([(checkpoint, tuple(checkpoint.info))])
    return finished(checkpoint, rows)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def batches(reading: Callable[[], contextlib.AbstractContextManager[Connection]]) -> Iterator[list[Row]]:
    """Yield the rows of `files`, some at a time; the catalog is held open only while they are fetched."""
    last = -(1 << 31)
    while True:
        with reading() as connection:
            rows = [Row(*row) for row in connection.execute(_FILES, [last, BATCH]).fetchall()]
        if rows:
            yield rows
            last = rows[-1].file_id
        if len(rows) < BATCH:
            return


def place_findings(
    folder: Path, rows: Sequence[Row], *, is_deep: bool, jobs: int, backend: str, seen: Callable[[Row, Seen], None]
) -> Iterator[tuple[Row, Finding]]:
    """Look at the files of some rows; yields what is wrong with each.

    Args:
        folder: of the zoo.
        rows: of `files`.
        is_deep: read their content, too.
        jobs: processes.
        backend: see `weightspace.parallel`.
        seen: is told what was found in each file that was read.
    """
    chosen: list[Row] = []
    for row in rows:
        if is_remote(row.path):
            continue
        finding = _from_outside(folder, row)
        if finding is not None:
            yield row, finding
        elif row.sidecar_stamp and (what := odd_beside(folder, folder / row.path, row.sidecar_stamp, row.metadata if is_deep else None)):
            yield row, Finding("sidecar", what, _where(row), "ingest it again", False, _own(row))
        if finding is None or finding.kind == "changed":
            chosen.append(row)
    tasks = (Task(folder / row.path, is_deep, row.sha256 is not None) for row in chosen)
    with contextlib.closing(parallel.run(look, tasks, jobs=jobs, backend=backend)) as results:
        for row, found in zip(chosen, results, strict=True):
            seen(row, found)
            yield from ((row, finding) for finding in _from_inside(folder, row, found))


def holds(row: Row, found: Seen) -> bool:
    """Whether what was found in a file is the model that a row names, as far as was looked."""
    if found.error is not None or row.id is None:
        return False
    is_same = (found.fingerprint, found.num_bytes) == (bytes(row.fingerprint or b""), row.num_bytes)
    return is_same if found.read is None else found.read.id == bytes(row.id)


def is_stored(row: Row) -> bool:
    """Whether the row is of a file of the zoo's own store."""
    return row.stamp == store.STAMP


def _where(row: Row) -> str:
    return one_line(row.path, 300)


def _own(row: Row) -> tuple[int, ...]:
    return () if row.model_id is None else (row.model_id,)


def _from_outside(folder: Path, row: Row) -> Finding | None:
    """What can be told without opening a file: whether it is there, is the one that was read, and has its name."""
    path = folder / row.path
    if not os.path.lexists(path) or not path.exists():
        return Finding(
            "missing", f"the file of model '{one_line(str(row.name), 80)}' is gone", _where(row), "bring it back", False, _own(row)
        )
    if is_stored(row):
        stem = path.name.partition(".")[0]
        if row.id is not None and stem != bytes(row.id).hex():
            return Finding(
                "changed", f"holds the weights {stem[:12]}, its row says {bytes(row.id).hex()[:12]}", _where(row), "", False, _own(row)
            )
        if row.size is not None and row.size != path.stat().st_size:
            return Finding("changed", f"has {path.stat().st_size} bytes, its row says {row.size}", _where(row), "", False, _own(row))
        return None
    found = next((one for one in discover([path]) if one.path == path), None)
    if found is None or found.stamp != row.stamp:
        return Finding(
            "changed", "is not the file that was read: its size or its time is another", _where(row), "ingest it again", False, _own(row)
        )
    return None


def _from_inside(folder: Path, row: Row, found: Seen) -> Iterator[Finding]:
    if found.error is not None:
        yield Finding(
            "damaged",
            f"cannot be read ({one_line(found.error.removeprefix(f'{folder / row.path}: '), 200)})",
            _where(row),
            "",
            False,
            _own(row),
        )
    elif row.id is None:
        return
    elif found.read is not None and found.read.id != bytes(row.id):
        yield Finding(
            "damaged",
            f"its content is {found.read.id.hex()[:12]}, its model is {bytes(row.id).hex()[:12]}",
            _where(row),
            "",
            False,
            _own(row),
        )
    elif found.read is not None and row.sha256 is not None and found.sha256 not in (None, bytes(row.sha256)):
        yield Finding("damaged", "its SHA-256 is not the one that is known; its weights are right", _where(row), "", False, _own(row))
    elif found.read is None and (found.fingerprint != bytes(row.fingerprint or b"") or found.num_bytes != row.num_bytes):
        yield Finding("damaged", "its header tells of other tensors than the catalog", _where(row), "", False, _own(row))
