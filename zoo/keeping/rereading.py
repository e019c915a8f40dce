"""Reading models again: rows that tell of weights, written anew from a file whose content proves which model it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from weightspace.errors import DAMAGE, FormatError
from weightspace.formats import open_checkpoint
from weightspace.zoo.keeping.identities import NAMED, derived, is_read, models_with_tensors, rows_of
from weightspace.zoo.keeping.places import read_all
from weightspace.zoo.keeping.promises import Inspection, readable
from weightspace.zoo.reading import Read
from weightspace.zoo.records import TensorRow
from weightspace.zoo.write import TENSOR_COLUMNS, Connection

_COUNTS = ("num_tensors", "num_params", "num_bytes", "is_finite")


def reread(connection: Connection, folder: Path, models: Sequence[int], found: Inspection) -> set[int]:
    """Write what the catalog says of models and their tensors anew, each from the first of its files that is what the catalog means.

    A file proves a model where its content has the id that is written down, or the one that follows from the rows, where only one of
    the two was damaged; a model whose row is gone gets it back.

    Returns:
        The models that were written anew.
    """
    suspects = set(models)
    for model in models:
        for path in readable(connection, folder, model, found):
            try:
                read = read_all(open_checkpoint(folder / path))
            except (FormatError, *DAMAGE):
                continue
            if _is_of(connection, model, read, Path(path).name.partition(".")[0]):
                _rewrite(connection, model, read, suspects, Path(path))
                suspects.discard(model)
                break
    return set(models) - suspects


def _is_of(connection: Connection, model: int, read: Read, stem: str) -> bool:
    """Whether content is that of a model; where rows are damaged, one of three witnesses is enough, unless it is another model's."""
    if connection.execute("select 1 from models where id = ? and model_id <> ?", [read.id, model]).fetchall():
        return False
    written = [bytes(digest or b"") for (digest,) in connection.execute("select id from models where model_id = ?", [model]).fetchall()]
    return not written or read.id in written or read.id.hex() == stem or read.id == id_of_rows(connection, model)


def id_of_rows(connection: Connection, model: int) -> bytes | None:
    """The id that follows from the rows of a model's tensors; None where they make no sense."""
    try:
        return derived(rows_of(connection, model), is_read=True).values[0]
    except (*DAMAGE, FormatError):
        return None


def _rewrite(connection: Connection, model: int, read: Read, suspects: set[int], path: Path) -> None:
    numbers = _tensors(connection, model, read.rows, suspects)
    architecture = _architecture(connection, model, read.fingerprint, len(read.rows))
    is_finite = not any(row[8] or row[9] for row in read.rows)
    values = [read.id, read.weights_id, architecture, len(read.rows), read.num_params, read.num_bytes, is_finite]
    if connection.execute("select 1 from models where model_id = ?", [model]).fetchall():
        changes = "id = ?, weights_id = ?, architecture_id = ?, num_tensors = ?, num_params = ?, num_bytes = ?, is_finite = ?"
        connection.execute(f"update models set {changes} where model_id = ?", [*values, model])
    else:
        name = path.with_suffix("").name if len(path.with_suffix("").name) < 60 else read.id.hex()[:12]
        taken = connection.execute("select 1 from models where name = ?", [name]).fetchall()
        connection.execute(
            """insert into models by name select ? as model_id, ? as name, ? as kind, ? as id, ? as weights_id, ? as architecture_id,
               ? as num_tensors, ? as num_params, ? as num_bytes, ? as is_finite, now()::timestamp as catalogued""",
            [model, f"{name}@{read.id.hex()[:8]}" if taken else name, read.kind, *values],
        )
    order = _order(connection, model, [_text(row[0]) for row in read.rows])
    connection.execute("delete from model_tensors where model_id = ?", [model])
    rows = pa.table(
        {
            "model_id": pa.array([model] * len(read.rows), pa.int32()),
            "position": pa.array(order, pa.int32()),
            "name": pa.array([_text(row[0]) for row in read.rows], pa.string()),
            "tensor_id": pa.array([numbers[row[4]] for row in read.rows], pa.int64()),
            "alias_of": pa.array([row[3] and _text(row[3]) for row in read.rows], pa.string()),
        }
    )
    _insert(connection, "model_tensors", rows)


def _order(connection: Connection, model: int, names: Sequence[str]) -> list[int]:
    """Positions of tensors: those that they had, where they make sense, since files of one model may differ in this; else as in the file."""
    known = dict(connection.execute("select name, position from model_tensors where model_id = ?", [model]).fetchall())
    before = [known.get(name) for name in names]
    everyone = list(range(len(names)))
    return [one for one in before if one is not None] if sorted(one for one in before if one is not None) == everyone else everyone


def renumber(connection: Connection, models: Sequence[int]) -> None:
    """Give models their numbers back, under which the rows of their tensors stand and nobody else does."""
    free = "select distinct model_id from model_tensors where model_id is not null and model_id not in (select model_id from models) order by 1"
    orphans = [number for (number,) in connection.execute(free).fetchall()]
    for model in models:
        if connection.execute("select 1 from model_tensors where model_id = ?", [model]).fetchall():
            continue
        found = connection.execute("select id from models where model_id = ?", [model]).fetchall()
        for number in orphans:
            if found and found[0][0] is not None and bytes(found[0][0]) == id_of_rows(connection, number):
                connection.execute("update models set model_id = ? where model_id = ?", [number, model])
                break


def _tensors(connection: Connection, model: int, rows: Sequence[TensorRow], suspects: set[int]) -> dict[bytes, int]:
    """Write the tensors' rows anew, under the numbers that they have, or had before their row was damaged."""
    wanted = {row[4]: row for row in rows}
    connection.register("asked", pa.table({"hash": pa.array(list(wanted), pa.binary())}))
    known = {
        bytes(h): n
        for h, n in connection.execute("select hash, min(tensor_id) from tensors semi join asked using (hash) group by hash").fetchall()
    }
    connection.unregister("asked")
    before = dict(connection.execute("select name, tensor_id from model_tensors where model_id = ?", [model]).fetchall())
    free = {number for number in before.values() if number is not None and _is_free(connection, number, set(known.values()), suspects)}
    last = int(connection.execute("select coalesce(max(tensor_id), 0) from tensors").fetchall()[0][0])
    last = max(last, *before.values()) if before and all(one is not None for one in before.values()) else last
    for digest, row in wanted.items():
        if digest not in known:
            own = before.get(_text(row[0]))
            if own in free:
                free.discard(own)
                known[digest] = own
            else:
                last += 1
                known[digest] = last
    fresh = list(wanted.items())
    values = list(zip(*((row[1], row[2], *row[5:]) for _, row in fresh), strict=True)) or [()] * len(TENSOR_COLUMNS)
    table = pa.table(
        {
            "tensor_id": pa.array([known[digest] for digest, _ in fresh], pa.int64()),
            "hash": pa.array([digest for digest, _ in fresh], pa.binary()),
            **{name: pa.array(column, kind) for (name, kind), column in zip(TENSOR_COLUMNS, values, strict=True)},
        }
    )
    connection.register("fresh", table)
    connection.execute("delete from tensors using fresh where tensors.tensor_id = fresh.tensor_id")
    connection.execute("insert into tensors by name select * from fresh")
    connection.unregister("fresh")
    return known


def _is_free(connection: Connection, number: int, taken: set[int], suspects: set[int]) -> bool:
    """Whether a tensor's row is of nobody whose rows are in order."""
    if number in taken:
        return False
    users = {
        model for (model,) in connection.execute("select distinct model_id from model_tensors where tensor_id = ?", [number]).fetchall()
    }
    return users <= suspects


def _architecture(connection: Connection, model: int, fingerprint: bytes, count: int) -> int:
    """The number of an architecture; one whose row is gone or damaged gets it back."""
    known = connection.execute("select architecture_id from architectures where fingerprint = ? order by 1", [fingerprint]).fetchall()
    own = [
        one for (one,) in connection.execute("select architecture_id from models where model_id = ?", [model]).fetchall() if one is not None
    ]
    if known:
        number = int(known[0][0])
        connection.execute("update architectures set num_tensors = ? where architecture_id = ?", [count, number])
        return number
    if own and connection.execute("select 1 from architectures where architecture_id = ?", own).fetchall():
        connection.execute(
            "update architectures set fingerprint = ?, num_tensors = ? where architecture_id = ?", [fingerprint, count, *own]
        )
        return int(own[0])
    fresh = own or [n for (n,) in connection.execute("select coalesce(max(architecture_id), 0) + 1 from architectures").fetchall()]
    connection.execute(
        "insert into architectures by name select ? as architecture_id, ? as fingerprint, ? as num_tensors", [fresh[0], fingerprint, count]
    )
    return int(fresh[0])


def recount(connection: Connection, models: Sequence[int]) -> None:
    """Set counts, weights ids and architectures of models right from the rows of their tensors, where those have the model's id."""
    for model in models:
        for row, tensors in models_with_tensors(connection, model):
            try:
                values = dict(zip(NAMED, derived(tensors, is_read(row, tensors)).values, strict=True))
            except (*DAMAGE, FormatError):
                continue
            if values["id"] != bytes(row[2] or b""):
                continue
            counted: list[Any] = [values[name] for name in _COUNTS]
            fingerprint = values["fingerprint"]
            assert isinstance(fingerprint, bytes)
            number = _architecture(connection, model, fingerprint, len(tensors))
            connection.execute(
                f"update models set weights_id = ?, architecture_id = ?, {', '.join(f'{name} = ?' for name in _COUNTS)} where model_id = ?",
                [values["weights_id"], number, *counted, model],
            )


def _insert(connection: Connection, table: str, rows: pa.Table) -> None:
    connection.register("fresh", rows)
    connection.execute(f"insert into {table} by name select * from fresh")
    connection.unregister("fresh")


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
