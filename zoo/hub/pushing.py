"""Pushing to the Hub: a zoo as a data set of tables and shards of tensors by their hashes, or one model as a model repository."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import FormatError
from weightspace.formats.safetensors import save
from weightspace.provenance import stated
from weightspace.remote.hub import HubAddress, endpoint, refusal, repository, retried
from weightspace.storage import Storage
from weightspace.zoo.exchange import chosen, export_tables
from weightspace.zoo.hub.cards import model_card, zoo_card
from weightspace.zoo.ingest import Progress

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

INDEX = "weights/index.parquet"
SHARD_BYTES = 1 << 29
Opened = Callable[[str], Checkpoint]


@dataclass(frozen=True)
class Pushed:
    """What a push sent, or would send.

    Attributes:
        repo: address of the repository.
        models: models in what was pushed.
        tensors: tensors that the repository did not have.
        files: paths of files that are new or changed there.
        num_bytes: of those files.
        unsendable: models with tensors that safetensors cannot hold; their rows are pushed, their weights are not.
        commit: that it made; None where nothing was new, or nothing was sent.
    """

    repo: str
    models: int
    tensors: int
    files: tuple[str, ...]
    num_bytes: int
    unsendable: tuple[str, ...] = ()
    commit: str | None = None


def push_zoo(
    zoo: "Zoo",
    repo: str,
    *,
    where: str | None = None,
    private: bool,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Pushed:
    """Push models with all that the catalog knows of them, but for where they lie here; only what the repository lacks is sent, in one commit.

    Args:
        zoo: whose models.
        repo: `org/name` of a data set, made if there is none.
        where: SQL over `model_table`; all models by default.
        private: whether a repository that is made here is private; one that exists stays as it is.
        dry_run: only say what would be sent.
        progress: called after each model whose tensors are new.

    Raises:
        FormatError: the Hub refuses, or somebody else pushed meanwhile; nothing of it is lost, a second push goes on.
        CatalogError: no model fits.
    """
    address = HubAddress.dataset(repo)
    tables = _tables_of(zoo, where)
    there = _there(address)
    index = _index(address, there)
    with tempfile.TemporaryDirectory(prefix="weightspace-push-") as scratch:
        folder = Path(scratch)
        wanted = _wanted(tables, set(index["hash"].to_pylist()))
        unsendable: list[str] = []
        rows = list(_shards(wanted, zoo.open, folder, unsendable, progress))
        index = pa.concat_tables([index, pa.table({"hash": [h for h, _ in rows], "shard": [s for _, s in rows]}, schema=_SCHEMA)])
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.safetensors"))}
        files |= _written(tables, index, folder, zoo_card(address.repo, tables))
        return _sent(address, files, there, private, dry_run, tables["models"].num_rows, len(rows), unsendable)


def push_model(zoo: "Zoo", model: str, repo: str, *, private: bool, dry_run: bool = False) -> Pushed:
    """Push one model as a model repository: weights, configuration if it has one, and a card from what the catalog knows.

    Args:
        zoo: that it is in.
        model: its name, id prefix or path.
        repo: `org/name`, made if there is none.
        private: see `push_zoo`.
        dry_run: only say what would be sent.

    Raises:
        FormatError: the Hub refuses, or its tensors are of a dtype that safetensors cannot hold.
    """
    address = HubAddress.parse(f"hf:{repo.removeprefix('hf:')}")
    page = zoo.page(model)
    tables = _tables_of(zoo, f"id = '{page.model['id']}'")
    [row] = tables["models"].to_pylist()
    metrics = [one for one in tables["metrics"].to_pylist() if one["model"]]
    parents = zoo.sql(
        "select p.name from edges join models p on p.model_id = parent_id join models c on c.model_id = child_id where c.id = unhex(?) order by 1",
        [row["id"]],
    )
    checkpoint = zoo.open(row["id"])
    with tempfile.TemporaryDirectory(prefix="weightspace-push-") as scratch:
        folder = Path(scratch)
        said = stated(checkpoint.recipe, checkpoint.parents) if checkpoint.recipe else {}
        files = {"model.safetensors": save(checkpoint, folder / "model.safetensors", {"format": "pt", **said})}
        metadata = json.loads(next((one["metadata"] for one in tables["files"].to_pylist() if one["metadata"]), "{}"))
        for key in ("config", "adapter_config"):
            if metadata.get(key):
                files[f"{key}.json"] = folder / f"{key}.json"
                files[f"{key}.json"].write_text(json.dumps(metadata[key], indent=2, sort_keys=True), "utf-8")
        if "adapter_config.json" in files:
            files["adapter_model.safetensors"] = files.pop("model.safetensors")
        files["README.md"] = folder / "README.md"
        files["README.md"].write_text(model_card(address.repo, row, metrics, parents["name"].to_pylist()), "utf-8")
        return _sent(address, files, _there(address), private, dry_run, 1, len(checkpoint.info), [])


def _sent(
    address: HubAddress,
    files: Mapping[str, Path],
    there: Mapping[str, str],
    private: bool,
    dry_run: bool,
    models: int,
    tensors: int,
    unsendable: Sequence[str],
) -> Pushed:
    """Send the files that the repository has not, or has otherwise."""
    changed = {name: path for name, path in files.items() if there.get(name) not in _digests(path)}
    size = sum(path.stat().st_size for path in changed.values())
    commit = None if dry_run or not changed else _commit(address, changed, private, bool(there))
    return Pushed(str(address), models, tensors, tuple(changed), size, tuple(dict.fromkeys(unsendable)), commit)


def _tables_of(zoo: "Zoo", where: str | None) -> dict[str, pa.Table]:
    """What the catalog knows of models, without the places where they lie on this machine.

    Raises:
        CatalogError: no model fits.
    """
    wanted = chosen(zoo, where)
    with zoo.catalog.reading() as connection:
        tables = dict(export_tables(connection, wanted))
    places = tables["files"]["path"].to_pylist()
    public = pa.array([path if path.startswith("hf:") else "" for path in places], pa.string())
    return tables | {"files": tables["files"].set_column(tables["files"].schema.get_field_index("path"), "path", public)}


_SCHEMA = pa.schema([("hash", pa.string()), ("shard", pa.string())])


def _there(address: HubAddress) -> dict[str, str]:
    """Digest of each file of the repository, SHA-256 of large ones and git's own of others; empty where there is no repository."""
    try:
        found = repository(address)
    except FormatError as error:
        if error.reason == "missing":
            return {}
        raise
    digests = {one.rfilename: str((one.lfs or {}).get("sha256") or one.blob_id) for one in found.siblings or ()}
    return digests | {"": str(found.sha)}


def _index(address: HubAddress, there: Mapping[str, str]) -> pa.Table:
    """Which shard holds which tensor already."""
    if INDEX not in there:
        return _SCHEMA.empty_table()
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = retried(
                lambda: HfApi(endpoint=endpoint()).hf_hub_download(
                    address.repo, INDEX, repo_type="dataset", revision=there[""], local_dir=scratch
                )
            )
        except Exception as error:
            raise refusal(address, error) from None
        return pq.read_table(path, schema=_SCHEMA)


def _wanted(tables: Mapping[str, pa.Table], known: set[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """For each model what is new in it: (tensor name, hash, model's name), each content once."""
    names = dict(zip(tables["models"]["id"].to_pylist(), tables["models"]["name"].to_pylist(), strict=True))
    unread = {row["id"] for row in tables["models"].select(["id", "is_finite"]).to_pylist() if row["is_finite"] is None}
    found: dict[str, list[tuple[str, str, str]]] = {}
    columns = tables["model_tensors"].select(["model", "name", "tensor"])
    for model, name, digest in zip(*(columns[column].to_pylist() for column in ("model", "name", "tensor")), strict=True):
        if digest not in known and model not in unread:
            known.add(digest)
            found.setdefault(model, []).append((name, digest, names[model]))
    return list(found.items())


def _shards(
    wanted: Sequence[tuple[str, list[tuple[str, str, str]]]],
    opened: Opened,
    folder: Path,
    unsendable: list[str],
    progress: Callable[[Progress], None] | None,
) -> Iterator[tuple[str, str]]:
    """Write tensors that are new into shards, and yield the hash of each with the shard that holds it."""
    (folder / "weights").mkdir(parents=True)
    info: dict[str, TensorInfo] = {}
    storages: dict[str, Storage] = {}
    size = 0
    for at, (model, tensors) in enumerate(wanted):
        checkpoint = opened(model)
        if progress is not None:
            progress(Progress(at, len(wanted), size, size))
        for name, digest, label in tensors:
            one = checkpoint.info[name]
            element = dtypes.dtype(one.dtype)
            if element.kind == "quantized" or element.name == "C128":
                unsendable.append(label)
                continue
            info[digest], storages[digest] = TensorInfo(digest, one.dtype, one.shape), checkpoint.storages[name]
            size += one.nbytes
        if size >= SHARD_BYTES:
            yield from _shard(info, storages, folder)
            info, storages, size = {}, {}, 0
    if info:
        yield from _shard(info, storages, folder)


def _shard(info: Mapping[str, TensorInfo], storages: Mapping[str, Storage], folder: Path) -> Iterator[tuple[str, str]]:
    name = hashlib.sha256("\n".join(sorted(info)).encode()).hexdigest()[:16]
    save(Checkpoint(info, storages, "memory"), folder / "weights" / f"{name}.safetensors")
    yield from ((digest, name) for digest in sorted(info))


def _written(tables: Mapping[str, pa.Table], index: pa.Table, folder: Path, card: str) -> dict[str, Path]:
    """Write tables, index and card; empty tables are left out."""
    (folder / "README.md").write_text(card, "utf-8")
    made = {"README.md": folder / "README.md", INDEX: folder / INDEX}
    pq.write_table(index.sort_by("hash"), folder / INDEX)
    for name, table in tables.items():
        if table.num_rows:
            path = folder / "tables" / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(table, path)
            made[f"tables/{name}.parquet"] = path
    return made


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 of a file, and what git names it by."""
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            sha256.update(block)
            sha1.update(block)
    return sha256.hexdigest(), sha1.hexdigest()


def _commit(address: HubAddress, files: Mapping[str, Path], private: bool, exists: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint())
    try:
        if not exists:
            retried(lambda: api.create_repo(address.repo, repo_type=address.kind, private=private, exist_ok=True))
        parent = retried(lambda: api.repo_info(address.repo, repo_type=address.kind)).sha
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        message = f"{len(files)} files from weightspace"
        made = api.create_commit(address.repo, operations, commit_message=message, repo_type=address.kind, parent_commit=parent)
        return str(made.oid)
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 412:
            raise FormatError(f"{address}: somebody else pushed meanwhile", reason="unreadable", advice="push again") from None
        raise refusal(address, error) from None


__all__ = ["INDEX", "Pushed", "push_model", "push_zoo"]
