"""Writing records into the catalog: whole batches through Arrow, inside the caller's transaction."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from blake3 import blake3

from weightspace.zoo.metrics import Metric
from weightspace.zoo.model_table import refresh_model_table
from weightspace.zoo.records import BESIDE, Description, ModelRecord, Place, Record, Redescription, Refusal
from weightspace.zoo.runs.run import Run

Connection = duckdb.DuckDBPyConnection
Said = TypeVar("Said", Description, Run)

TENSOR_COLUMNS = (
    ("dtype", pa.string()),
    ("shape", pa.list_(pa.int64())),
    ("numel", pa.int64()),
    ("nbytes", pa.int64()),
    ("num_zero", pa.int64()),
    ("num_nan", pa.int64()),
    ("num_inf", pa.int64()),
    ("minimum", pa.float64()),
    ("maximum", pa.float64()),
    ("mean", pa.float64()),
    ("std", pa.float64()),
    ("l1", pa.float64()),
    ("l2", pa.float64()),
    ("skewness", pa.float32()),
    ("kurtosis", pa.float32()),
)


def now() -> datetime:
    """The time in UTC without a zone, as the catalog stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


def write_records(connection: Connection, records: Sequence[Record]) -> dict[str, int]:
    """Write a batch: new contents, tensors and occurrences once each; files, runs, metrics, tags and refusals replaced by path.

    Args:
        connection: an open write transaction.
        records: in the order in which surrogate keys are given out.

    Returns:
        Model ids (surrogate) by path of the file.
    """
    records = [one if isinstance(one, Refusal) else replace(one, description=_storable(one.description)) for one in records]
    models = [record for record in records if isinstance(record, ModelRecord)]
    refusals = [record for record in records if isinstance(record, Refusal)]
    stamp = now()
    forget_paths(connection, [record.place.path for record in records if not isinstance(record, Redescription)])
    by_id = _write_models(connection, models, stamp)
    described: list[tuple[int, Place, Description]] = [(by_id[m.id], m.place, m.description) for m in models]
    redescribed = [record for record in records if isinstance(record, Redescription)]
    if redescribed:
        known = _known_files(connection, [r.place.path for r in redescribed])
        again = [(known[r.place.path][0], *_as_known(r, *known[r.place.path][1:])) for r in redescribed if r.place.path in known]
        forget_paths(connection, [place.path for _, place, _ in again])
        _forget_metrics_beside(connection, [model_id for model_id, _, _ in again])
        described += again
    _write_files(connection, described, stamp)
    _write_refusals(connection, refusals, stamp)
    return {place.path: model_id for model_id, place, _ in described}


def _insert(connection: Connection, table: str, columns: Mapping[str, pa.Array | Sequence[Any]]) -> None:
    """Insert columns by name; columns left out become NULL."""
    batch = pa.table(dict(columns))
    if batch.num_rows:
        connection.register("batch", batch)
        connection.execute(f"insert into {table} by name select * from batch")
        connection.unregister("batch")


def _next(connection: Connection, table: str, key: str) -> int:
    return int(connection.execute(f"select coalesce(max({key}), 0) + 1 from {table}").fetchall()[0][0])


def _lookup(connection: Connection, table: str, key: str, column: str, wanted: Sequence[bytes]) -> dict[bytes, int]:
    """Surrogate keys of the hashes that the catalog has already."""
    connection.register("wanted", pa.table({"wanted": pa.array(wanted, pa.binary())}))
    rows = connection.execute(f"select {column}, {key} from {table} semi join wanted on {column} = wanted").fetchall()
    connection.unregister("wanted")
    return {bytes(digest): number for digest, number in rows}


def _known_files(connection: Connection, paths: Sequence[str]) -> dict[str, tuple[int, str, str | None]]:
    """Model, format and container metadata of known files."""
    connection.register("wanted", pa.table({"path": pa.array(paths, pa.string())}))
    rows = connection.execute("select path, model_id, format, metadata->'$.container' from files semi join wanted using (path)").fetchall()
    connection.unregister("wanted")
    return {path: (model_id, format, container) for path, model_id, format, container in rows}


def _as_known(record: Redescription, format: str, container: str | None) -> tuple[Place, Description]:
    """A new description beside the weights that are known: what the container itself says was not read again."""
    metadata = {"container": json.loads(container), **record.description.metadata} if container else record.description.metadata
    return replace(record.place, format=format), replace(record.description, metadata=metadata)


def forget_paths(connection: Connection, paths: Sequence[str]) -> None:
    """Drop what is known of files; the models that they held stay, with all that was recorded of them."""
    if paths:
        connection.register("gone", pa.table({"path": pa.array(paths, pa.string())}))
        connection.execute("delete from files using gone where files.path = gone.path")
        connection.execute("delete from quarantine using gone where quarantine.path = gone.path")
        connection.unregister("gone")


def write_place(connection: Connection, path: str, place: Place) -> None:
    """Let the row of a file say where it lies now and how it looks; what else is known of it stays."""
    connection.execute(
        "update files set path = ?, format = ?, size = ?, num_files = ?, modified = ?, stamp = ? where path = ?",
        [place.path, place.format, place.size, place.num_files, place.modified, place.stamp, path],
    )


def _forget_metrics_beside(connection: Connection, model_ids: Sequence[int]) -> None:
    """Drop what was read beside models before it is read anew, so that a metric taken out of a file goes."""
    if model_ids:
        connection.register("again", pa.table({"model_id": pa.array(model_ids, pa.int32())}))
        connection.execute("delete from metrics using again where metrics.model_id = again.model_id and source = ?", [BESIDE])
        connection.unregister("again")
        refresh_model_table(connection)


def _write_models(connection: Connection, models: Sequence[ModelRecord], stamp: datetime) -> dict[bytes, int]:
    by_id = _lookup(connection, "models", "model_id", "id", [m.id for m in models])
    new: dict[bytes, ModelRecord] = {}
    for model in models:
        if model.id not in by_id:
            new.setdefault(model.id, model)
    if not new:
        return by_id
    fresh = list(new.values())
    architectures = _write_architectures(connection, fresh)
    tensors = _write_tensors(connection, fresh)
    names = _unique_names(connection, fresh)
    first = _next(connection, "models", "model_id")
    numbers = {model.id: first + at for at, model in enumerate(fresh)}
    recipes = _write_recipes(connection, fresh)
    cards = [model.description for model in fresh]
    _insert(
        connection,
        "models",
        {
            "model_id": pa.array(numbers.values(), pa.int32()),
            "id": pa.array([m.id for m in fresh], pa.binary()),
            "weights_id": pa.array([m.weights_id for m in fresh], pa.binary()),
            "name": pa.array(names, pa.string()),
            "architecture_id": pa.array([architectures[m.fingerprint] for m in fresh], pa.int32()),
            "kind": pa.array([m.kind for m in fresh], pa.string()),
            "num_params": pa.array([m.num_params for m in fresh], pa.int64()),
            "num_bytes": pa.array([m.num_bytes for m in fresh], pa.int64()),
            "num_tensors": pa.array([len(m.tensors) for m in fresh], pa.int32()),
            "is_finite": pa.array([m.is_finite for m in fresh], pa.bool_()),
            "licence": pa.array([c.licence for c in cards], pa.string()),
            "base_model": pa.array([c.base_model for c in cards], pa.string()),
            "datasets": pa.array([list(c.datasets) or None for c in cards], pa.list_(pa.string())),
            "languages": pa.array([list(c.languages) or None for c in cards], pa.list_(pa.string())),
            "library": pa.array([c.library for c in cards], pa.string()),
            "task": pa.array([c.task for c in cards], pa.string()),
            "recipe_id": pa.array([recipes.get(m.id) for m in fresh], pa.int32()),
            "catalogued": pa.array([stamp] * len(fresh), pa.timestamp("us")),
        },
    )
    lengths = [len(m.tensors) for m in fresh]
    rows = [row for m in fresh for row in m.tensors]
    _insert(
        connection,
        "model_tensors",
        {
            "model_id": pa.array([n for n, k in zip(numbers.values(), lengths, strict=True) for _ in range(k)], pa.int32()),
            "position": pa.array([at for k in lengths for at in range(k)], pa.int32()),
            "name": pa.array([_text(row[0]) for row in rows], pa.string()),
            "tensor_id": pa.array([tensors[row[4]] for row in rows], pa.int64()),
            "alias_of": pa.array([row[3] and _text(row[3]) for row in rows], pa.string()),
        },
    )
    _write_parents(connection, [(numbers[m.id], m) for m in fresh if m.parents])
    return by_id | numbers


def _write_architectures(connection: Connection, models: Sequence[ModelRecord]) -> dict[bytes, int]:
    known = _lookup(connection, "architectures", "architecture_id", "fingerprint", [m.fingerprint for m in models])
    new: dict[bytes, ModelRecord] = {}
    for model in models:
        if model.fingerprint not in known:
            new.setdefault(model.fingerprint, model)
    first = _next(connection, "architectures", "architecture_id")
    numbers = {fingerprint: first + at for at, fingerprint in enumerate(new)}
    _insert(
        connection,
        "architectures",
        {
            "architecture_id": pa.array(numbers.values(), pa.int32()),
            "fingerprint": pa.array(new, pa.binary()),
            "num_tensors": pa.array([len(m.tensors) for m in new.values()], pa.int32()),
            "family": pa.array([m.description.family for m in new.values()], pa.string()),
        },
    )
    return known | numbers


def _write_tensors(connection: Connection, models: Sequence[ModelRecord]) -> dict[bytes, int]:
    rows = {row[4]: row for model in models for row in model.tensors}
    known = _lookup(connection, "tensors", "tensor_id", "hash", list(rows))
    new = [row for digest, row in rows.items() if digest not in known]
    first = _next(connection, "tensors", "tensor_id")
    values = [(row[1], row[2], *row[5:]) for row in new]
    columns = list(zip(*values, strict=True)) or [()] * len(TENSOR_COLUMNS)
    _insert(
        connection,
        "tensors",
        {
            "tensor_id": pa.array(range(first, first + len(new)), pa.int64()),
            "hash": pa.array([row[4] for row in new], pa.binary()),
            **{name: pa.array(column, kind) for (name, kind), column in zip(TENSOR_COLUMNS, columns, strict=True)},
        },
    )
    return known | {row[4]: first + at for at, row in enumerate(new)}


def _unique_names(connection: Connection, models: Sequence[ModelRecord]) -> list[str]:
    """Give each new content a name of its own: the wanted one, or that with the first digits of its id."""
    wanted = [_text(model.name) for model in models]
    connection.register("wanted", pa.table({"name": pa.array(wanted, pa.string())}))
    taken = {name for (name,) in connection.execute("select name from models semi join wanted using (name)").fetchall()}
    connection.unregister("wanted")
    names = []
    for model, name in zip(models, wanted, strict=True):
        if name in taken:
            name = f"{name}@{model.id.hex()[:8]}"
        taken.add(name)
        names.append(name)
    return names


def _write_recipes(connection: Connection, models: Sequence[ModelRecord]) -> dict[bytes, int]:
    """Write recipes that are new; recipe ids (surrogate) by model id of the models that have one."""
    texts = {
        m.id: (json.dumps(m.recipe, sort_keys=True, separators=(",", ":")), str(m.recipe.get("kind", "recipe"))) for m in models if m.recipe
    }
    digests = {model_id: bytes(blake3(text.encode()).digest()) for model_id, (text, _) in texts.items()}
    told = {digests[model_id]: said for model_id, said in texts.items()}
    known = _lookup(connection, "recipes", "recipe_id", "hash", list(told))
    new = {digest: said for digest, said in told.items() if digest not in known}
    first = _next(connection, "recipes", "recipe_id")
    numbers = {digest: first + at for at, digest in enumerate(new)}
    _insert(
        connection,
        "recipes",
        {
            "recipe_id": pa.array(numbers.values(), pa.int32()),
            "hash": pa.array(numbers, pa.binary()),
            "kind": pa.array([kind for _, kind in new.values()], pa.string()),
            "recipe": pa.array([text for text, _ in new.values()], pa.string()),
        },
    )
    return {model_id: (known | numbers)[digest] for model_id, digest in digests.items()}


def _write_parents(connection: Connection, children: Sequence[tuple[int, ModelRecord]]) -> None:
    """Write who comes from whom, as far as the parents are in the catalog."""
    for child, model in children:
        kind = str((model.recipe or {}).get("kind", "made"))
        for parent in dict.fromkeys(model.parents):
            connection.execute(
                "insert into edges select model_id, ?, ?, 'recipe', 1 from models where id = unhex(?) and model_id <> ?",
                [child, kind, parent, child],
            )


def _write_files(connection: Connection, described: Sequence[tuple[int, Place, Description]], stamp: datetime) -> None:
    if not described:
        return
    runs = write_runs(connection, [d.run for _, _, d in described if d.run])
    first = _next(connection, "files", "file_id")
    kept = list({d[1].path: d for d in described}.values())  # one row a path: the same content of several runs, in the store, is one file
    places = [place for _, place, _ in kept]
    _insert(
        connection,
        "files",
        {
            "file_id": pa.array(range(first, first + len(places)), pa.int32()),
            "model_id": pa.array([number for number, _, _ in kept], pa.int32()),
            "path": pa.array([p.path for p in places], pa.string()),
            "format": pa.array([p.format for p in places], pa.string()),
            "num_files": pa.array([p.num_files for p in places], pa.int32()),
            "size": pa.array([p.size for p in places], pa.int64()),
            "modified": pa.array([p.modified for p in places], pa.timestamp("us")),
            "stamp": pa.array([p.stamp for p in places], pa.uint64()),
            "sidecar_stamp": pa.array([p.sidecar_stamp for p in places], pa.uint64()),
            "sha256": pa.array([p.sha256 for p in places], pa.binary()),
            "run_id": pa.array([runs[d.run.key] if d.run else None for _, _, d in kept], pa.int32()),
            "step": pa.array([d.step for _, _, d in kept], pa.int64()),
            "metadata": pa.array([_json(d.metadata) for _, _, d in kept], pa.string()),
            "ingested": pa.array([stamp] * len(places), pa.timestamp("us")),
        },
    )
    _fill_descriptions(connection, described)
    along = {runs[d.run.key]: d.run for _, _, d in described if d.run}
    points = [(None, run_id, metric, run.source) for run_id, run in along.items() for metric in run.metrics]
    beside = [(number, runs[d.run.key] if d.run else None, metric, source) for number, _, d in described for metric, source in d.metrics]
    write_metrics(connection, [*points, *beside])
    write_tags(connection, [(number, key, value) for number, _, d in described for key, value in d.tags.items()])


def _fill_descriptions(connection: Connection, described: Sequence[tuple[int, Place, Description]]) -> None:
    """Give known models what a later file says of them; what is already there stays."""
    columns = ("licence", "base_model", "datasets", "languages", "library", "task")
    told: dict[int, dict[str, Any]] = {}
    for number, _, description in described:
        said = {column: getattr(description, column) for column in columns}
        if any(said.values()):
            # The first to say something is believed, within a batch as across batches.
            earlier = told.get(number, {})
            told[number] = {column: earlier.get(column) or said[column] for column in columns}
    if not told:
        return
    texts, lists = pa.string(), pa.list_(pa.string())
    kinds = {column: lists if column in ("datasets", "languages") else texts for column in columns}
    values = {column: pa.array([one[column] or None for one in told.values()], kind) for column, kind in kinds.items()}
    connection.register("told", pa.table({"model_id": pa.array(told, pa.int32()), **values}))
    changes = ", ".join(f"{c} = coalesce(models.{c}, told.{c})" for c in columns)
    missing = " or ".join(f"(models.{c} is null and told.{c} is not null)" for c in columns)
    connection.execute(f"update models set {changes} from told where models.model_id = told.model_id and ({missing})")
    connection.unregister("told")


def _write_refusals(connection: Connection, refusals: Sequence[Refusal], stamp: datetime) -> None:
    _insert(
        connection,
        "quarantine",
        {
            "path": pa.array([r.place.path for r in refusals], pa.string()),
            "reason": pa.array([r.reason for r in refusals], pa.string()),
            "detail": pa.array([r.detail for r in refusals], pa.string()),
            "advice": pa.array([r.advice for r in refusals], pa.string()),
            "size": pa.array([r.place.size for r in refusals], pa.int64()),
            "stamp": pa.array([r.place.stamp for r in refusals], pa.uint64()),
            "seen": pa.array([stamp] * len(refusals), pa.timestamp("us")),
        },
    )


def write_runs(connection: Connection, runs: Iterable[Run]) -> dict[str, int]:
    """Write runs that are new and refresh known ones; a value that is known is not replaced by nothing.

    Returns:
        Surrogate run ids by key.
    """
    latest = {run.key: run for run in runs}
    if not latest:
        return {}
    connection.register("wanted", pa.table({"key": pa.array(latest, pa.string())}))
    known: dict[str, int] = dict(connection.execute("select key, run_id from runs semi join wanted using (key)").fetchall())
    connection.unregister("wanted")
    first = _next(connection, "runs", "run_id")
    numbers = {key: first + at for at, key in enumerate(key for key in latest if key not in known)}
    ordered = [latest[key] for key in latest]
    columns: dict[str, pa.Array] = {
        "run_id": pa.array([(numbers | known)[run.key] for run in ordered], pa.int32()),
        "key": pa.array([run.key for run in ordered], pa.string()),
        "name": pa.array([_text(run.name) for run in ordered], pa.string()),
        "source": pa.array([run.source for run in ordered], pa.string()),
        "seed": pa.array([run.seed for run in ordered], pa.int64()),
        "hyperparameters": pa.array([_json(run.hyperparameters) for run in ordered], pa.string()),
        "source_item": pa.array([run.source_item for run in ordered], pa.string()),
        "split": pa.array([run.split for run in ordered], pa.string()),
        "status": pa.array([run.status for run in ordered], pa.string()),
        "started": pa.array([run.started for run in ordered], pa.timestamp("us")),
        "ended": pa.array([run.ended for run in ordered], pa.timestamp("us")),
        "tags": pa.array([_json(run.tags) for run in ordered], pa.string()),
    }
    if known:
        connection.register("told", pa.table(columns))
        changes = ", ".join(f"{c} = coalesce(told.{c}, runs.{c})" for c in columns if c not in ("run_id", "key"))
        connection.execute(f"update runs set {changes} from told where runs.run_id = told.run_id")
        connection.unregister("told")
    is_new = pa.array([run.key not in known for run in ordered])
    _insert(connection, "runs", {name: column.filter(is_new) for name, column in columns.items()})
    return known | numbers


def write_metrics(connection: Connection, rows: Sequence[tuple[int | None, int | None, Metric, str]]) -> None:
    """Record metrics of models and runs; a value for the same model, run, name, split and step takes the place of the old one."""
    if not rows:
        return
    latest = {(model, run, m.name, m.split, m.step): (m, source) for model, run, m, source in rows}
    batch = pa.table(
        {
            "model_id": pa.array([key[0] for key in latest], pa.int32()),
            "run_id": pa.array([key[1] for key in latest], pa.int32()),
            "name": pa.array([_text(key[2]) for key in latest], pa.string()),
            "split": pa.array([key[3] and _text(key[3]) for key in latest], pa.string()),
            "step": pa.array([key[4] for key in latest], pa.int64()),
            "value": pa.array([m.value for m, _ in latest.values()], pa.float64()),
            "source": pa.array([source for _, source in latest.values()], pa.string()),
            "time": pa.array([m.time for m, _ in latest.values()], pa.timestamp("us")),
            "recorded": pa.array([now()] * len(latest), pa.timestamp("us")),
        }
    )
    connection.register("fresh", batch)
    same = " and ".join(f"metrics.{c} is not distinct from fresh.{c}" for c in ("model_id", "run_id", "name", "split", "step"))
    connection.execute(f"delete from metrics using fresh where {same}")
    connection.execute("insert into metrics by name select * from fresh")
    connection.unregister("fresh")
    refresh_model_table(connection)


def write_tags(connection: Connection, rows: Sequence[tuple[int, str, str]]) -> None:
    """Label models; a model has one value a key."""
    if not rows:
        return
    latest = {(model, key): value for model, key, value in rows}
    batch = pa.table(
        {
            "model_id": pa.array([model for model, _ in latest], pa.int32()),
            "key": pa.array([_text(key) for _, key in latest], pa.string()),
            "value": pa.array([_text(value) for value in latest.values()], pa.string()),
        }
    )
    connection.register("fresh", batch)
    connection.execute("delete from tags using fresh where tags.model_id = fresh.model_id and tags.key = fresh.key")
    connection.execute("insert into tags by name select * from fresh")
    connection.unregister("fresh")


def _text(text: str) -> str:
    """Text as UTF-8 can store it: lone surrogates of undecodable names are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _storable(said: Said) -> Said:
    """The same with all its text as UTF-8 can store it: a card or a config may hold half a character."""
    changes: dict[str, Any] = {}
    for name, value in vars(said).items():
        if isinstance(value, str):
            changes[name] = _text(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], str):
            changes[name] = tuple(map(_text, value))
        elif isinstance(value, Run):
            changes[name] = _storable(value)
    return replace(said, **changes)


def _json(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace").decode("utf-8")  # half a character is no JSON
