"""Cataloguing repositories of the Hub from what it says of them and from the headers of their files; no weights are read."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from blake3 import blake3

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, one_line
from weightspace.remote.file import RemoteFile
from weightspace.remote.hub import HubAddress, files_of, repository
from weightspace.remote.opening import of_files, weights_among
from weightspace.storage import FileSpan
from weightspace.zoo.beside.cards import ModelCard, card_of
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.ingest import Progress
from weightspace.zoo.reading import finished, unread
from weightspace.zoo.records import BESIDE, Description, ModelRecord, Place, Record, Refusal
from weightspace.zoo.write import forget_paths, write_records

READERS = 8  # repositories that are asked for at once
FLUSH_SECONDS = 2.0
FLUSH_REPOSITORIES = 200


@dataclass
class HubReport:
    """What cataloguing from the Hub did.

    Attributes:
        catalogued: repositories whose headers were read.
        unchanged: repositories whose commit was known.
        refused: repositories that hold no weights that can be read so, or are closed.
        bytes_read: of their files, headers alone.
        num_files: files of which headers were read.
        seconds: wall time.
        interrupted: whether Ctrl-C ended it; what was done is in the catalog.
    """

    catalogued: int = 0
    unchanged: int = 0
    refused: list[Refusal] = field(default_factory=list)
    bytes_read: int = 0
    num_files: int = 0
    seconds: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True)
class _Read:
    """A repository that was looked at; one that could not be asked is still what it was."""

    record: Record | None
    bytes_read: int = 0
    num_files: int = 0
    is_found: bool = True


def search(*, author: str | None = None, search: str | None = None, filter: Sequence[str] = (), limit: int | None = None) -> Iterator[str]:
    """Yield the names of models on the Hub, page by page.

    Args:
        author: user or organisation.
        search: part of a name.
        filter: tags, libraries and tasks that each model has all of.
        limit: no more than so many.

    Raises:
        FormatError: the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    from weightspace.remote.hub import endpoint, refusal

    try:
        for found in HfApi(endpoint=endpoint()).list_models(author=author, search=search, filter=list(filter) or None, limit=limit):
            yield found.id
    except Exception as error:
        raise refusal(HubAddress(author or search or "models"), error) from None


def ingest_hub(
    catalog: Catalog,
    repositories: Iterable[str],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> HubReport:
    """Catalogue models of the Hub by their headers; running it again reads only repositories with a new commit.

    A model whose weights nobody has read has tensors without statistics, and ids that follow from the files' SHA-256 and the places in
    them: the same file in two repositories is one content, but no such id is that of weights that were read.

    Args:
        catalog: created if it does not exist.
        repositories: `hf:org/name[@revision][/file]`, or `org/name`.
        progress: called after each.

    Raises:
        CatalogError: the catalog cannot be written.
    """
    started = time.monotonic()
    catalog.create()
    report, pending, outdated, flushed = HubReport(), list[Record](), list[str](), started
    known = _known(catalog)
    done = 0

    def flush() -> None:
        if pending:
            with catalog.writing() as connection:
                forget_paths(connection, outdated)
                write_records(connection, pending)
            pending.clear()
            outdated.clear()

    try:
        with ThreadPoolExecutor(READERS) as readers:
            for read in _in_order(readers, lambda name: _look(name, known), repositories):
                done += 1
                _count(report, read)
                if read.record is not None:
                    pending.append(read.record)
                    outdated += known.get(_stem(read.record.place.path), ()) if read.is_found else ()
                if len(pending) >= FLUSH_REPOSITORIES or time.monotonic() - flushed > FLUSH_SECONDS:
                    flush()
                    flushed = time.monotonic()
                if progress is not None:
                    progress(Progress(done, done, report.bytes_read, report.bytes_read))
    except KeyboardInterrupt:
        report.interrupted = True
    finally:
        flush()
    report.seconds = time.monotonic() - started
    return report


def _known(catalog: Catalog) -> dict[str, set[str]]:
    """What the catalog has of each repository, by its address without a revision."""
    with catalog.reading() as connection:
        rows = connection.execute("select path from files where starts_with(path, 'hf:')").fetchall()
    known: dict[str, set[str]] = {}
    for (path,) in rows:
        known.setdefault(_stem(path), set()).add(path)
    return known


def _stem(address: str) -> str:
    """An address without its revision."""
    try:
        return str(replace(HubAddress.parse(address), revision=None))
    except FormatError:
        return address


def _in_order(readers: ThreadPoolExecutor, work: Callable[[str], _Read], names: Iterable[str]) -> Iterator[_Read]:
    """Work on a few names ahead, and yield what comes out in order; what has not begun is given up when the caller stops."""
    ahead: list[Future[_Read]] = []
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


def _count(report: HubReport, read: _Read) -> None:
    report.bytes_read += read.bytes_read
    report.num_files += read.num_files
    if read.record is None:
        report.unchanged += 1
    elif isinstance(read.record, Refusal):
        report.refused.append(read.record)
    else:
        report.catalogued += 1


def _look(name: str, known: Mapping[str, set[str]]) -> _Read:
    """Look at one repository; what is wrong with it becomes its record."""
    try:
        address = HubAddress.parse(name)
    except FormatError as error:
        return _Read(_refused(name, 0, 0, error))
    try:
        found = repository(address)
    except FormatError as error:
        return _Read(_refused(str(address), 0, 0, error), is_found=False)
    place = str(replace(address, revision=found.sha))
    if place in known.get(_stem(place), ()):
        return _Read(None)
    files = files_of(address, found)
    try:
        chosen = weights_among(place, files)
        checkpoint = of_files(place, chosen)
    except FormatError as error:
        return _Read(_refused(place, _stamp(place), sum(one.size for one in files), error))
    read = sum(_header_bytes(checkpoint, file) for file in chosen)
    return _Read(_record(place, found, chosen, checkpoint), read, len(chosen))


def _stamp(address: str) -> int:
    return int.from_bytes(blake3(address.encode()).digest(8), "little")


def _header_bytes(checkpoint: Checkpoint, file: RemoteFile) -> int:
    starts = [one.offset for one in checkpoint.storages.values() if isinstance(one, FileSpan) and one.file == file]
    return min(starts, default=file.size)


def _refused(address: str, stamp: int, size: int, error: FormatError) -> Refusal:
    place = Place(address, None, 0, size, datetime.fromtimestamp(0, UTC).replace(tzinfo=None), stamp)
    return Refusal(place, error.reason, error.detail, error.advice)


def _record(address: str, found: Any, files: Sequence[RemoteFile], checkpoint: Checkpoint) -> ModelRecord:
    read = finished(checkpoint, unread(checkpoint))
    modified = getattr(found, "last_modified", None) or datetime.fromtimestamp(0, UTC)
    sha256 = bytes.fromhex(files[0].version) if len(files) == 1 and len(files[0].version) == 64 else None
    size = sum(one.size for one in files)
    place = Place(
        address, "safetensors", len(files), size, modified.astimezone(UTC).replace(tzinfo=None), _stamp(address), _stamp(address), sha256
    )
    is_adapter = any(".lora_" in name or "lora_A" in name for name in checkpoint.info) and "adapter" in files[0].path.name
    return ModelRecord(
        place=place,
        name=_stem(address).removeprefix("hf:"),
        id=read.id,
        weights_id=read.weights_id,
        fingerprint=read.fingerprint,
        kind="adapter" if is_adapter else checkpoint.kind,
        num_params=checkpoint.num_params,
        num_bytes=checkpoint.num_bytes,
        tensors=read.rows,
        description=_description(found),
        recipe=checkpoint.recipe,
        parents=checkpoint.parents,
        is_read=False,
    )


def _description(found: Any) -> Description:
    said = found.card_data.to_dict() if getattr(found, "card_data", None) is not None else {}
    card: ModelCard = card_of(said)
    config = getattr(found, "config", None) or {}
    named = config.get("architectures")
    family = _words(named[0] if isinstance(named, list) and named else None) or config.get("model_type")
    tags = {"revision": str(found.sha)} | ({"gated": str(found.gated)} if getattr(found, "gated", False) else {})
    return Description(
        metadata={"card": said, "config": config} if said or config else {},
        licence=card.licence,
        base_model=next(iter(card.base_models), None),
        datasets=card.datasets,
        languages=card.languages,
        library=card.library or _words(getattr(found, "library_name", None)),
        task=card.task or _words(getattr(found, "pipeline_tag", None)),
        family=_words(family),
        metrics=tuple((metric, BESIDE) for metric in card.metrics),
        tags=tags,
    )


def _words(said: object) -> str | None:
    """What somebody wrote, where it is text: cards and configurations may say anything."""
    return one_line(said, 200) if isinstance(said, str) else None


__all__ = ["HubReport", "ingest_hub", "search"]
