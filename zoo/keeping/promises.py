"""What a repair can promise: for each finding about weights, whether there is another place that holds the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from weightspace.remote import is_remote
from weightspace.zoo.discover import stamp_at
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.places import Row, is_stored
from weightspace.zoo.store import STAMP
from weightspace.zoo.write import Connection

_FEW = 3  # models of a tensor that are tried


@dataclass
class Inspection:
    """What one look at a zoo found, and what mending needs to know of it.

    Attributes:
        findings: all that is wrong.
        content: by path of a file the id of what lies there, where that is not what its row says; None where it cannot be read.
        rows: of `files`, by what findings call them.
        forms: by path of a file of the store that is gone or not what it should be, that of its other form, which is.
        belongs: by path of a file of the store under another name than that of its content, the model (id, hex) that it holds.
        is_open: whether the catalog could be read to its end.
        is_deep: whether content was read.
        models: in the catalog.
        files: looked at.
        unread: models of which only headers were read.
        bytes_read: of files.
    """

    findings: list[Finding] = field(default_factory=list)
    content: dict[str, bytes | None] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)
    belongs: dict[str, str] = field(default_factory=dict)
    is_open: bool = True
    is_deep: bool = False
    models: int = 0
    files: int = 0
    unread: int = 0
    bytes_read: int = 0


def promised(connection: Connection, folder: Path, found: Inspection) -> list[Finding]:
    """Say of each finding about weights whether it can be mended, and how."""
    return [_promised(connection, folder, found, one) for one in found.findings]


def _promised(connection: Connection, folder: Path, found: Inspection, one: Finding) -> Finding:
    row = found.rows.get(one.where)
    if one.kind == "identity" or one.kind == "statistics":
        sources = [path for number in models_of(connection, one) for path in readable(connection, folder, number, found)]
        if sources:
            return replace(one, advice=f"it can be read again from {sources[0]}", is_mendable=True)
        return replace(
            one,
            advice="no sound file of it is known; bring one back and ingest it, or restore the catalog from a backup",
            is_mendable=False,
        )
    if one.kind not in ("missing", "damaged", "changed") or row is None:
        return one
    return _of_place(connection, folder, found, one, row)


def _of_place(connection: Connection, folder: Path, found: Inspection, one: Finding, row: Row) -> Finding:
    other = found.forms.get(row.path)
    if other is not None:
        said = replace(one, kind="form", what="lies in the store in its other form") if one.kind == "missing" else one
        return replace(said, advice=f"its row can name {other}", is_mendable=True)
    wanted, content = bytes(row.id or b"").hex(), found.content.get(row.path, b"")
    holder = next((path for path, model in found.belongs.items() if model == wanted and path != row.path), None)
    if is_stored(row) and holder is not None:
        return replace(one, advice=f"its weights lie at {holder}, and can get their own name again", is_mendable=True)
    if content and may_name(row, content) and _model_of(connection, content) is not None:
        return replace(one, advice="it is another model of this catalog, of which its row can be", is_mendable=True)
    if one.what.startswith("its SHA-256"):
        return replace(one, advice="the hash can be taken out", is_mendable=True)
    if one.kind == "changed" and content == b"" and found.is_deep:
        return replace(one, advice="its content is what it was; its row can take the new size and time", is_mendable=True)
    others = [] if row.model_id is None else [path for path in sound(connection, folder, row.model_id, found) if path != row.path]
    if is_stored(row):
        if others:
            return replace(one, advice=f"it can be written anew from {others[0]}", is_mendable=True)
        if row.model_id is not None and all(pieces(connection, folder, row.model_id, found).values()):
            return replace(one, advice="it can be put together from tensors of other models", is_mendable=True)
        return replace(one, advice=_of_last(folder / ".weightspace", found, one, row))
    if one.kind == "missing" and others:
        return replace(one, advice=f"its row can be dropped; the model lies at {others[0]}, too", is_mendable=True)
    if one.kind == "missing":
        return replace(one, advice="bring it back, or ingest the place where it lies now")
    if one.kind == "damaged":
        return replace(one, advice=f"copy it anew; the same weights lie at {others[0]}" if others else "copy or download it again")
    return one


def _of_last(home: Path, found: Inspection, one: Finding, row: Row) -> str:
    """What can be done about a file of the store of which no other copy is known."""
    if one.kind == "missing":
        return "no other copy is known: bring it back, or ingest one with --copy"
    if row.path in found.belongs:
        held = found.belongs[row.path][:12]
        return f"it holds the weights {held}, and --repair takes it out of the way; no copy of its own is known: ingest one with --copy"
    bring = "this is the last copy that is known: bring another one and ingest it with --copy"
    if has_compact(home):
        return f"{bring}; until then --repair lets it lie, since compact files may need what can still be read of it"
    return f"{bring}; --repair moves it aside, to .weightspace/damaged"


def has_compact(home: Path) -> bool:
    """Whether compact files lie in the store, which may need what can still be read of a damaged one."""
    return any((home / "store").glob("*/*.compact"))


def may_name(row: Row, content: bytes) -> bool:
    """Whether a row may get to name the model that was found in its file: a file of the store never becomes that of another name."""
    return not is_stored(row) or Path(row.path).name.partition(".")[0] == content.hex()


def models_of(connection: Connection, one: Finding) -> Sequence[int]:
    """Models from whose files a finding can be mended."""
    if one.models or not one.where.startswith("tensors: "):
        return one.models
    number = one.where.partition(": ")[2]
    if not number.isdecimal():
        return ()
    found = connection.execute("select distinct model_id from model_tensors where tensor_id = ? order by 1 limit ?", [int(number), _FEW])
    return [model for (model,) in found.fetchall()]


def _model_of(connection: Connection, digest: bytes) -> int | None:
    found = connection.execute("select model_id from models where id = ?", [digest]).fetchall()
    return int(found[0][0]) if len(found) == 1 else None


def places_of(connection: Connection, folder: Path, model: int) -> Iterator[tuple[str, int]]:
    """Paths of a model's files that are there and were not written over, with their stamps; those of the store first."""
    rows = connection.execute("select path, stamp from files where model_id = ? order by stamp <> 0, file_id", [model]).fetchall()
    for path, stamp in rows:
        if path and not is_remote(path) and (folder / path).exists() and (stamp == STAMP or stamp_at(folder / path) == stamp):
            yield path, stamp


def sound(connection: Connection, folder: Path, model: int, found: Inspection) -> list[str]:
    """Files of a model that hold it, as far as was looked."""
    return [path for path, _ in places_of(connection, folder, model) if path not in found.content]


def readable(connection: Connection, folder: Path, model: int, found: Inspection) -> list[str]:
    """Files of a model that can be read, whatever their content is."""
    return [path for path, _ in places_of(connection, folder, model) if found.content.get(path, b"") is not None]


def pieces(connection: Connection, folder: Path, model: int, found: Inspection) -> dict[str, list[tuple[str, str]]]:
    """Where else the tensors of a model stand: by name, paths of sound files of other models with the name there."""
    rows = connection.execute(
        """select o.name, p.model_id, p.name from model_tensors o left join model_tensors p on p.tensor_id = o.tensor_id and p.model_id <> o.model_id
           where o.model_id = ? order by o.position, p.model_id""",
        [model],
    ).fetchall()
    paths: dict[int, list[str]] = {}
    made: dict[str, list[tuple[str, str]]] = {}
    for name, other, there in rows:
        made.setdefault(name, [])
        if other is None or len(made[name]) >= _FEW:
            continue
        if other not in paths:
            paths[other] = sound(connection, folder, other, found)
        made[name] += [(path, there) for path in paths[other][:1]]
    return made or {"": []}
