"""A zoo with everything that a zoo can have, and corruptions to plant in copies of it, each with what a check has to call it."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from weightspace import identity
from weightspace.formats.safetensors import open_safetensors, save
from weightspace.zoo import Zoo
from weightspace.zoo.edges import Edge
from weightspace.zoo.records import Description, ModelRecord, Place
from weightspace.zoo.runs.run import Run
from weightspace.zoo.store.writing import write_compact
from weightspace.zoo.write import write_records
from weightspace.zoo.zoo import Added

Arrays = dict[str, npt.NDArray[np.float32]]


def arrays(seed: int, width: int = 6) -> Arrays:
    draw = np.random.default_rng(seed)
    return {
        "fc1.weight": draw.normal(size=(width, 4)).astype(np.float32),
        "fc1.bias": draw.normal(size=width).astype(np.float32),
        "fc2.weight": draw.normal(size=(2, width)).astype(np.float32),
    }


def tensors(seed: int, width: int = 6) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays(seed, width).items()}


def make_zoo(folder: Path) -> Zoo:
    """Files of several formats and of several parts, with files beside them; models of the store; one read from its header alone."""
    folder.mkdir(parents=True)
    save_file(arrays(0), folder / "base.safetensors")
    torch.save(tensors(1), folder / "other.pt")
    np.savez(folder / "wide.npz", allow_pickle=False, **arrays(2, 40))
    (folder / "told").mkdir()
    save_file(arrays(3), folder / "told" / "model.safetensors")
    (folder / "told" / "config.json").write_text(json.dumps({"architectures": ["Net"], "hidden_size": 6}))
    (folder / "told" / "README.md").write_text("---\nlicense: mit\nbase_model: some/base\n---\n")
    (folder / "told" / "metrics.json").write_text(json.dumps({"test": {"accuracy": 0.5}}))
    (folder / "shards").mkdir()
    parts = {"fc1.weight": "model-00001-of-00002.safetensors", "fc1.bias": "model-00001-of-00002.safetensors"}
    parts["fc2.weight"] = "model-00002-of-00002.safetensors"
    for shard in sorted(set(parts.values())):
        save_file({name: one for name, one in arrays(4).items() if parts[name] == shard}, folder / "shards" / shard)
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": parts}))
    (folder / "cut.safetensors").write_bytes((folder / "base.safetensors").read_bytes()[:-4])
    save_file({"w": np.array([1, np.nan, 3], np.float32)}, folder / "unsound.safetensors")
    (folder / "copied").mkdir()
    save_file(arrays(5), folder / "copied" / "twice.safetensors")
    zoo = Zoo(folder)
    zoo.ingest([folder / "copied"], jobs=1, copy=True)
    zoo.ingest(folder, jobs=1, tags={"team": "vision"})
    tied = tensors(6)
    tied["tied.weight"] = tied["fc1.weight"]
    first, second = tensors(7), tensors(8)
    zoo.add_many(
        [
            Added(tied, "tied", metrics={"test": {"accuracy": 0.7}, "loss": 1.5}, recipe={"kind": "merge", "t": 1}, parents=["base"]),
            Added(first, "first", run=Run("population:3", "run-3", "population", 3), step=10, metrics={"train": {"loss": 0.1}}),
            Added(second, "second"),
            Added({**first, "fc2.weight": second["fc2.weight"]}, "mixed"),
            Added(tensors(9), "alone"),
            Added(tensors(0) | {"extra": torch.ones(3)}, "tuned"),
        ]
    )
    zoo.record_edges([Edge("first", "second", "finetune", "low rank", 0.8), Edge("second", "alone", "finetune", "low rank", 0.5)])
    zoo.record_embeddings("metanet", "1", {"base": [1.0, 2.0], "first": [2.0, 1.0], "second": [3.0, 1.0]})
    zoo.record_measure(zoo.open("base"), {"": 1.5, "word": "text"}, measure="norm")
    zoo.record_pair(zoo.open("base"), zoo.open("first"), {"distance": 2.5}, measure="distance")
    with zoo.catalog.writing() as connection:
        connection.execute("insert into measurements select null, min(tensor_id), 'rank', '1', '{}', '', 2, null from tensors")
        digest = sha256((folder / "base.safetensors").read_bytes()).digest()
        connection.execute("update files set sha256 = ? where path = 'base.safetensors'", [digest])
        write_records(connection, [unread()])
    zoo.cache["abc/svd"] = {"s": torch.arange(40.0)}
    zoo.cache["def/svd"] = {"s": torch.ones(3)}
    return zoo


def unread() -> ModelRecord:
    """A model of the Hub of which only the header was read."""
    digest = identity.unread_hash("some file", 8, "F32", (2, 2))
    row = ("w", "F32", [2, 2], None, digest, 4, 16, *(None,) * 11)
    place = Place("hf:lab/far@abc", "safetensors", 1, 100, datetime(2026, 1, 1), 77, 77)
    return ModelRecord(
        place, "lab/far", identity.model_id([("w", "F32", [2, 2], digest)]), identity.weights_id([digest]),
        identity.architecture_id([("w", [2, 2])]), "full", 4, 16, (row,), Description(), is_read=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Corruption:
    """One thing that goes wrong.

    Attributes:
        name: of it.
        plant: does it to the folder of a zoo.
        kinds: what a check may call it.
        is_mended: whether a repair leads to a zoo in which nothing is wrong.
        restores: whether the catalog then says what it said before.
    """

    name: str
    plant: Callable[[Path], None]
    kinds: frozenset[str]
    is_mended: bool = True
    restores: bool = True


ALL: list[Corruption] = []


def rows(name: str, statement: str, kinds: str, *, mended: bool = True, restores: bool = True) -> None:
    """A corruption of rows."""

    def plant(folder: Path) -> None:
        with duckdb.connect(str(folder / ".weightspace/catalog.duckdb")) as connection:
            connection.execute("begin")
            for one in statement.split(";"):
                connection.execute(one)
            connection.execute("commit")

    ALL.append(Corruption(name, plant, frozenset(kinds.split()), mended, mended and restores))


def files(name: str, kinds: str, *, mended: bool = True, restores: bool = True) -> Callable[[Callable[[Path], None]], None]:
    """A corruption of files."""

    def register(plant: Callable[[Path], None]) -> None:
        ALL.append(Corruption(name, plant, frozenset(kinds.split()), mended, mended and restores))

    return register


def flip(path: Path, at: int) -> None:
    """Change one bit of a byte, and nothing else that tells: the times stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path, size: int) -> None:
    """Cut a file short; the times stay."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[:size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def stored(folder: Path, name: str) -> Path:
    """The file of a model in the store."""
    with duckdb.connect(str(folder / ".weightspace/catalog.duckdb"), read_only=True) as connection:
        [(path,)] = connection.execute(
            "select path from files join models using (model_id) where name = ? and stamp = 0", [name]
        ).fetchall()
    return folder / str(path)


def compacted(path: Path) -> Path:
    """Write the compact form of a file of the store beside it."""
    target = path.with_suffix(".compact")
    with ThreadPoolExecutor(1) as pool, target.open("xb") as stream:
        write_compact(open_safetensors(path), path.stem, {}, {}, stream, pool)
    return target


def named(folder: Path, before: Path, after: Path) -> None:
    """Let the catalog name another form of a file of the store."""
    with duckdb.connect(str(folder / ".weightspace/catalog.duckdb")) as connection:
        told = [str(after.relative_to(folder)), "compact", after.stat().st_size, str(before.relative_to(folder))]
        connection.execute("update files set path = ?, format = ?, size = ? where path = ?", told)


def cached(folder: Path) -> Path:
    """A file of the cache."""
    return max((folder / ".weightspace/cache").glob("*/*.safetensors"), key=lambda path: path.stat().st_size)


OF = "(select model_id from models where name = '{}')"
BASE, ALONE, TIED, FIRST = (OF.format(name) for name in ("base", "alone", "tied", "first"))
ONE_TENSOR = f"(select tensor_id from model_tensors where model_id = {BASE} and name = 'fc1.bias')"
FLIPPED = "unhex(repeat('5a', 32))"

rows("no schema version", "delete from meta where key = 'schema_version'", "catalog", mended=False)
rows("a schema version of the future", "update meta set value = '999' where key = 'schema_version'", "catalog", mended=False)
rows("a schema version that is no number", "update meta set value = 'two' where key = 'schema_version'", "catalog", mended=False)
rows("two schema versions", "insert into meta values ('schema_version', '1')", "catalog", mended=False)
rows("a zoo without an identity", "delete from meta where key = 'zoo_id'", "schema")
rows("a zoo with a strange identity", "update meta set value = 'me' where key = 'zoo_id'", "schema")
rows(
    "an architecture is gone",
    "delete from architectures where architecture_id = (select architecture_id from models where name = 'tied')",
    "counts",
)
rows(
    "an architecture's fingerprint",
    f"update architectures set fingerprint = {FLIPPED} where architecture_id = (select architecture_id from models where name = 'tied')",
    "counts",
)
rows("an architecture's number of tensors", "update architectures set num_tensors = num_tensors + 1", "counts")
rows("an architecture twice", "insert into architectures select * from architectures limit 1", "twice")
rows(
    "an architecture under two numbers",
    "insert into architectures select 900, fingerprint, num_tensors, family, spec from architectures limit 1",
    "twice dangling",
)
rows("an architecture of no model", f"insert into architectures values (900, {FLIPPED}, 1, null, null)", "dangling")
rows("a model's id", f"update models set id = {FLIPPED} where name = 'other'", "identity damaged")
rows("a model's id in the store", f"update models set id = {FLIPPED} where name = 'alone'", "identity changed")
rows("a model without an id", "update models set id = null where name = 'other'", "identity")
rows("a model's weights id", f"update models set weights_id = {FLIPPED} where name = 'other'", "counts")
rows("a model's name twice", "update models set name = 'base' where name = 'other'", "twice", restores=False)
rows("a model without a name", "update models set name = null where name = 'other'", "value", restores=False)
rows(
    "a model of another architecture",
    "update models set architecture_id = (select architecture_id from models where name = 'unsound') where name = 'other'",
    "counts",
)
rows("a model of no architecture", "update models set architecture_id = null where name = 'other'", "counts")
rows("a model without a kind", "update models set kind = null where name = 'other'", "value")
rows("a model's parameters", "update models set num_params = num_params + 1 where name = 'wide'", "counts")
rows("a model's bytes", "update models set num_bytes = num_bytes - 4 where name = 'wide'", "counts")
rows("a model's tensors", "update models set num_tensors = num_tensors + 1 where name = 'wide'", "counts")
rows("a model that is said to be finite", "update models set is_finite = true where name = 'unsound'", "counts")
rows("a model that nobody knows to be finite", "update models set is_finite = null where name = 'wide'", "counts")
rows("a recipe that is not there", "update models set recipe_id = 900 where name = 'wide'", "dangling")
rows("a model is gone", "delete from models where name = 'wide'", "dangling", restores=False)
rows("a model twice", "insert into models select * from models where name = 'wide'", "twice")
rows("a model under another number", "update models set model_id = 900 where name = 'alone'", "dangling")
rows("an unread model's id", f"update models set id = {FLIPPED} where name = 'lab/far'", "identity", mended=False)
rows(
    "a file of no model",
    "insert into files (file_id, model_id, path, stamp, size) values (900, 900, 'nowhere.pt', 5, 1)",
    "dangling missing",
)
rows("a file of another model", f"update files set model_id = {BASE} where path = 'wide.npz'", "damaged")
rows("a file of the store of another model", f"update files set model_id = {BASE} where model_id = {ALONE}", "changed")
rows("a file elsewhere", "update files set path = 'gone.pt' where path = 'other.pt'", "missing", mended=False)
rows("a file's stamp", "update files set stamp = 99 where path = 'other.pt'", "changed")
rows("a file's size in the store", f"update files set size = 9 where model_id = {ALONE}", "changed")
rows("a negative size", "update files set size = -1 where path = 'other.pt'", "value", restores=False)
rows("a stamp of what lies beside", "update files set sidecar_stamp = 9 where path = 'told/model.safetensors'", "sidecar", mended=False)
rows("half a SHA-256", "update files set sha256 = unhex('abcd') where path = 'base.safetensors'", "value", restores=False)
rows("another SHA-256", f"update files set sha256 = {FLIPPED} where path = 'base.safetensors'", "damaged", restores=False)
rows("a file of a run that is not there", "update files set run_id = 900 where path = 'other.pt'", "dangling")
rows("a file of the store that is not catalogued", f"delete from files where model_id = {ALONE}", "unknown lost", restores=False)
rows("a file that is not catalogued", "delete from files where path = 'other.pt'", "lost", mended=False)
rows("a file twice", "insert into files select * from files where path = 'other.pt'", "twice")
rows(
    "a file of two models",
    f"insert into files select * replace (900 as file_id, {BASE} as model_id) from files where path = 'other.pt'",
    "twice damaged",
    restores=False,
)
rows(
    "two files of one number",
    "update files set file_id = (select max(file_id) from files) where path = 'other.pt'",
    "twice",
    restores=False,
)
rows("a file without a path", "insert into files (file_id, model_id, stamp, size) values (900, 1, 5, 1)", "value")
rows(
    "a file's metadata",
    "update files set metadata = '{\"config\": {\"hidden_size\": 7}}' where path = 'told/model.safetensors'",
    "sidecar",
    mended=False,
)
rows("a run without a key", "insert into runs (run_id, name) values (900, 'odd')", "value", mended=False)
rows("a run twice", "insert into runs select * from runs limit 1", "twice")
rows("a run's recipe that is not there", "update runs set recipe_id = 900", "dangling")
rows("a tensor's hash", f"update tensors set hash = {FLIPPED} where tensor_id = {ONE_TENSOR}", "identity")
rows("a tensor's dtype", f"update tensors set dtype = 'I32' where tensor_id = {ONE_TENSOR}", "counts", restores=True)
rows("a tensor's unheard-of dtype", f"update tensors set dtype = 'F33' where tensor_id = {ONE_TENSOR}", "identity")
rows("a tensor's shape", f"update tensors set shape = [3, 2] where tensor_id = {ONE_TENSOR}", "counts")
rows("a tensor's impossible shape", f"update tensors set shape = [7] where tensor_id = {ONE_TENSOR}", "identity statistics")
rows("a tensor's elements", f"update tensors set numel = 7 where tensor_id = {ONE_TENSOR}", "identity statistics")
rows("a tensor's bytes", f"update tensors set nbytes = 7 where tensor_id = {ONE_TENSOR}", "identity")
rows("more zeros than elements", f"update tensors set num_zero = 99 where tensor_id = {ONE_TENSOR}", "statistics")
rows("one zero too many", f"update tensors set num_zero = 1 where tensor_id = {ONE_TENSOR}", "statistics")
rows("a NaN that is none", f"update tensors set num_nan = 1 where tensor_id = {ONE_TENSOR}", "statistics counts")
rows(
    "extremes the wrong way round", f"update tensors set minimum = maximum, maximum = minimum where tensor_id = {ONE_TENSOR}", "statistics"
)
rows("a mean a little off", f"update tensors set mean = mean + 0.01 where tensor_id = {ONE_TENSOR}", "statistics")
rows("a negative deviation", f"update tensors set std = -1 where tensor_id = {ONE_TENSOR}", "statistics")
rows("a norm a little off", f"update tensors set l1 = l1 * 1.01 where tensor_id = {ONE_TENSOR}", "statistics")
rows("a norm that is no number", f"update tensors set l2 = 'nan' where tensor_id = {ONE_TENSOR}", "statistics")
rows("a skewness a little off", f"update tensors set skewness = skewness + 0.1 where tensor_id = {ONE_TENSOR}", "statistics")
rows("a kurtosis that cannot be", f"update tensors set kurtosis = 0.1 where tensor_id = {ONE_TENSOR}", "statistics")
rows("a tensor without statistics", f"update tensors set mean = null, std = null where tensor_id = {ONE_TENSOR}", "statistics")
rows("a tensor is gone", f"delete from tensors where tensor_id = {ONE_TENSOR}", "identity dangling")
rows("a tensor twice", f"insert into tensors select * from tensors where tensor_id = {ONE_TENSOR}", "twice")
rows(
    "a tensor under two numbers",
    f"insert into tensors select * replace (900 as tensor_id) from tensors where tensor_id = {ONE_TENSOR}",
    "twice dangling",
)
rows(
    "a tensor of no model",
    f"insert into tensors (tensor_id, hash, dtype, shape, numel, nbytes) values (900, {FLIPPED}, 'F32', [1], 1, 4)",
    "dangling",
)
rows("an occurrence in no model", "insert into model_tensors values (900, 0, 'w', 1, null)", "dangling")
rows("positions", f"update model_tensors set position = 7 where model_id = {BASE} and position = 1", "identity")
rows("a tensor's name", f"update model_tensors set name = 'fc9.bias' where model_id = {BASE} and name = 'fc1.bias'", "identity")
rows(
    "another tensor",
    f"update model_tensors set tensor_id = (select tensor_id from model_tensors where model_id = {ALONE} and name = 'fc1.bias') where model_id = {BASE} and name = 'fc1.bias'",
    "identity",
)
rows(
    "a tensor that is none", f"update model_tensors set tensor_id = 900 where model_id = {ALONE} and name = 'fc1.bias'", "identity dangling"
)
rows("tied to nothing", f"update model_tensors set alias_of = 'nothing' where model_id = {TIED} and alias_of is not null", "identity")
rows("tied to another", f"update model_tensors set alias_of = 'fc1.bias' where model_id = {BASE} and name = 'fc1.weight'", "identity")
rows("untied", f"update model_tensors set alias_of = null where model_id = {TIED}", "counts")
rows("an occurrence is gone", f"delete from model_tensors where model_id = {BASE} and name = 'fc1.bias'", "identity dangling")
rows(
    "an occurrence twice",
    f"insert into model_tensors select * from model_tensors where model_id = {BASE} and name = 'fc1.bias'",
    "identity",
)
rows("a metric that is no number", f"insert into metrics (model_id, name, value) values ({BASE}, 'odd', 'nan')", "value")
rows("a metric of no model", "insert into metrics (model_id, name, value) values (900, 'odd', 1)", "dangling")
rows("a metric of no run", f"insert into metrics (model_id, run_id, name, value) values ({BASE}, 900, 'odd', 1)", "dangling")
rows("a metric of nothing", "insert into metrics (name, value) values ('odd', 1)", "value")
rows("a metric twice", "insert into metrics select * from metrics where name = 'loss' and split is null", "twice")
rows("a tag of no model", "insert into tags values (900, 'a', 'b')", "dangling")
rows("a tag twice", f"insert into tags values ({BASE}, 'team', 'vision')", "twice")
rows("a tag without a label", f"insert into tags values ({BASE}, null, 'b')", "value")
rows("an edge from no model", f"insert into edges values (900, {BASE}, 'finetune', 'card', 1)", "dangling")
rows("an edge to no model", f"insert into edges values ({BASE}, 900, 'finetune', 'card', 1)", "dangling")
rows("a confidence of two", f"insert into edges values ({BASE}, {FIRST}, 'finetune', 'card', 2)", "value")
rows("edges in a circle", f"insert into edges values ({ALONE}, {FIRST}, 'finetune', 'guess', 0.1)", "circle")
rows("a model of its own", f"insert into edges values ({ALONE}, {ALONE}, 'finetune', 'guess', 0.1)", "circle")
rows("a circle of recipes", f"insert into edges values ({TIED}, {BASE}, 'merge', 'recipe', 1)", "circle", mended=False)
rows("an edge of no kind", f"insert into edges values ({BASE}, {FIRST}, null, 'card', 1)", "value")
rows("an edge twice", "insert into edges select * from edges limit 1", "twice")
rows("a measurement of no model", "insert into measurements values (900, null, 'norm', '1', '{}', '', 1, null)", "dangling")
rows("a measurement of no tensor", "insert into measurements values (null, 900, 'norm', '1', '{}', '', 1, null)", "dangling")
rows("a measurement of nothing", "insert into measurements values (null, null, 'norm', '1', '{}', '', 1, null)", "value")
rows("a measurement twice", "insert into measurements select * from measurements where key = ''", "twice")
rows("a measurement's parameters", f"insert into measurements values ({BASE}, null, 'norm', '1', 'odd', '', 1, null)", "value")
rows("an infinite measurement", f"insert into measurements values ({BASE}, null, 'norm', '2', '{{}}', '', 'inf', null)", "value")
rows("a pair of no model", f"insert into pair_measurements values ({BASE}, 900, 'distance', '1', '{{}}', '', 1)", "dangling")
rows("a pair twice", "insert into pair_measurements select * from pair_measurements", "twice")
rows("an embedding of no model", "insert into embeddings values (900, 'metanet', '1', [1, 2])", "dangling")
rows("an embedding of another length", f"insert into embeddings values ({ALONE}, 'metanet', '1', [1, 2, 3])", "value")
rows("an embedding that is no number", f"insert into embeddings values ({ALONE}, 'metanet', '1', [1, 'nan'::float])", "value")
rows("an embedding twice", "insert into embeddings select * from embeddings limit 1", "twice")
rows("a recipe's text", 'update recipes set recipe = \'{"kind":"merge","t":2}\'', "recipe", restores=False)
rows("a recipe's hash", f"update recipes set hash = {FLIPPED}", "recipe", restores=False)
rows("a recipe's kind", "update recipes set kind = 'odd'", "value")
rows("a recipe twice", "insert into recipes select * from recipes", "twice")
rows("a refusal for no reason", "insert into quarantine (path, reason) values ('odd', 'whim')", "value")
rows("a refusal of what was read", "insert into quarantine (path, reason) values ('base.safetensors', 'corrupt')", "twice")
rows("a refusal twice", "insert into quarantine select * from quarantine", "twice")
rows("a view out of step", "create or replace view model_table as select model_id, name from models", "views")
rows(
    "metrics that the view does not show",
    f"insert into metrics (model_id, name, value) values ({BASE}, 'fresh', 1)",
    "views",
    restores=False,
)
rows("a view is gone", "drop view ancestors", "views")
rows("another view", "create or replace view shared_tensors as select 1 as one", "views")
rows("a macro is gone", "drop macro table model_rows", "views")
rows("a table is gone", "drop table embeddings", "schema", mended=False)
rows("a column is gone", "alter table tags drop column value", "schema", mended=False)
rows("a column of another type", "alter table edges alter confidence type varchar", "schema", mended=False)


@files("half a catalog", "catalog", mended=False)
def _(folder: Path) -> None:
    path = folder / ".weightspace/catalog.duckdb"
    cut(path, path.stat().st_size // 2)


@files("an empty catalog", "catalog", mended=False)
def _(folder: Path) -> None:
    (folder / ".weightspace/catalog.duckdb").write_bytes(b"")


@files("no catalog at all but words", "catalog", mended=False)
def _(folder: Path) -> None:
    (folder / ".weightspace/catalog.duckdb").write_bytes(b"not a database" * 1000)


@files("a bit of the catalog's header", "catalog", mended=False)
def _(folder: Path) -> None:
    flip(folder / ".weightspace/catalog.duckdb", 100)


@files("a bit of the catalog's second header", "catalog", mended=False)
def _(folder: Path) -> None:
    flip(folder / ".weightspace/catalog.duckdb", 4096 + 20)


@files("a bit of a block in the catalog", "catalog", mended=False)
def _(folder: Path) -> None:
    path = folder / ".weightspace/catalog.duckdb"
    data = path.read_bytes()
    flip(path, data.index(b"second-layer-of-nothing") if b"second-layer-of-nothing" in data else data.rindex(b"fc1.bias"))


@files("a bit of stored weights that lie elsewhere, too", "damaged")
def _(folder: Path) -> None:
    flip(stored(folder, "twice"), -5)


@files("a bit of stored weights of which other models have the parts", "damaged")
def _(folder: Path) -> None:
    flip(stored(folder, "mixed"), -5)


@files("a bit of stored weights that lie nowhere else", "damaged missing", mended=False)
def _(folder: Path) -> None:
    flip(stored(folder, "alone"), -5)


@files("stored weights cut short", "changed damaged")
def _(folder: Path) -> None:
    cut(stored(folder, "twice"), 200)


@files("stored weights cut short that lie nowhere else", "changed damaged missing", mended=False)
def _(folder: Path) -> None:
    cut(stored(folder, "alone"), 200)


@files("a bit of the header of stored weights", "damaged")
def _(folder: Path) -> None:
    flip(stored(folder, "twice"), 12)


@files("stored weights are gone", "missing")
def _(folder: Path) -> None:
    stored(folder, "mixed").unlink()


@files("stored weights are gone for good", "missing", mended=False)
def _(folder: Path) -> None:
    stored(folder, "alone").unlink()


@files("stored weights are empty", "changed damaged")
def _(folder: Path) -> None:
    stored(folder, "twice").write_bytes(b"")


@files("stored weights in place of others", "damaged")
def _(folder: Path) -> None:
    shutil.copyfile(stored(folder, "alone"), stored(folder, "mixed"))


@files("stored weights under the name of none", "missing unknown")
def _(folder: Path) -> None:
    path = stored(folder, "twice")
    target = path.parent.parent / "ff" / f"{'f' * 64}.safetensors"
    target.parent.mkdir(exist_ok=True)
    path.rename(target)


@files("a note in the store", "unknown", mended=False)
def _(folder: Path) -> None:
    (folder / ".weightspace/store/notes.txt").write_text("what am I doing here")


@files("stored weights that nobody catalogued", "unknown", restores=False)
def _(folder: Path) -> None:
    scratch = folder / ".weightspace" / "x.safetensors"
    save(tensors(99), scratch)
    digest = open_safetensors(scratch).id
    target = folder / ".weightspace/store" / digest[:2] / f"{digest}.safetensors"
    target.parent.mkdir(exist_ok=True)
    scratch.rename(target)


@files("stored weights in the other form", "form", restores=False)
def _(folder: Path) -> None:
    compacted(stored(folder, "alone"))
    stored(folder, "alone").unlink()


@files("stored weights in both forms", "leftover", mended=False)
def _(folder: Path) -> None:
    compacted(stored(folder, "alone"))


@files("damaged weights beside their other form", "damaged", restores=False)
def _(folder: Path) -> None:
    compacted(stored(folder, "alone"))
    flip(stored(folder, "alone"), -5)


@files("damaged weights beside the compact ones of the catalog", "damaged", restores=False)
def _(folder: Path) -> None:
    path = stored(folder, "alone")
    named(folder, path, compacted(path))
    flip(path, -5)


@files("damaged weights in the other form", "missing damaged", mended=False)
def _(folder: Path) -> None:
    path = stored(folder, "alone")
    flip(compacted(path), 40)
    path.unlink()


@files("damaged weights in the other form that lie elsewhere, too", "missing damaged")
def _(folder: Path) -> None:
    path = stored(folder, "twice")
    flip(compacted(path), 40)
    path.unlink()


@files("what a killed process left in the store", "leftover")
def _(folder: Path) -> None:
    path = stored(folder, "alone")
    (path.parent / f".{path.stem}.0a1b.new").write_bytes(b"half")


@files("what a killed process left of a catalog", "leftover")
def _(folder: Path) -> None:
    (folder / ".weightspace/catalog.99.new").write_bytes(b"half")


@files("a bit of a file", "damaged", mended=False)
def _(folder: Path) -> None:
    flip(folder / "base.safetensors", -3)


@files("a bit of a file that lies in the store, too", "damaged", mended=False)
def _(folder: Path) -> None:
    flip(folder / "copied/twice.safetensors", -3)


@files("a bit of a torch file", "damaged", mended=False)
def _(folder: Path) -> None:
    path = folder / "other.pt"
    flip(path, path.read_bytes().index(arrays(1)["fc1.weight"].tobytes()) + 3)


@files("a bit of an array file", "damaged", mended=False)
def _(folder: Path) -> None:
    path = folder / "wide.npz"
    flip(path, path.read_bytes().index(arrays(2, 40)["fc1.weight"].tobytes()) + 3)


@files("a file cut short", "changed damaged", mended=False)
def _(folder: Path) -> None:
    cut(folder / "base.safetensors", 150)


@files("a file is gone", "missing", mended=False)
def _(folder: Path) -> None:
    (folder / "base.safetensors").unlink()


@files("a file is gone that lies in the store, too", "missing", restores=False)
def _(folder: Path) -> None:
    (folder / "copied/twice.safetensors").unlink()


@files("a file with a new time", "changed", restores=False)
def _(folder: Path) -> None:
    os.utime(folder / "base.safetensors", (1e9, 1e9))


@files("a file with a time in the future", "changed", restores=False)
def _(folder: Path) -> None:
    os.utime(folder / "base.safetensors", (4e9, 4e9))


@files("a file written over", "changed damaged", mended=False)
def _(folder: Path) -> None:
    save_file(arrays(77), folder / "base.safetensors")


@files("a shard is gone", "changed damaged missing", mended=False)
def _(folder: Path) -> None:
    (folder / "shards/model-00002-of-00002.safetensors").unlink()


@files("a bit of a shard", "damaged", mended=False)
def _(folder: Path) -> None:
    flip(folder / "shards/model-00002-of-00002.safetensors", -3)


@files("an index of shards is no JSON", "changed damaged missing", mended=False)
def _(folder: Path) -> None:
    cut(folder / "shards/model.safetensors.index.json", 40)


@files("a number in a file beside", "sidecar", mended=False)
def _(folder: Path) -> None:
    path = folder / "told/config.json"
    flip(path, path.read_bytes().index(b"6"))


@files("a file beside is cut short", "sidecar", mended=False)
def _(folder: Path) -> None:
    cut(folder / "told/config.json", 10)


@files("a file beside is gone", "sidecar", mended=False)
def _(folder: Path) -> None:
    (folder / "told/README.md").unlink()


@files("a file beside is new", "sidecar", mended=False)
def _(folder: Path) -> None:
    (folder / "shards/config.json").write_text("{}")


@files("a bit of a cached file", "cache")
def _(folder: Path) -> None:
    flip(cached(folder), -3)


@files("a cached file is cut short", "cache")
def _(folder: Path) -> None:
    cut(cached(folder), 60)


@files("a cached file under another's name", "cache")
def _(folder: Path) -> None:
    path = cached(folder)
    path.rename(path.with_name(f"{'0' * 32}.safetensors"))


@files("a lock that is a folder", "lock")
def _(folder: Path) -> None:
    (folder / ".weightspace/lock").unlink()
    (folder / ".weightspace/lock").mkdir()


@files("a gate that is a link", "lock")
def _(folder: Path) -> None:
    (folder / ".weightspace/gate").unlink()
    (folder / ".weightspace/gate").symlink_to("nowhere")


@files("a lock that is a folder with something in it", "lock", mended=False)
def _(folder: Path) -> None:
    (folder / ".weightspace/lock").unlink()
    (folder / ".weightspace/lock").mkdir()
    (folder / ".weightspace/lock/note").write_text("mine")
