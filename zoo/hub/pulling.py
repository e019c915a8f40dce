"""Pulling a zoo from the Hub: its tables into the catalog, its tensors put together to the same models under the same ids."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, one_line
from weightspace.formats.safetensors import open_safetensors
from weightspace.remote.downloading import downloaded
from weightspace.remote.file import RemoteFile
from weightspace.remote.hub import HubAddress, files_of, repository
from weightspace.storage import SourceFile, Storage
from weightspace.zoo import store
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.exchange import TABLES, import_tables
from weightspace.zoo.exchange.bounded import read_bounded
from weightspace.zoo.exchange.checking import check_tables
from weightspace.zoo.hub.assembling import Claimed, claimed, with_measured
from weightspace.zoo.hub.linking import link
from weightspace.zoo.hub.private import known_runs
from weightspace.zoo.hub.scratch import incoming
from weightspace.zoo.hub.shards import INDEX, checked_index, path_of
from weightspace.zoo.ingest import Progress
from weightspace.zoo.records import Place, TensorRow


@dataclass(frozen=True)
class Pulled:
    """What a pull brought.

    Attributes:
        repo: address of the repository, with its commit.
        models: models in it.
        new_models: those that the catalog did not have.
        stored: models whose weights were written to the store.
        without_weights: models of which only the rows are there.
    """

    repo: str
    models: int
    new_models: int
    stored: int
    without_weights: int


def is_zoo(repo: str) -> bool:
    """Whether there is a data set of this name that is a zoo."""
    found = _found(HubAddress.dataset(repo))
    return found is not None and any(one.rfilename == INDEX for one in found.siblings or ())


def is_there(address: HubAddress) -> bool:
    """Whether there is such a repository, as far as this login may see."""
    return _found(address) is not None


def _found(address: HubAddress) -> Any:
    try:
        return repository(address)
    except FormatError as error:
        if error.reason == "missing":
            return None
        raise


def no_zoo(address: HubAddress, lacking: str = INDEX) -> FormatError:
    """What a data set is that is there, and was not pushed as a zoo."""
    advice = "name one that 'hub push' made, or download its files and 'weightspace ingest' them"
    return FormatError(f"{address}: is there, but is no zoo that was pushed (it has no {lacking})", reason="unknown", advice=advice)


def pull_zoo(catalog: Catalog, repo: str, *, progress: Callable[[Progress], None] | None = None) -> Pulled:
    """Make a zoo that was pushed a zoo again; running it again brings only what is missing.

    What the tables claim is checked against each other and against the weights; statistics of weights that came are those that were
    measured here.

    Args:
        catalog: created if it does not exist; what it holds stays.
        repo: `org/name[@revision]` of a data set that `push_zoo` made.
        progress: called after each model.

    Raises:
        FormatError: it is no such data set, damaged, or the Hub refuses; what was brought stays in the store.
        CatalogError: a table holds what cannot be.
    """
    address = HubAddress.dataset(repo)
    found = repository(address)
    place = HubAddress(address.repo, found.sha, "", "dataset")
    files = {HubAddress.parse(one.address).path: one for one in files_of(place, found)}
    lacking = next((name for name in (INDEX, "tables/models.parquet") if name not in files), None)
    if lacking is not None:
        raise no_zoo(address, lacking)
    with incoming(catalog.home) as folder:
        tables = {name: _table(files[f"tables/{name}.parquet"], folder) for name in TABLES if f"tables/{name}.parquet" in files}
        check_tables(tables)
        shards = checked_index(_table(files[INDEX], folder), str(place))
        models = claimed(tables, str(place))
        catalog.create()
        return _taken_in(catalog, _Shards(place, files, shards, folder), tables, models, progress)


def _table(file: RemoteFile, folder: Path) -> pa.Table:
    name = hashlib.sha256(f"{file.address}\0{file.version}".encode()).hexdigest()
    return read_bounded(downloaded(file, folder, name).local, file.address)


def _taken_in(
    catalog: Catalog,
    shards: "_Shards",
    tables: Mapping[str, pa.Table],
    models: Sequence[Claimed],
    progress: Callable[[Progress], None] | None,
) -> Pulled:
    """Bring what is missing of the weights into the store, then the tables into the catalog."""
    places: dict[str, Place] = {}
    measured: list[tuple[str, TensorRow]] = []
    known, stored = _known(catalog), 0
    wanted = [one for one in models if shards.has(one)]
    lying = {one.id: store.stored(catalog.home, one.id) for one in wanted}
    shards.expect([one for one in wanted if lying[one.id] is None])
    for at, one in enumerate(wanted):
        lies = lying[one.id]
        if lies is None:
            stored += 1
            made = one.checkpoint(shards.storage)
            rows = one.measured(made, str(shards.place))
            lies = store.put(catalog.home, made, one.id)
            shards.release(one)
            measured += ((one.id, row) for row in rows)
        elif one.id not in known and (here := store.open_stored(catalog.home, one.id)) is not None:  # left by a pull that broke off
            measured += ((one.id, row) for row in one.measured(here, str(shards.place)))
        places[one.id] = lies
        if progress is not None:
            progress(Progress(at + 1, len(wanted), 0, 0))
    with catalog.writing() as connection:
        given = known_runs(connection, with_measured(tables, iter(measured)))
        new = import_tables(connection, {**given, "files": _files(given, places)})
    link(catalog)
    return Pulled(str(shards.place), len(models), new, stored, len(models) - len(wanted))


def _known(catalog: Catalog) -> set[str]:
    with catalog.reading() as connection:
        return {id for (id,) in connection.execute("select lower(hex(id)) from models").fetchall()}


def _files(tables: Mapping[str, pa.Table], places: Mapping[str, Place]) -> pa.Table:
    """Where models lie now: those in the store there, with what the pushed table says of run, step and metadata; others on the Hub."""
    told = tables["files"].to_pylist() if "files" in tables else []
    described = {row["model"]: {key: row[key] for key in ("run", "step", "metadata")} for row in reversed(told)}
    rows = [_file_row(model, place, described.get(model, {})) for model, place in places.items()]
    remote = [row for row in told if row["path"].startswith("hf:")]
    return pa.Table.from_pylist([*rows, *remote], schema=tables["files"].schema if "files" in tables else None)


def _file_row(model: str, place: Place, told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model, "path": place.path, "format": place.format, "num_files": place.num_files, "size": place.size,
        "modified": place.modified, "stamp": place.stamp, "sidecar_stamp": place.sidecar_stamp, "ingested": place.modified, **told,
    }  # fmt: skip


class _Shards:
    """Shards of a pushed zoo: downloaded when first needed, going on where one broke off, and removed when no model needs them any more."""

    def __init__(self, place: HubAddress, files: Mapping[str, RemoteFile], shards: Mapping[str, str], folder: Path) -> None:
        self.place, self.files, self.shards, self.folder = place, files, shards, folder
        self.opened: dict[str, Checkpoint] = {}
        self.needed: Counter[str] = Counter()

    def has(self, model: Claimed) -> bool:
        """Whether all the weights of a model were pushed."""
        return all(digest in self.shards for digest in model.hashes.values())

    def expect(self, models: Sequence[Claimed]) -> None:
        """Say which models will be asked for."""
        self.needed = Counter(shard for one in models for shard in self._of(one))

    def _of(self, model: Claimed) -> set[str]:
        return {self.shards[digest] for digest in model.hashes.values()}

    def release(self, model: Claimed) -> None:
        """Say that a model is in the store."""
        for shard in self._of(model):
            self.needed[shard] -= 1
            if not self.needed[shard] and (opened := self.opened.pop(shard, None)) is not None:
                for file in {span.file for span in _spans(opened)}:
                    file.close()
                for path in opened.files:
                    path.unlink(missing_ok=True)

    def storage(self, digest: str) -> Storage:
        """The bytes of a content."""
        shard = self.shards[digest]
        if shard not in self.opened:
            path = path_of(shard)
            if path not in self.files:
                raise FormatError(f"{self.place}: shard '{one_line(path, 80)}' is missing", reason="missing", advice="push the zoo again")
            # Named by what is in it, so that one of another commit is another file.
            name = f"{self.files[path].version}.safetensors"
            self.opened[shard] = open_safetensors(downloaded(self.files[path], self.folder, name).local)
        found = self.opened[shard].storages.get(digest)
        if found is None:
            raise FormatError(f"{self.place}: a shard lacks the tensor that the index names", reason="corrupt", advice="push the zoo again")
        return found


def _spans(opened: Checkpoint) -> Iterator[Any]:
    yield from (one for one in opened.storages.values() if isinstance(getattr(one, "file", None), SourceFile))


__all__ = ["Pulled", "is_there", "is_zoo", "no_zoo", "pull_zoo"]
