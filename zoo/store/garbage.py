"""Garbage: what lies in a zoo's house that nobody needs, removed in an order that a process which adds meanwhile cannot be hurt by."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import duckdb

from weightspace.errors import FormatError
from weightspace.formats.safetensors import open_safetensors
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.store.members import members, needed, present, tending
from weightspace.zoo.store.putting import open_held
from weightspace.zoo.store.roots import COMPACT, PLAIN, Entry, Held, LocalRoot, Root, key_of, root_of

SPARED = 3600.0  # seconds: what is younger may belong to a process that is about to catalogue it
_SCRATCH = (".new", ".tmp", ".new.wal")


@dataclass(frozen=True)
class Garbage:
    """A file that nobody needs.

    Attributes:
        path: of it, as the catalog writes paths.
        why: `uncatalogued`, `superseded` (its other form is the one that counts), `scratch` or `cache`.
        size: its bytes.
    """

    path: str
    why: str
    size: int


def collect(catalog: Catalog, *, dry_run: bool = False, spare: float = SPARED) -> list[Garbage]:
    """Remove what nobody needs: weights that no row of the catalog names, scratch of killed processes, cached results of forgotten tensors.

    A compact file's bases are needed as long as it is. Files elsewhere than in the zoo's house are never touched.

    Args:
        catalog: of the zoo.
        dry_run: only tell.
        spare: seconds; what came or was asked for later than that ago stays.

    Returns:
        What was removed, or would be.

    Raises:
        CatalogError: the store cannot be reached, or another process is compacting it.
    """
    root = root_of(catalog.home)
    old = time.time() - spare
    with contextlib.nullcontext() if dry_run else tending(catalog):
        whole = _whole(catalog, root)
        # The write lock: nothing is catalogued between looking and removing.
        with catalog.reading() if dry_run else catalog.writing() as connection:
            found = _in_store(connection, root, whole, old)
            if not dry_run:
                found = [one for one in found if _removed(root, one[1], old)]
            hashes = {bytes(digest).hex() for (digest,) in connection.execute("select hash from tensors").fetchall()}
        local = [
            one for one in _in_house(catalog.home, hashes, old) if not isinstance(root, LocalRoot) or root.folder not in one[1].parents
        ]
        for _, path in local if not dry_run else ():
            path.unlink(missing_ok=True)
    return [garbage for garbage, _ in found] + [garbage for garbage, _ in local]


def _whole(catalog: Catalog, root: Root) -> set[str]:
    """Of the models that lie there in both forms, the files that count and hold what their names say; read while others may write."""
    keys = present(root)
    with catalog.reading() as connection:
        named = {one.id: one.suffix for one in members(connection)}
    twice = [model for model in {PurePosixPath(key).stem for key in keys} if all(key_of(model, one) in keys for one in (PLAIN, COMPACT))]
    return {key for model in twice if _holds(root, key := key_of(model, named.get(model, PLAIN)))}


def _in_store(connection: duckdb.DuckDBPyConnection, root: Root, whole: set[str], old: float) -> list[tuple[Garbage, Entry]]:
    """What nobody needs of a store."""
    entries = list(root.entries())
    keys = present(root)
    named = {one.id: one.suffix for one in members(connection)}
    young = {PurePosixPath(one.key).stem for one in entries if one.changed >= old and one.key in keys}
    kept = needed(root, keys).all_of([*named, *young])
    made = []
    for entry in entries:
        why = _why(entry, keys, named, kept, whole)
        if why and entry.changed < old:
            made.append((Garbage(root.address(entry.key), why, entry.size), entry))
    return made


def _why(entry: Entry, keys: dict[str, int], named: dict[str, str], kept: set[str], whole: set[str]) -> str | None:
    if PurePosixPath(entry.key).name.startswith(".") and entry.key.endswith(_SCRATCH):
        return "scratch"
    if entry.key not in keys:
        return None  # nothing of ours
    model = PurePosixPath(entry.key).stem
    if model not in kept:
        return "uncatalogued"
    counts = key_of(model, named.get(model, PLAIN))
    return "superseded" if entry.key != counts and counts in whole else None


def _holds(root: Root, key: str) -> bool:
    """Whether the file under a key is there, and holds what the key says."""
    file = root.at(key)
    try:
        return file is not None and open_held(root, Held(key, file)).id == PurePosixPath(key).stem
    except FormatError:
        return False


def _removed(root: Root, entry: Entry, old: float) -> bool:
    """Remove a file, unless somebody asked for it just now."""
    if isinstance(root, LocalRoot):
        path = root.folder / entry.key
        with root.uncollected(alone=True), contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if max(status.st_mtime, status.st_ctime) >= old:
                return False
            root.remove(entry.key)
        return True
    root.remove(entry.key)
    return True


def _in_house(home: Path, hashes: set[str], old: float) -> Iterator[tuple[Garbage, Path]]:
    """Scratch of killed processes in the house, and cached results about tensors that the catalog does not know (any more)."""
    scratch = [*home.glob("*.new"), *home.glob("*.new.wal"), *(home / "cache").glob("*/.*.new"), *(home / "store").glob("*/.*")]
    for path in (one for one in scratch if one.name.endswith(_SCRATCH)):
        if (size := _old(path, old)) is not None:
            yield Garbage(str(path.relative_to(home.parent)), "scratch", size), path
    for path in (home / "cache").glob("*/*.safetensors"):
        with contextlib.suppress(FormatError):
            key = str(open_safetensors(path).metadata.get("key", ""))
            if key.partition("/")[0] not in hashes and (size := _old(path, old)) is not None:
                yield Garbage(str(path.relative_to(home.parent)), "cache", size), path


def _old(path: Path, old: float) -> int | None:
    """Bytes of a file that is old enough."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if max(status.st_mtime, status.st_ctime) < old:
            return status.st_size
    return None


__all__ = ["SPARED", "Garbage", "collect"]
