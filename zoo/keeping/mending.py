"""Mending a zoo: rows that point nowhere go, what follows from other rows or from files is written anew, damaged copies are replaced.

Weights are never deleted: a damaged file of the store is moved aside, to `.weightspace/damaged`, and files elsewhere are not touched.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import DAMAGE, FormatError
from weightspace.formats import open_checkpoint
from weightspace.storage import Storage
from weightspace.zoo import store
from weightspace.zoo.discover import discover
from weightspace.zoo.keeping.catalog_file import reshape
from weightspace.zoo.keeping.circles import cut
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.misplaced import model_in, relocate
from weightspace.zoo.keeping.places import Row, is_stored, read_all
from weightspace.zoo.keeping.promises import Inspection, has_compact, may_name, models_of, pieces, sound
from weightspace.zoo.keeping.rereading import recount, renumber, reread
from weightspace.zoo.keeping.rules import mend_rows
from weightspace.zoo.model_table import refresh_model_table
from weightspace.zoo.records import Description, ModelRecord
from weightspace.zoo.store.aside import set_aside
from weightspace.zoo.store.members import tending
from weightspace.zoo.store.roots import LocalRoot, other_of
from weightspace.zoo.write import Connection, write_place, write_records

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo


def mend(zoo: "Zoo", found: Inspection) -> frozenset[str]:
    """Mend what can be mended of what an inspection found.

    Returns:
        Paths, as the catalog has them, of files that were written or of which rows were changed.

    Raises:
        CatalogError: the catalog or the store cannot be written.
    """
    _tidy(zoo.catalog.home, found.findings)
    if not found.is_open:
        return frozenset()
    touched: set[str] = set()
    with zoo.catalog.writing() as connection:
        _mend_catalog(connection, zoo.folder, found)
    with tending(zoo.catalog):  # not while another process compacts or collects
        moved = _relocate(zoo, found, touched)
        _mend_store(zoo, found, touched)
    with zoo.catalog.writing() as connection:
        _mend_places(connection, zoo.folder, found, touched)
        refresh_model_table(connection)
    _adopt(zoo, found.findings, moved, touched)
    return frozenset(touched)


def _tidy(home: Path, findings: Sequence[Finding]) -> None:
    """Remove what may go from the house: leftovers, locks that are none, damaged files of the cache."""
    for one in findings:
        if one.kind not in ("leftover", "lock", "cache") or not one.is_mendable:
            continue
        path = home / one.where
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()


def _mend_catalog(connection: Connection, folder: Path, found: Inspection) -> None:
    """Models first, from their files, while rows that seem to point nowhere still tell what they belonged to."""
    renumber(connection, [number for one in found.findings if one.kind == "identity" for number in one.models])
    wanted = [number for one in found.findings if one.kind in ("identity", "statistics", "counts") for number in models_of(connection, one)]
    lost = [number for one in found.findings if one.kind == "dangling" and one.where.startswith("files: ") for number in one.models]
    done = reread(connection, folder, list(dict.fromkeys([*lost, *wanted])), found)
    recount(connection, [number for one in found.findings if one.kind == "counts" for number in one.models if number not in done])
    odd = [one.where.removeprefix("recipes: ") for one in found.findings if one.kind == "recipe"]
    for digits in odd:
        named = "(select recipe_id from recipes where starts_with(lower(hex(coalesce(hash, ''::blob))), ?))"
        for table in ("models", "runs"):
            connection.execute(f"update {table} set recipe_id = null where recipe_id in {named}", [digits])
        connection.execute("delete from recipes where starts_with(lower(hex(coalesce(hash, ''::blob))), ?)", [digits])
    mend_rows(connection)
    if any(one.kind == "circle" for one in found.findings):
        cut(connection)
    reshape(connection)


def _relocate(zoo: "Zoo", found: Inspection, touched: set[str]) -> dict[str, str]:
    """Give files of the store that lie under other names those of their content, where rows lack it; see `relocate`.

    Returns:
        Where each lies now, by where it lay.
    """
    root = store.root_of(zoo.catalog.home)
    if not isinstance(root, LocalRoot):
        return {}
    lacking = {
        bytes(row.id or b"").hex(): row for row in _rows_of(found, ("missing", "damaged", "changed")) if is_stored(row) and _is_own(row)
    }
    belongs = dict(found.belongs)
    for one in found.findings if lacking else ():
        path = zoo.folder / one.where
        if one.kind == "unknown" and one.is_mendable and one.where not in belongs and path.is_file():
            model = model_in(root, path)
            if model in lacking and model != path.stem:
                belongs[one.where] = model
    moved = relocate(zoo.catalog.home, belongs)
    touched |= {*moved, *moved.values()}
    for row in lacking.values():
        if not (zoo.folder / row.path).is_file() and other_of(row.path) in moved.values():
            found.forms[row.path] = other_of(row.path)
    return moved


def _mend_store(zoo: "Zoo", found: Inspection, touched: set[str]) -> None:
    """Write damaged and missing files of the store anew, as long as one more can be; then move aside what is damaged and stays so."""
    taken = _take_forms(zoo, found, touched)
    open_still = [
        row
        for row in _rows_of(found, ("damaged", "missing", "changed"))
        if is_stored(row) and row.id is not None and _is_own(row) and row.path not in taken
    ]
    is_going_on = True
    while is_going_on and open_still:
        is_going_on = False
        for row in list(open_still):
            if _is_whole(zoo.folder / row.path, row):
                open_still.remove(row)
                found.content.pop(row.path, None)
            elif (checkpoint := _elsewhere(zoo, row, found)) is not None and _replaced(zoo, row, checkpoint):
                open_still.remove(row)
                found.content.pop(row.path, None)
                touched.add(row.path)
                is_going_on = True
    for row in open_still:
        path = zoo.folder / row.path
        # What another file may be a difference from stays where it is, for what can still be read of it.
        if path.is_file() and not has_compact(zoo.catalog.home):
            set_aside(zoo.catalog.home, path)


def _take_forms(zoo: "Zoo", found: Inspection, touched: set[str]) -> set[str]:
    """Let rows name the other form of their file where that one is whole, and move aside what is damaged and would be read first.

    Returns:
        Paths of files that no row names any more.
    """
    home, taken = zoo.catalog.home, set[str]()
    for one in found.findings:
        if one.kind == "damaged" and one.is_mendable and one.where not in found.rows and (zoo.folder / one.where).is_file():
            set_aside(home, zoo.folder / one.where)
    for row in _rows_of(found, ("form", "missing", "damaged", "changed")):
        other = found.forms.get(row.path)
        if other is None or not _is_whole(zoo.folder / other, row):
            continue
        if (zoo.folder / row.path).is_file():
            set_aside(home, zoo.folder / row.path)
        place = store.stored(home, bytes(row.id or b"").hex())
        if place is not None:
            with zoo.catalog.writing() as connection:
                write_place(connection, row.path, place)
            found.content.pop(row.path, None)
            touched |= {row.path, place.path}
            taken.add(row.path)
    return taken


def _is_own(row: Row) -> bool:
    return Path(row.path).name.partition(".")[0] == bytes(row.id or b"").hex()


def _rows_of(found: Inspection, kinds: Sequence[str]) -> Iterator[Row]:
    seen: set[str] = set()
    for one in found.findings:
        row = found.rows.get(one.where)
        if one.kind in kinds and row is not None and row.path not in seen:
            seen.add(row.path)
            yield row


def _is_whole(path: Path, row: Row) -> bool:
    try:
        return open_checkpoint(path).id == bytes(row.id or b"").hex()
    except (FormatError, *DAMAGE):
        return False


def _elsewhere(zoo: "Zoo", row: Row, found: Inspection) -> Checkpoint | None:
    """The same weights in another place: a further file of the model, or tensors of other models put together; read to their end."""
    wanted = bytes(row.id or b"").hex()
    with zoo.catalog.reading() as connection:
        paths = [path for path in sound(connection, zoo.folder, row.model_id or 0, found) if path != row.path]
        parts = pieces(connection, zoo.folder, row.model_id or 0, found)
        tied = connection.execute(
            "select name, alias_of from model_tensors where model_id = ? order by position", [row.model_id]
        ).fetchall()
    for path in paths:
        with contextlib.suppress(FormatError, *DAMAGE):
            checkpoint = open_checkpoint(zoo.folder / path)
            if checkpoint.id == wanted:
                return checkpoint
    if not all(parts.values()):
        return None
    info: dict[str, TensorInfo] = {}
    storages: dict[str, Storage] = {}
    with contextlib.suppress(FormatError, *DAMAGE):
        for name, alias in tied:
            path, there = parts[name][0]
            source = open_checkpoint(zoo.folder / path)
            info[name] = TensorInfo(name, source.info[there].dtype, source.info[there].shape, alias)
            storages[name] = source.storages[there]
        checkpoint = Checkpoint(info, storages, "memory")
        return checkpoint if checkpoint.id == wanted else None
    return None


def _replaced(zoo: "Zoo", row: Row, checkpoint: Checkpoint) -> bool:
    """Put the weights into the store in place of a damaged file, which is kept aside; back where it was if that fails."""
    place = store.put_anew(zoo.catalog.home, checkpoint, bytes(row.id or b"").hex())
    with zoo.catalog.writing() as connection:
        write_place(connection, row.path, place)
    return True


def _mend_places(connection: Connection, folder: Path, found: Inspection, touched: set[str]) -> None:
    """Set right what the rows of files say: of which model, how large, how old; drop those of files that are gone and lie elsewhere, too."""
    for one in found.findings:
        row = found.rows.get(one.where)
        if row is None or not one.is_mendable:
            continue
        content = found.content.get(row.path, b"")
        if content and may_name(row, content):
            connection.execute(
                "update files set model_id = m.model_id from models m where files.path = ? and m.id = ?", [row.path, content]
            )
        elif one.what.startswith("its SHA-256"):
            connection.execute("update files set sha256 = null where path = ?", [row.path])
        elif one.kind == "changed" and _is_whole(folder / row.path, row):
            _renew(connection, folder, row)
        elif one.kind == "missing" and not is_stored(row) and sound(connection, folder, row.model_id or 0, found):
            connection.execute("delete from files where path = ?", [row.path])
        touched.add(row.path)
    same = "select rowid, row_number() over (partition by path, model_id order by file_id) as place from files"
    connection.execute(f"delete from files where rowid in (select rowid from ({same}) where place > 1)")


def _renew(connection: Connection, folder: Path, row: Row) -> None:
    """Take down the size and time that a file has now."""
    path = folder / row.path
    seen = next((one for one in discover([path]) if one.path == path), None)
    size, modified = (seen.size, seen.modified) if seen is not None else (path.stat().st_size, path.stat().st_mtime_ns)
    stamp = row.stamp if is_stored(row) or seen is None else seen.stamp
    when = datetime.fromtimestamp(modified / 1e9, UTC).replace(tzinfo=None)
    connection.execute("update files set size = ?, modified = ?, stamp = ? where path = ?", [size, when, stamp, row.path])


def _adopt(zoo: "Zoo", findings: Sequence[Finding], moved: Mapping[str, str], touched: set[str]) -> None:
    """Catalogue whole files of the store that the catalog does not know; set aside what is not what its name says.

    Args:
        zoo: whose store it is.
        findings: what is wrong.
        moved: where files lie now, by where they lay.
        touched: gets the paths of what was catalogued.
    """
    home = zoo.catalog.home
    with zoo.catalog.reading() as connection:
        known = {path for (path,) in connection.execute("select path from files where stamp = 0").fetchall()} if moved else set[str]()
    for one in findings:
        where = moved.get(one.where, one.where)
        path = zoo.folder / where
        if where in known or not path.is_relative_to(home / "store"):
            continue
        if one.kind != "unknown" or not one.is_mendable or not path.is_file():
            continue
        digest = path.name.partition(".")[0]
        try:
            checkpoint = open_checkpoint(path)
            read = read_all(checkpoint)
        except (FormatError, *DAMAGE):
            read = None
        if read is None or read.id.hex() != digest:
            if not has_compact(home):
                set_aside(home, path)
            continue
        place = store.stored(home, digest)
        if place is None or place.path != where:
            continue  # a second form of what is there already, which 'gc' removes
        record = ModelRecord(
            place, digest[:12], read.id, read.weights_id, read.fingerprint, read.kind, read.num_params, read.num_bytes, read.rows,
            Description(), read.recipe, read.parents,
        )  # fmt: skip
        with zoo.catalog.writing() as connection:
            write_records(connection, [record])
        touched.add(where)
