"""Measures of single tensors over a catalog query, kept by content: a tensor that stands in many models is measured once."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from weightspace import parallel
from weightspace.checkpoint import Checkpoint
from weightspace.errors import RecordError, WeightSpaceError, one_line
from weightspace.zoo.mapping import Measure, Progress, Skip, checked, selected
from weightspace.zoo.results import Pending
from weightspace.zoo.write import Connection

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

Said = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What a function says of tensors: by tensor, by measure, by key."""

Function = Callable[[Checkpoint, Sequence[str], Sequence[str]], Said]
"""Takes a checkpoint, names of its tensors and names of measures; tensors of one call may be worked on together."""

Choose = Callable[[Checkpoint], Sequence[str] | Mapping[str, str]]
"""Which tensors of a checkpoint are measured: their names, or variants by name."""

_Content = tuple[int, str]  # tensor id and variant
_Key = tuple[_Content, str]  # and measure


@dataclass(frozen=True)
class _Task:
    """Tensors of one model that lack the same measures."""

    model: str
    checkpoint: Checkpoint
    tensors: tuple[str, ...]
    measures: tuple[str, ...]


def apply_to_tensors(
    zoo: "Zoo",
    function: Function,
    measures: Sequence[Measure],
    choose: Choose,
    *,
    where: str | None = None,
    jobs: int | None = None,
    backend: str = "local",
    progress: Callable[[Progress], None] | None = None,
    skip: Skip | None = None,
) -> pa.Table:
    """Take measures of the tensors of a query that have not been taken of their contents before; see `Zoo.map_tensors`."""
    with zoo.catalog.reading() as connection:
        models = selected(connection, where)
        ids = _ids(connection, list(models))
    chosen = _chosen(zoo, models, choose, skip)
    contents = {(number, name): (ids[number, name], variant) for number, (_, names) in chosen.items() for name, variant in names.items()}
    with zoo.catalog.reading() as connection:
        known = _known(connection, measures, {variant for _, variant in contents.values()})
    tasks = list(_tasks(models, chosen, contents, known, [one.name for one in measures]))
    total, done, by_name = sum(len(task.tensors) for task, _ in tasks), 0, {one.name: one for one in measures}
    with (
        Pending(zoo.catalog, "tensor_id") as pending,
        contextlib.closing(
            parallel.run(partial(_apply, function), (task for task, _ in tasks), jobs=jobs, backend=backend, died=_died)
        ) as results,
    ):
        for (task, measured), said in zip(tasks, results, strict=True):
            if isinstance(said, parallel.WorkerDiedError):
                if skip is None:
                    raise RecordError(f"{one_line(task.model, 120)}: {said}")
                skip(task.model, said)
                continue
            for tensor, measure in itertools.product(task.tensors, task.measures):
                content = number, variant = measured[tensor]
                known[content, measure] = said[tensor][measure]
                pending.add((number,), _filed(by_name[measure], variant).columns, said[tensor][measure])
            done += len(task.tensors)
            if progress:
                progress(Progress(done, total))
    rows = [(models[number], tensor, contents[number, tensor]) for number, (_, tensors) in chosen.items() for tensor in tensors]
    return _table(rows, known, [one.name for one in measures])


def _chosen(zoo: "Zoo", models: Mapping[int, str], choose: Choose, skip: Skip | None) -> dict[int, tuple[Checkpoint, Mapping[str, str]]]:
    """The checkpoints with variants of what is measured of them by name; '' is the plain one."""
    found = {}
    for number, name in models.items():
        try:
            opened = zoo.open(name)
            names = choose(opened)
        except WeightSpaceError as error:
            if skip is None:
                raise
            skip(name, error)
            continue
        found[number] = opened, names if isinstance(names, Mapping) else dict.fromkeys(names, "")
    return found


def _filed(measure: Measure, variant: str) -> Measure:
    """What results of a variant are filed under."""
    return replace(measure, parameters={**measure.parameters, "variant": variant}) if variant else measure


def _ids(connection: Connection, models: Sequence[int]) -> dict[tuple[int, str], int]:
    """The content behind each tensor of each model."""
    rows = connection.execute(
        "select model_id, name, tensor_id from model_tensors where list_contains(?::integer[], model_id)", [list(models)]
    ).fetchall()
    return {(model, name): tensor for model, name, tensor in rows}


def _known(connection: Connection, measures: Sequence[Measure], variants: Iterable[str]) -> dict[_Key, dict[str, Any]]:
    found: dict[_Key, dict[str, Any]] = {}
    for one, variant in itertools.product(measures, variants):
        rows = connection.execute(
            "select tensor_id, key, value, text from measurements where measure = ? and version = ? and parameters = ? and tensor_id is not null",
            list(_filed(one, variant).columns),
        ).fetchall()
        for tensor, key, value, text in rows:
            found.setdefault(((tensor, variant), one.name), {})[key] = value if text is None else text
    return found


def _tasks(
    models: Mapping[int, str],
    chosen: Mapping[int, tuple[Checkpoint, Mapping[str, str]]],
    contents: Mapping[tuple[int, str], _Content],
    known: Mapping[_Key, object],
    measures: Sequence[str],
) -> Iterator[tuple[_Task, dict[str, _Content]]]:
    """What is left to do, each content once, with the contents of its tensors."""
    taken: set[_Content] = set()
    for number, (checkpoint, tensors) in chosen.items():
        lacking: dict[tuple[str, ...], dict[str, _Content]] = {}
        for tensor in tensors:
            content = contents[number, tensor]
            missing = tuple(one for one in measures if (content, one) not in known)
            if missing and content not in taken:
                lacking.setdefault(missing, {})[tensor] = content
                taken.add(content)
        for missing, found in lacking.items():
            yield _Task(models[number], checkpoint, tuple(found), missing), found


def _apply(function: Function, task: _Task) -> dict[str, dict[str, dict[str, float | str | None]]] | parallel.WorkerDiedError:
    where = f"measuring {one_line(repr(task.model), 80)}"
    try:
        said = function(task.checkpoint, task.tensors, task.measures)
    except WeightSpaceError as error:
        raise RecordError(f"{where}: {error}") from None
    return {
        tensor: {
            measure: checked(said[tensor][measure], f"measure '{measure}' of tensor {one_line(repr(tensor), 80)} of {task.model!r}")
            for measure in task.measures
        }
        for tensor in task.tensors
    }


def _died(task: _Task, error: parallel.WorkerDiedError) -> parallel.WorkerDiedError:
    return error


def _table(rows: Sequence[tuple[str, str, _Content]], known: Mapping[_Key, Mapping[str, Any]], measures: Sequence[str]) -> pa.Table:
    """One row an occurrence; a column a measure, or a measure and key."""
    columns: dict[str, Any] = {
        "model": pa.array([row[0] for row in rows], pa.string()),
        "tensor": pa.array([row[1] for row in rows], pa.string()),
    }
    for measure in measures:
        keys = dict.fromkeys(key for _, _, content in rows for key in known.get((content, measure), {}))
        for key in keys:
            given = [known.get((content, measure), {}).get(key) for _, _, content in rows]
            is_text = any(isinstance(value, str) for value in given)
            kind = pa.string() if is_text else pa.float64()
            values = [None if value is None else str(value) if is_text else value for value in given]
            columns[f"{measure}.{key}" if key else measure] = pa.array(values, kind)
    return pa.table(columns)
