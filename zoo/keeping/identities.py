"""What follows from the rows of a model's tensors: its ids, its architecture's fingerprint and its counts, beside what is written down."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from weightspace import dtypes, identity
from weightspace.errors import FormatError, one_line
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.write import Connection

_HALVES = re.compile(r"\\ud[89a-f][0-9a-f]{2}")  # halves of characters, which the catalog spells out
_BATCH = 10_000
_TENSORS = """
    select model_id, position, o.name, alias_of, tensor_id, hash, dtype, shape, numel, nbytes, num_nan, num_inf
    from model_tensors o left join tensors using (tensor_id) {where} order by model_id, position, o.rowid
"""
_MODELS = """
    select model_id, m.name, id, weights_id, fingerprint, m.num_tensors, a.num_tensors, num_params, num_bytes, is_finite
    from models m left join architectures a using (architecture_id) {where} order by model_id, m.rowid
"""
NAMED = ("id", "weights_id", "fingerprint", "num_tensors", "num_tensors of its architecture", "num_params", "num_bytes", "is_finite")


@dataclass(frozen=True)
class Derived:
    """What the rows of a model's tensors say of it; in the order of `NAMED`."""

    values: tuple[bytes, bytes, bytes, int, int, int, int, bool | None]


def derived(rows: Sequence[tuple[Any, ...]], is_read: bool) -> Derived:
    """Compute what is written in a model's row from those of its tensors.

    Raises:
        FormatError, TypeError, ValueError: a dtype, shape or hash is none.
    """
    names = [_unspelled(row[2]) for row in rows]
    own = [row for row in rows if row[3] is None]
    return Derived(
        (
            identity.model_id((name, row[6], row[7], row[5]) for name, row in zip(names, rows, strict=True)),
            identity.weights_id(row[5] for row in rows),
            identity.architecture_id((name, row[7]) for name, row in zip(names, rows, strict=True)),
            len(rows),
            len(rows),
            sum(row[8] for row in own if dtypes.dtype(row[6]).is_float),
            sum(row[9] for row in own),
            not any(row[10] or row[11] for row in rows) if is_read else None,
        )
    )


def is_read(model: Sequence[Any], rows: Sequence[tuple[Any, ...]]) -> bool:
    """Whether somebody read the weights of a model, or only their headers."""
    return model[9] is not None or any(row[10] is not None for row in rows)


def _unspelled(name: str) -> str:
    return _HALVES.sub(lambda found: chr(int(found[0][2:], 16)), name)


def models_with_tensors(connection: Connection, model: int | None = None) -> Iterator[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]:
    """Yield the row of each model with those of its tensors, one model at a time.

    Args:
        connection: open; of a write transaction one model alone can be seen.
        model: this one alone.
    """
    if model is not None:
        rows = rows_of(connection, model)
        yield from ((one, rows) for one in connection.execute(_MODELS.format(where=f"where model_id = {model:d}")).fetchall())
        return
    left, right = connection.cursor(), connection.cursor()
    groups = itertools.groupby(_rows(right, _TENSORS.format(where="")), key=lambda row: row[0])
    number, own = _next(groups)
    for one in _rows(left, _MODELS.format(where="")):
        while number is not None and (one[0] is None or number < one[0]):
            number, own = _next(groups)
        yield one, own if number is not None and number == one[0] else []


def rows_of(connection: Connection, model: int) -> list[tuple[Any, ...]]:
    """The rows of one model's tensors."""
    return connection.execute(_TENSORS.format(where=f"where model_id = {model:d}")).fetchall()


def _next(groups: Iterator[tuple[Any, Iterator[tuple[Any, ...]]]]) -> tuple[Any, list[tuple[Any, ...]]]:
    number, group = next(groups, (None, iter(())))
    return number, list(group)


def _rows(cursor: Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    cursor.execute(sql)
    while batch := cursor.fetchmany(_BATCH):
        yield from batch


def mismatches(connection: Connection) -> Iterator[Finding]:
    """Find models whose row is not what follows from their tensors, and recipes whose hash is not theirs."""
    for model, rows in models_with_tensors(connection):
        number, name = model[0], one_line(str(model[1]), 120)
        kind, what = _wrong(model, rows)
        if what is not None:
            # Whether there is a file to read it again from is found out where files are looked at.
            yield Finding(kind, what, f"models: {name}", "it can be set right from its tensors", kind == "counts", (number,))
    for digest, text in _rows(connection.cursor(), "select hash, recipe::varchar from recipes order by recipe_id"):
        if digest is None or text is None or bytes(blake3(text.encode()).digest()) != bytes(digest):
            shown = bytes(digest or b"").hex()[:12]
            yield Finding(
                "recipe",
                "its hash is not that of its text",
                f"recipes: {shown}",
                "the reference of models to it can be taken out; their files may hold it still",
                True,
            )


def _wrong(model: tuple[Any, ...], rows: Sequence[tuple[Any, ...]]) -> tuple[str, str | None]:
    """What is wrong with one model: with its tensors, its identity, or only with what is counted."""
    odd = _odd_rows(rows)
    if odd is not None:
        return "identity", odd
    try:
        values = derived(rows, is_read(model, rows)).values
    except (FormatError, TypeError, ValueError, KeyError) as error:
        return "identity", f"a tensor's row makes no sense ({one_line(str(error), 100)})"
    said = tuple(bytes(value) if isinstance(value, bytes | bytearray) else value for value in model[2:])
    differing = [name for name, old, new in zip(NAMED, said, values, strict=True) if old != new]
    if "id" in differing:
        return "identity", "its id is not that of its tensors"
    return "counts", f"{', '.join(differing)} not what its tensors say" if differing else None


def _odd_rows(rows: Sequence[tuple[Any, ...]]) -> str | None:
    by_name = {row[2]: row for row in rows}
    for at, (_, position, name, alias, tensor, digest, dtype, shape, numel, nbytes, *_) in enumerate(rows):
        shown = one_line(str(name), 80)
        if digest is None:
            return f"tensor '{shown}' is no row of 'tensors'"
        if position != at or name is None:
            return f"its tensors are not numbered one after the other (position {position} at {at})"
        try:
            kind = dtypes.dtype(dtype)
            if nbytes != dtypes.num_bytes(kind, shape) or numel != dtypes.numel(shape):
                return f"tensor '{shown}' of dtype {dtype} and shape {shape} has {nbytes} bytes and {numel} elements written down"
        except (FormatError, TypeError, ValueError, KeyError):
            return f"tensor '{shown}' has the dtype '{one_line(str(dtype), 40)}' and shape {one_line(str(shape), 60)}"
        owner = by_name.get(alias) if alias is not None else None
        if alias is not None and (owner is None or owner[3] is not None or owner[4] != tensor):
            return f"tensor '{shown}' is tied to '{one_line(str(alias), 80)}', which is another or none"
    return "two of its tensors have one name" if len(by_name) != len(rows) else None
