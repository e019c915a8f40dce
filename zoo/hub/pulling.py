"""Pulling a zoo from the Hub: its tables into the catalog, its tensors put together to the same models under the same ids."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import FormatError, one_line
from weightspace.formats.safetensors import open_safetensors
from weightspace.remote.hub import HubAddress, endpoint, files_of, refusal, repository, retried
from weightspace.remote.opening import of_repository
from weightspace.storage import Storage
from weightspace.zoo import store
from weightspace.zoo.beside.cards import card_of
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.exchange import TABLES, import_tables
from weightspace.zoo.exchange.checking import check_tables
from weightspace.zoo.hub.pushing import INDEX
from weightspace.zoo.ingest import Progress

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo


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
    address = HubAddress.dataset(repo)
    try:
        found = repository(address)
    except FormatError as error:
        if error.reason == "missing":
            return False
        raise
    return any(one.rfilename == INDEX for one in found.siblings or ())


def pull_model(zoo: "Zoo", source: str) -> str:
    """Bring a model of the Hub into the zoo's store, with what its card says; returns its id.

    Args:
        zoo: that it comes into.
        source: `hf:org/name[@revision][/file]`.

    Raises:
        FormatError: it is not there, or holds no safetensors.
    """
    address = HubAddress.parse(f"hf:{source.removeprefix('hf:')}")
    found = repository(address)
    opened = of_repository(str(address), address, found)
    card = card_of(dict(opened.metadata.get("card", {})))
    metrics: dict[str, dict[str, float]] = {}
    for one in card.metrics:
        metrics.setdefault(one.split or "test", {})[one.name] = one.value
    return zoo.add(
        opened, address.repo, recipe=opened.recipe, tags={"hub": str(address), "revision": str(found.sha)}, metrics=metrics or None
    )


def pull_zoo(catalog: Catalog, repo: str, *, progress: Callable[[Progress], None] | None = None) -> Pulled:
    """Make a zoo that was pushed a zoo again; running it again brings only what is missing.

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
    files = {HubAddress.parse(one.address).path: one for one in files_of(address, found)}
    if INDEX not in files or "tables/models.parquet" not in files:
        raise FormatError(
            f"{address}: is no zoo that was pushed ({INDEX} is missing)",
            reason="unknown",
            advice="name one, or use 'hub ingest' for models",
        )
    with tempfile.TemporaryDirectory(prefix="weightspace-pull-") as scratch:
        tables = {name: _table(place, f"tables/{name}.parquet", Path(scratch)) for name in TABLES if f"tables/{name}.parquet" in files}
        index = _table(place, INDEX, Path(scratch))
    check_tables(tables)
    if not {"hash", "shard"} <= {*index.column_names}:
        raise FormatError(f"{place}: {INDEX} does not say which shard holds which tensor", reason="corrupt", advice="push the zoo again")
    catalog.create()
    shards = dict(zip(index["hash"].to_pylist(), index["shard"].to_pylist(), strict=True))
    held = _Held(place, set(files), shards, catalog.home / "pull")
    rows, stored, without = [], 0, 0
    models = tables["models"]["id"].to_pylist()
    for at, (model, tensors) in enumerate(_by_model(tables, models)):
        if store.store_path(catalog.home, model).exists():
            rows.append(_file_row(catalog.home, store.store_path(catalog.home, model), model, tables))
        elif all(digest in shards for _, _, digest, _ in tensors):
            stored += 1
            checkpoint = held.checkpoint(tensors)
            if checkpoint.id != model:
                raise FormatError(
                    f"{place}: the tensors of model {model[:12]} are not those that its id names",
                    reason="corrupt",
                    advice="push the zoo again",
                )
            path = store.put(catalog.home, checkpoint, model)
            rows.append(_file_row(catalog.home, path, model, tables))
        else:
            without += 1
        if progress is not None:
            progress(Progress(at + 1, len(models), 0, 0))
    remote = [row for row in tables["files"].to_pylist() if row["path"].startswith("hf:")] if "files" in tables else []
    schema = tables["files"].schema if "files" in tables else None
    given = {**tables, "files": pa.Table.from_pylist([*rows, *remote], schema=schema)}
    with catalog.writing() as connection:
        new = import_tables(connection, given)
    shutil.rmtree(held.folder, ignore_errors=True)
    return Pulled(str(place), len(models), new, stored, without)


Tensor = tuple[str, TensorInfo, str, str | None]
"""Name, header, hash, name of the tensor that it is tied to."""


def _by_model(tables: Mapping[str, pa.Table], models: list[str]) -> list[tuple[str, list[Tensor]]]:
    shapes = {row["hash"]: row for row in tables["tensors"].to_pylist()} if "tensors" in tables else {}
    out: dict[str, list[Tensor]] = {model: [] for model in models}
    by_position = [("model", "ascending"), ("position", "ascending")]
    for row in tables["model_tensors"].sort_by(by_position).to_pylist() if "model_tensors" in tables else ():
        said = shapes.get(row["tensor"])
        if said is None or row["model"] not in out:
            raise FormatError(
                f"table 'model_tensors' names what no other table has ({one_line(str(row['tensor']), 80)})",
                reason="corrupt",
                advice="push it again",
            )
        info = TensorInfo(row["name"], said["dtype"], tuple(said["shape"]), row["alias_of"])
        out[row["model"]].append((row["name"], info, row["tensor"], row["alias_of"]))
    return list(out.items())


class _Held:
    """Shards of a pushed zoo, downloaded when first needed; one that broke off goes on where it was."""

    def __init__(self, place: HubAddress, files: set[str], shards: Mapping[str, str], folder: Path) -> None:
        self.place, self.files, self.shards, self.folder = place, files, shards, folder
        self.opened: dict[str, Checkpoint] = {}

    def checkpoint(self, tensors: list[Tensor]) -> Checkpoint:
        """Put a model together."""
        info = {name: one for name, one, _, _ in tensors}
        storages = {name: self._storage(digest) for name, _, digest, _ in tensors}
        return Checkpoint(info, storages, "safetensors")

    def _storage(self, digest: str) -> Storage:
        shard = self.shards[digest]
        if shard not in self.opened:
            path = f"weights/{shard}.safetensors"
            if path not in self.files:
                raise FormatError(f"{self.place}: shard '{one_line(path, 80)}' is missing", reason="missing", advice="push the zoo again")
            self.opened[shard] = open_safetensors(_downloaded(self.place, path, self.folder))
        found = self.opened[shard].storages.get(digest)
        if found is None:
            raise FormatError(f"{self.place}: a shard lacks the tensor that the index names", reason="corrupt", advice="push the zoo again")
        return found


def _table(place: HubAddress, path: str, folder: Path) -> pa.Table:
    where = _downloaded(place, path, folder)
    try:
        return pq.read_table(where)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{place}: {path} is damaged ({one_line(str(error), 120)})", reason="corrupt", advice="push the zoo again"
        ) from None


def _downloaded(place: HubAddress, path: str, folder: Path) -> Path:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    try:
        return Path(retried(lambda: api.hf_hub_download(place.repo, path, repo_type="dataset", revision=place.revision, local_dir=folder)))
    except Exception as error:
        raise refusal(place, error) from None


def _file_row(home: Path, path: Path, model: str, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    """What the catalog says of a file of the store: place from here, run and step from there."""
    described = store.place_of(home, path)
    return {
        "model": model, "path": described.path, "format": described.format, "num_files": described.num_files, "size": described.size,
        "modified": described.modified, "stamp": described.stamp, "sidecar_stamp": described.sidecar_stamp, "ingested": described.modified,
        **_told(tables).get(model, {}),
    }  # fmt: skip


def _told(tables: Mapping[str, pa.Table]) -> dict[str, dict[str, Any]]:
    rows = tables["files"].select(["model", "run", "step", "metadata"]).to_pylist() if "files" in tables else []
    return {row["model"]: {key: row[key] for key in ("run", "step", "metadata")} for row in reversed(rows)}


__all__ = ["Pulled", "is_zoo", "pull_model", "pull_zoo"]
