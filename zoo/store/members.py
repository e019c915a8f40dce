"""What lies in a store: the catalog's rows beside the files that are there."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import duckdb

from weightspace.errors import CatalogError, FormatError
from weightspace.formats.compact import needs, read_compact_header
from weightspace.formats.safetensors import read_header
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.store.graph import Needs
from weightspace.zoo.store.roots import COMPACT, PLAIN, Held, Root, key_of

IN_STORE = "(stamp = 0 and not starts_with(path, 'hf:'))"


@dataclass(frozen=True)
class Member:
    """A model that the catalog says to be in the store.

    Attributes:
        number: surrogate id.
        id: of its content, in hex.
        name: in the catalog.
        architecture: surrogate id of its architecture.
        base: what it is declared to come from, if anything.
        path: of its file, as the catalog has it.
        size: bytes of that file, as the catalog has it.
        num_bytes: bytes of its tensors.
    """

    number: int
    id: str
    name: str
    architecture: int
    base: str | None
    path: str
    size: int
    num_bytes: int

    @property
    def suffix(self) -> str:
        """Of its file: plain or compact."""
        return PurePosixPath(self.path).suffix


def members(connection: duckdb.DuckDBPyConnection, where: str | None = None) -> list[Member]:
    """The models of the store, in the order in which they were catalogued.

    Args:
        connection: to the catalog.
        where: SQL condition on models, as in `Zoo.models`.
    """
    chosen = f"and model_id in (select model_id from model_table where ({where}\n))" if where else ""
    rows = connection.execute(
        f"""select model_id, lower(hex(id)), name, architecture_id, base_model, path, size, num_bytes
            from files join models using (model_id) where {IN_STORE} {chosen} order by model_id, file_id"""
    ).fetchall()
    return list({row[0]: Member(*row) for row in reversed(rows)}.values())[::-1]


def needed(root: Root, keys: dict[str, int]) -> Needs:
    """What the compact files need, from their headers; a damaged one needs nothing that could be known."""
    found = Needs()
    for key in keys:
        model = PurePosixPath(key).stem
        if key == key_of(model, COMPACT) and (file := root.at(key)) is not None:
            with contextlib.suppress(FormatError):
                found.record(model, needs(file))
    return found


def held_as(root: Root, key: str) -> Held | None:
    """A file under its key, even where another form of the same model would come first."""
    file = root.at(key)
    return None if file is None else Held(key, file)


def strings_of(held: Held) -> dict[str, str]:
    """What a file of the store says besides tensors."""
    if held.key.endswith(COMPACT):
        return dict(read_compact_header(held.file)[0].get("metadata", {}))
    return read_header(held.file)[2]


def present(root: Root) -> dict[str, int]:
    """Whole files of models in the store, with their bytes."""
    return {
        one.key: one.size
        for one in root.entries()
        if len(model := PurePosixPath(one.key).stem) == 64 and one.key in (key_of(model, PLAIN), key_of(model, COMPACT))
    }


@contextlib.contextmanager
def tending(catalog: Catalog) -> Iterator[None]:
    """Keep every other process from compacting, restoring or collecting; what only adds and reads goes on.

    Raises:
        CatalogError: another is at it.
    """
    with catalog.reading():  # there is a zoo, and it can be read
        pass
    try:
        lock = (catalog.home / "tending").open("a+b")
    except OSError as error:
        raise CatalogError(f"{catalog.home}: cannot be written ({error.strerror}); check its permissions and the free space") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CatalogError(
                f"{catalog.home}: another process is compacting, restoring or collecting here; wait until it is done"
            ) from None
        yield


def is_tended(home: Path) -> bool:
    """Whether another process is compacting, restoring or collecting at this moment."""
    try:
        with (home / "tending").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # nobody ever did
    return False


__all__ = ["IN_STORE", "Member", "held_as", "is_tended", "members", "needed", "present", "strings_of", "tending"]
