"""A look at one model: its page in the catalog, or the same read from a file that is not in it."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, UnknownNameError, guarded, one_line
from weightspace.formats import open_checkpoint, sniff
from weightspace.remote import is_remote, open_remote
from weightspace.remote.file import RemoteFile
from weightspace.storage import FileSpan
from weightspace.zoo import query, reading
from weightspace.zoo.discover import stamp_at
from weightspace.zoo.ingest import stored_path
from weightspace.zoo.records import TensorRow

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

_COLUMNS = (
    "name", "dtype", "shape", "alias_of", "hash", "numel", "nbytes", "num_zero", "num_nan", "num_inf",
    "minimum", "maximum", "mean", "std", "l1", "l2", "skewness", "kurtosis",
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """One model, catalogued or not.

    Attributes:
        page: what the catalog knows of it, or what reading it told.
        checkpoint: its weights, where a file of it is still there.
        is_catalogued: whether the page comes from the catalog.
    """

    page: query.ModelPage
    checkpoint: Checkpoint | None
    is_catalogued: bool


def look(zoo: "Zoo", model: str) -> Look:
    """Find a model by path, name or id prefix; a file that is not in the catalog, or has changed since, is read whole.

    Raises:
        UnknownNameError: no such model and no such file.
        FormatError: the file is no checkpoint, or a damaged one.
    """
    if is_remote(model):
        afar = open_remote(model)
        return Look(page_of(afar, reading.unread(afar)), afar, False)
    if is_checkpoint_path(model) or not zoo.catalog.exists():
        checkpoint = open_checkpoint(model)
        page = _page_at(zoo, [Path(model), *checkpoint.files])  # a folder without a config is catalogued by the file in it
        return Look(page or page_of(checkpoint), checkpoint, page is not None)
    try:
        page = zoo.page(model)
    except UnknownNameError:
        _expect_not_refused(zoo, model)
        raise
    try:
        return Look(page, zoo.open(model), True)
    except FormatError:
        return Look(page, None, True)


def _expect_not_refused(zoo: "Zoo", model: str) -> None:
    """A file that the catalog lists as refused is none of its models, and what was said of it then still tells most.

    Raises:
        FormatError: what was wrong with it.
    """
    with zoo.reading() as connection:
        refused = connection.execute("select reason, detail, advice from quarantine where path = ?", [model]).fetchone()
    if refused is not None:
        reason, detail, advice = refused
        raise FormatError(detail if model in detail else f"{one_line(model, 200)}: {detail}", reason=reason, advice=advice)


def is_checkpoint_path(model: str | Path) -> bool:
    """Whether this is the path of something to open; a folder without a checkpoint of its own may be the name of a model."""
    path = Path(model)
    return path.is_file() or (path.is_dir() and sniff(path) is not None)


def _page_at(zoo: "Zoo", places: Sequence[Path]) -> query.ModelPage | None:
    """The catalog's page of the file at one of several paths, if it is there and the file is still the one that was read."""
    if not zoo.catalog.exists():
        return None
    with zoo.reading() as connection:
        for path in (Path(os.path.abspath(place)) for place in places):  # noqa: PTH100 - as discovery writes paths
            known = connection.execute("select model_id, stamp from files where path = ?", [stored_path(path, zoo.folder)]).fetchall()
            if known and known[0][1] == stamp_at(path):
                return query.page(connection, known[0][0])
    return None


def page_of(checkpoint: Checkpoint, rows: Sequence[TensorRow] | None = None) -> query.ModelPage:
    """Make the page that the catalog would have of a checkpoint; without rows it is read whole, and memory follows the largest tensor.

    Raises:
        FormatError: its bytes are gone or damaged.
    """
    path = checkpoint.path or Path(str(checkpoint.metadata.get("address", "memory")))
    is_read = rows is None
    if rows is None:
        [rows] = guarded(lambda _: reading.measured([(checkpoint, tuple(checkpoint.info))]), path)
    read = reading.finished(checkpoint, rows)
    files = checkpoint.files or ((checkpoint.path,) if checkpoint.path else ())
    facts = [file.stat() for file in files]
    elsewhere = {
        one.file.address: one.file.size
        for one in checkpoint.storages.values()
        if isinstance(one, FileSpan) and isinstance(one.file, RemoteFile)
    }
    place = {
        "path": str(path),
        "format": checkpoint.format,
        "num_files": len(files) + len(elsewhere),
        "size": sum(fact.st_size for fact in facts) + sum(elsewhere.values()),
        "modified": datetime.fromtimestamp(max(fact.st_mtime for fact in facts), UTC).replace(tzinfo=None) if facts else None,
        "step": None,
        "metadata": json.dumps({"container": checkpoint.metadata}, default=str) if checkpoint.metadata else None,
    }
    model = {
        "id": read.id.hex(),
        "name": path.name,
        "kind": read.kind,
        "num_params": read.num_params,
        "num_bytes": read.num_bytes,
        "num_tensors": len(rows),
        "is_finite": not any(row[8] or row[9] for row in rows) if is_read else None,
        "path": str(path),
        "format": checkpoint.format,
    }
    tensors = [{"position": at, **dict(zip(_COLUMNS, row, strict=True)), "hash": row[4].hex()} for at, row in enumerate(rows)]
    none: list[dict[str, object]] = []
    return query.ModelPage(
        model=model,
        tensors=pa.Table.from_pylist(tensors),
        files=pa.Table.from_pylist([place]),
        metrics=pa.Table.from_pylist(none),
        tags={},
        parents=tuple((parent[:12], str((checkpoint.recipe or {}).get("kind", "made"))) for parent in checkpoint.parents),
        recipe=None if checkpoint.recipe is None else dict(checkpoint.recipe),
    )
