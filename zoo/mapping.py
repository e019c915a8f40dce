"""A user's function of checkpoints, or of pairs of them, applied over a catalog query and kept: nothing is computed twice."""

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsFloat

import pyarrow as pa

from weightspace import parallel
from weightspace.checkpoint import Checkpoint
from weightspace.errors import RecordError, WeightSpaceError, one_line
from weightspace.zoo import query
from weightspace.zoo.results import Pending, write
from weightspace.zoo.write import Connection

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

COLUMNS = {1: ("model_id",), 2: ("a_id", "b_id")}  # of models and of pairs

Function = Callable[..., Mapping[str, Any]]
Skip = Callable[[str, Exception], None]
"""Is told of a model, or of a pair, that was left out, and why."""

Key = tuple[int, ...]


@dataclass(frozen=True)
class Measure:
    """What a function's results are filed under.

    Attributes:
        name: of the measure.
        version: of the function; another one is computed anew.
        parameters: of the function; others are computed anew.
    """

    name: str
    version: str = "1"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, str, str]:
        """Name, version and the parameters as canonical JSON, as the catalog keeps them."""
        try:
            text = json.dumps(self.parameters, sort_keys=True, separators=(",", ":"))
        except TypeError as error:
            raise RecordError(
                f"parameters of measure '{self.name}' are no JSON ({error}); give numbers, text, lists and mappings"
            ) from None
        return self.name, self.version, text


@dataclass(frozen=True)
class Progress:
    """How far a run is: so many of so many models or pairs, those known before left out."""

    done: int
    total: int


def apply_to(
    zoo: "Zoo",
    function: Function,
    measure: Measure,
    *,
    arity: int,
    ordered: bool = False,
    where: str | None = None,
    jobs: int | None = None,
    backend: str = "local",
    progress: Callable[[Progress], None] | None = None,
    skip: Skip | None = None,
) -> pa.Table:
    """Apply a function to every model (arity 1) or pair of models (arity 2) of a query that it has not been applied to.

    See `Zoo.map` and `Zoo.map_pairs`.
    """
    with zoo.catalog.reading() as connection:
        names = selected(connection, where)
        wanted = list((itertools.permutations if ordered else itertools.combinations)(names, arity))
        known = _known(connection, measure, arity)
    missing = [key for key in wanted if key not in known]
    # Results are closed before what is pending is written, so that after Ctrl-C no worker goes on meanwhile.
    tasks = _tasks(zoo, names, missing, is_strict=skip is None)
    with (
        Pending(zoo.catalog, *COLUMNS[arity]) as pending,
        contextlib.closing(parallel.run(partial(_apply, function, measure.name), tasks, jobs=jobs, backend=backend, died=_died)) as results,
    ):
        for done, (key, values) in enumerate(zip(missing, results, strict=True), 1):
            if not isinstance(values, _Failed):
                pending.add(key, measure.columns, values)
            elif skip is not None:
                skip(" and ".join(names[k] for k in key), RecordError(values.reason))
            else:
                raise RecordError(f"{_said_of(measure.name, [names[k] for k in key])}: {values.reason}")
            if progress:
                progress(Progress(done, len(missing)))
    with zoo.catalog.reading() as connection:
        return _table(_known(connection, measure, arity), wanted, names)


def record(zoo: "Zoo", models: Sequence[Checkpoint], measure: Measure, values: Mapping[str, float | int | str | None]) -> bool:
    """Keep what was found of one model or two; see `Zoo.record_measure` and `Zoo.record_pair`."""
    if not zoo.catalog.exists():
        return False
    kept = checked(values, f"measure '{measure.name}'", is_text_allowed=len(models) == 1)
    with zoo.catalog.writing() as connection:
        wanted = pa.table({"id": pa.array([model.id for model in models], pa.string())})
        connection.register("wanted", wanted)
        keys = dict(connection.execute("select wanted.id, model_id from wanted join models on models.id = unhex(wanted.id)").fetchall())
        connection.unregister("wanted")
        if not all(model.id in keys for model in models):
            return False
        of = tuple(keys[model.id] for model in models)
        write(connection, COLUMNS[len(of)], [(of, measure.columns, key, value) for key, value in kept.items()])
        return True


def selected(connection: Connection, where: str | None) -> dict[int, str]:
    """Names of the models of a query by surrogate key, in order of the keys: the order of catalogue."""
    ids = query.models(connection, where, "name", None)["id"].to_pylist()
    connection.register("chosen", pa.table({"id": pa.array(ids, pa.string())}))
    rows = connection.execute("select model_id, name from models join chosen on models.id = unhex(chosen.id) order by model_id").fetchall()
    connection.unregister("chosen")
    return dict(rows)


def _known(connection: Connection, measure: Measure, arity: int) -> dict[Key, dict[str, Any]]:
    """What is already measured, by model or pair."""
    keys, table = (("model_id",), "measurements") if arity == 1 else (("a_id", "b_id"), "pair_measurements")
    said = "value, text" if arity == 1 else "value, null"
    rows = connection.execute(
        f"select {', '.join(keys)}, key, {said} from {table} where measure = ? and version = ? and parameters = ?"
        f"{' and tensor_id is null' if arity == 1 else ''} order by rowid",
        list(measure.columns),
    ).fetchall()
    found: dict[Key, dict[str, Any]] = {}
    for *key, name, amount, text in rows:
        found.setdefault(tuple(key), {})[name] = amount if text is None else text
    return found


@dataclass(frozen=True)
class _Failed:
    """A model that cannot be opened, or a task that the function refused."""

    reason: str


_Task = tuple[tuple[str, ...], tuple[Checkpoint | _Failed, ...]]


def _tasks(zoo: "Zoo", names: Mapping[int, str], keys: Iterable[Key], *, is_strict: bool) -> Iterator[_Task]:
    """Names and checkpoints of each task, headers alone, each model opened once."""
    known: dict[int, Checkpoint | _Failed] = {}
    for key in keys:
        for k in key:
            if k not in known:
                known[k] = zoo.open(names[k]) if is_strict else _opened(zoo, names[k])
        yield tuple(names[k] for k in key), tuple(known[k] for k in key)


def _opened(zoo: "Zoo", name: str) -> Checkpoint | _Failed:
    try:
        return zoo.open(name)
    except WeightSpaceError as error:
        return _Failed(str(error))


def _apply(function: Function, measure: str, task: _Task) -> dict[str, float | str | None] | _Failed:
    """Do one task."""
    names, checkpoints = task
    unopened = next((one for one in checkpoints if isinstance(one, _Failed)), None)
    if unopened is not None:
        return unopened
    try:
        values: Any = function(*checkpoints)
    except WeightSpaceError as error:
        return _Failed(str(error))
    return checked(values, _said_of(measure, names), is_text_allowed=len(names) == 1)


def _died(task: _Task, error: parallel.WorkerDiedError) -> _Failed:
    return _Failed(str(error))


def _said_of(measure: str, names: Sequence[str]) -> str:
    return f"measure '{measure}' of {' and '.join(one_line(repr(name), 80) for name in names)}"


def checked(values: Any, where: str, *, is_text_allowed: bool = True) -> dict[str, float | str | None]:
    """What a function said, as the catalog keeps it.

    Raises:
        RecordError: it is no mapping from text to numbers, or empty; `where` says of what.
    """
    if not isinstance(values, Mapping) or not values:
        raise RecordError(f"{where} is {one_line(repr(values), 80)}, expected a mapping from keys to numbers, not empty")
    return {_key(key, where): _value(value, key, where, is_text_allowed=is_text_allowed) for key, value in values.items()}


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise RecordError(f"{where} has the key {one_line(repr(key), 80)}, expected text")
    return key


def _value(value: object, key: str, where: str, *, is_text_allowed: bool) -> float | str | None:
    """A number as the catalog stores it: what is not finite is NULL there."""
    if value is None or (is_text_allowed and isinstance(value, str)):
        return value
    try:
        if isinstance(value, str | bytes) or not isinstance(value, SupportsFloat):
            raise TypeError
        read = float(value)
    except (TypeError, ValueError, RuntimeError):  # text, or an array of several numbers
        raise RecordError(f"{where} has {one_line(repr(value), 80)} for '{key}', expected a number") from None
    return read if math.isfinite(read) else None


def _table(found: Mapping[Key, Mapping[str, Any]], wanted: Sequence[Key], names: Mapping[int, str]) -> pa.Table:
    """One row a model or pair, its keys as columns."""
    rows = [(key, found[key]) for key in wanted if key in found]
    keys = list(dict.fromkeys(name for _, values in rows for name in values))
    columns: dict[str, Any] = {}
    for place, title in enumerate(("model",) if wanted and len(wanted[0]) == 1 else ("a", "b")):
        columns[title] = pa.array([names[key[place]] for key, _ in rows], pa.string())
    for name in keys:
        given = [values.get(name) for _, values in rows]
        is_text = any(isinstance(value, str) for value in given)
        column = pa.array([None if v is None else str(v) for v in given], pa.string()) if is_text else pa.array(given, pa.float64())
        columns[f"{name}_" if name in columns else name] = column
    return pa.table(columns)
