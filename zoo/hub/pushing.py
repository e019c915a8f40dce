"""Pushing to the Hub: a zoo as a data set of tables and shards of tensors by their hashes, or one model as a model repository."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats.safetensors import save
from weightspace.provenance import PARENTS, RECIPE, stated
from weightspace.provenance import told as said_back
from weightspace.remote.downloading import downloaded
from weightspace.remote.hub import HubAddress, files_of, repository
from weightspace.zoo.exchange import TABLES, chosen, export_tables
from weightspace.zoo.exchange.bounded import read_bounded
from weightspace.zoo.hub.cards import model_card, zoo_card
from weightspace.zoo.hub.joining import joined
from weightspace.zoo.hub.private import without_places
from weightspace.zoo.hub.scratch import outgoing
from weightspace.zoo.hub.sending import Sender, There, differing, look, target
from weightspace.zoo.hub.shards import INDEX, Shard, checked_index, index_table, planned
from weightspace.zoo.ingest import Progress
from weightspace.zoo.literals import quoted
from weightspace.zoo.whereabouts import whereabouts

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


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
        is_private: whether the repository is; of one that was there already as it was.
        is_seen: whether it could be looked at; all counts as new in one that is not there, or that this login may not see.
        new_branch: the branch that it made, or would make; None where none was named, or it was there.
    """

    repo: str
    models: int
    tensors: int
    files: tuple[str, ...]
    num_bytes: int
    unsendable: tuple[str, ...] = ()
    commit: str | None = None
    is_private: bool = True
    is_seen: bool = True
    new_branch: str | None = None


def push_zoo(
    zoo: "Zoo",
    repo: str,
    *,
    models: Sequence[str] = (),
    where: str | None = None,
    private: bool,
    dry_run: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Pushed:
    """Push models with all that the catalog knows of them, but for where they lie here; only what the repository lacks is sent, in one commit.

    All models together take the place of what the tables there say; models that are chosen are added to them.

    Args:
        zoo: whose models.
        repo: `org/name[@branch]` of a data set, made if there is none.
        models: names, id prefixes or paths of those to push; all by default.
        where: SQL over `model_table`, in place of names.
        private: whether a repository that is made here is private; one that exists stays as it is.
        dry_run: only say what would be sent.
        progress: called after each model whose tensors are new.

    Raises:
        FormatError: the Hub refuses, or somebody else pushed meanwhile; what was sent need not be sent again.
        CatalogError: no model fits, or the repository is public, and was to be private.
    """
    address = target(repo, "dataset")
    tables = _tables_of(zoo, _among(zoo, models) if models else where)
    pushed = tables["models"].num_rows
    with outgoing(zoo.catalog.home) as folder:
        there = look(address, private)
        index = _index(there, folder)
        shards, unsendable = planned(tables, index)
        if models or where is not None:
            tables = joined(tables, _tables_there(there, folder))
        rows = [*index.items(), *(row for shard in shards for row in shard.rows())]
        files = differing(there, _written(tables, index_table(rows), folder, zoo_card(address.repo, tables)))
        sent = (*(one.path for one in shards), *files)
        size = sum(one.num_bytes for one in shards) + sum(path.stat().st_size for path in files.values())
        commit = None
        if (sent or there.new_branch) and not dry_run:
            sender = Sender(there, private)
            _send_shards(zoo, sender, shards, folder, progress)
            sender.add(files.items())
            commit = sender.commit()
        new = sum(len(one.tensors) for one in shards)
        is_private, is_seen = _is_private(there, private), there.commit is not None
        return Pushed(str(address), pushed, new, sent, size, unsendable, commit, is_private, is_seen, there.new_branch)


def push_model(zoo: "Zoo", model: str, repo: str, *, private: bool, dry_run: bool = False) -> Pushed:
    """Push one model as a model repository: weights, configuration if it has one, and a card from what the catalog knows.

    A trained metanet, a generator or a signature is a model as well: what it is built from goes along in its file, as it was saved.

    Args:
        zoo: that it is in.
        model: its name, id prefix or path.
        repo: `org/name[@branch]`, made if there is none.
        private: see `push_zoo`.
        dry_run: only say what would be sent.

    Raises:
        FormatError: the Hub refuses, its tensors are of a dtype that safetensors cannot hold, or its recipe is too long for a file.
        CatalogError: see `push_zoo`.
    """
    address = target(repo, "model")
    page = zoo.page(model)
    tables = _tables_of(zoo, f"id = '{page.model['id']}'")
    [row] = tables["models"].to_pylist()
    metrics = [one for one in tables["metrics"].to_pylist() if one["model"]]
    parents = [name for name, _ in page.parents]
    checkpoint = zoo.open(row["id"])
    with outgoing(zoo.catalog.home) as folder:
        there = look(address, private)
        said = _stated(checkpoint)
        weights = save(checkpoint, folder / WEIGHTS, said)
        beside = _beside(checkpoint, tables["files"])
        files = {ADAPTER if "adapter_config" in beside else WEIGHTS: weights}
        for key, config in beside.items():
            files[f"{key}.json"] = folder / f"{key}.json"
            files[f"{key}.json"].write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")
        files["README.md"] = folder / "README.md"
        files["README.md"].write_text(model_card(address.repo, row, metrics, parents, said), "utf-8")
        changed = differing(there, files)
        size = sum(path.stat().st_size for path in changed.values())
        commit = None
        if (changed or there.new_branch) and not dry_run:
            sender = Sender(there, private)
            sender.add(changed.items())
            commit = sender.commit()
    is_private, is_seen = _is_private(there, private), there.commit is not None
    return Pushed(str(address), 1, len(checkpoint.info), tuple(changed), size, (), commit, is_private, is_seen, there.new_branch)


def _beside(checkpoint: Checkpoint, files: pa.Table) -> dict[str, dict[str, Any]]:
    """The configurations that belong to a model, by the names of their files without the ending."""
    told = [json.loads(one) for one in reversed(files["metadata"].to_pylist()) if one]
    known = {key: value for one in (*told, checkpoint.metadata) for key, value in one.items()}
    return {key: known[key] for key in ("config", "generation_config", "adapter_config") if isinstance(known.get(key), dict)}


def _stated(checkpoint: Checkpoint) -> dict[str, str]:
    """What the file of a model says of itself: what it said before, and how it was made.

    Raises:
        FormatError: its recipe is longer than a file may say.
    """
    own = {key: value for key, value in checkpoint.metadata.items() if isinstance(value, str)} if checkpoint.format == "safetensors" else {}
    tied = {one.name for one in checkpoint.info.values()}  # names that stand there for ties are written anew
    said = {"format": "pt", **{key: value for key, value in own.items() if key not in tied and key not in (RECIPE, PARENTS, "address")}}
    if checkpoint.recipe:
        said |= stated(checkpoint.recipe, checkpoint.parents)
        if said_back(said)[0] is None:
            raise FormatError(
                "the recipe of the model is longer than a file may say, or is no plain JSON",
                reason="unsupported",
                advice="push it as a zoo of one, --to datasets/org/name",
            )
    return said


def _is_private(there: There, private: bool) -> bool:
    return private if there.is_private is None else there.is_private


def _among(zoo: "Zoo", models: Sequence[str]) -> str:
    """SQL that finds models by name, id prefix or path."""
    return f"id in ({', '.join(quoted(str(zoo.page(one).model['id'])) for one in dict.fromkeys(models))})"


def _tables_of(zoo: "Zoo", where: str | None) -> dict[str, pa.Table]:
    """What the catalog knows of models, without the places where they lie on this machine.

    Raises:
        CatalogError: no model fits.
    """
    wanted = chosen(zoo, where)
    with zoo.catalog.reading() as connection:
        return without_places(dict(export_tables(connection, wanted)))


def _index(there: There, folder: Path) -> dict[str, str]:
    """Which shard holds which tensor already; only shards that are there."""
    if INDEX not in there.files:
        return {}
    index = checked_index(_table(there, INDEX, folder), str(there.address))
    return {digest: shard for digest, shard in index.items() if f"weights/{shard}.safetensors" in there.files}


def _tables_there(there: There, folder: Path) -> dict[str, pa.Table]:
    return {name: _table(there, path, folder) for name in TABLES if (path := f"tables/{name}.parquet") in there.files}


def _table(there: There, path: str, folder: Path) -> pa.Table:
    at = HubAddress(there.address.repo, there.commit, path, there.address.kind)
    [file] = files_of(at, repository(at))
    return read_bounded(downloaded(file, folder / "there", path.replace("/", "-")).local, file.address)


def _written(tables: Mapping[str, pa.Table], index: pa.Table, folder: Path, card: str) -> dict[str, Path]:
    """Write tables, index and card; empty tables are left out."""
    made = {"README.md": folder / "README.md", INDEX: folder / "index.parquet"}
    made["README.md"].write_text(card, "utf-8")
    pq.write_table(index.sort_by("hash"), made[INDEX])
    for name, table in tables.items():
        if table.num_rows:
            made[f"tables/{name}.parquet"] = folder / f"{name}.parquet"
            pq.write_table(table, made[f"tables/{name}.parquet"])
    return made


def _send_shards(zoo: "Zoo", sender: Sender, shards: Iterable[Shard], folder: Path, progress: Callable[[Progress], None] | None) -> None:
    """Write one shard after another, send it and remove it: the disk holds one at a time."""
    shards = list(shards)
    models = list(dict.fromkeys(one.model for shard in shards for one in shard.tensors))
    with zoo.catalog.reading() as connection:
        quoted_ids = ", ".join(f"unhex('{model}')" for model in models) or "null"
        numbers = dict(connection.execute(f"select lower(hex(id)), model_id from models where id in ({quoted_ids})").fetchall())
        known = {one.id: one for one in whereabouts(connection, list(numbers.values())).values()}
    begun = list[str]()

    def tell(model: str) -> None:
        if progress is not None:
            progress(Progress(len(begun), len(models), 0, 0))
        begun.append(model)

    for shard in shards:
        path = shard.write(lambda model: known[model].open(zoo.catalog.home, model[:12]), folder, tell)
        sender.send(shard.path, path)


__all__ = ["ADAPTER", "INDEX", "WEIGHTS", "Pushed", "push_model", "push_zoo"]
