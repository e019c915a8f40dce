"""Files of the store that lie there in the other form than their rows say, or in both, as a restored backup or a killed run leaves them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from weightspace import parallel
from weightspace.remote import is_remote
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.places import Row, Task, holds, is_stored, look
from weightspace.zoo.keeping.promises import Inspection
from weightspace.zoo.store.roots import PLAIN, other_of


def other_forms(folder: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Where the other form of files of the store lies, by their own paths; of rows whose models have one."""
    return {
        row.path: other_of(row.path)
        for row in rows
        if is_stored(row) and not is_remote(row.path) and row.id is not None and (folder / other_of(row.path)).is_file()
    }


def form_findings(
    folder: Path, rows: Sequence[Row], others: dict[str, str], found: Inspection, *, jobs: int, backend: str
) -> Iterator[Finding]:
    """Look at other forms: one that is whole may stand in for a file that is not; one that is damaged may be read in place of one that is.

    Args:
        folder: of the zoo.
        rows: of `files`, which were looked at.
        others: see `other_forms`.
        found: so far; what may stand in is put into its `forms`.
        jobs: processes.
        backend: see `weightspace.parallel`.
    """
    chosen = [row for row in rows if row.path in others]
    tasks = (Task(folder / others[row.path], found.is_deep) for row in chosen)
    with contextlib.closing(parallel.run(look, tasks, jobs=jobs, backend=backend)) as results:
        for row, seen in zip(chosen, results, strict=True):
            other, is_whole = others[row.path], row.path not in found.content
            if holds(row, seen):
                if not is_whole:
                    found.forms[row.path] = other
            elif is_whole and other.endswith(PLAIN):
                what = "does not hold the weights that its name says, and is read in place of the compact file that does"
                yield Finding("damaged", what, other, "it can be moved to .weightspace/damaged", True)
            elif not is_whole:
                yield Finding(
                    "damaged", "does not hold the weights that its name says", other, "bring another copy, and ingest it with --copy"
                )


__all__ = ["form_findings", "other_forms"]
