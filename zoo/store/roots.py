"""Where a store keeps its files: a folder of the zoo, or an address that fsspec knows; a file lies under its key once it is whole."""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from weightspace.errors import CatalogError, FormatError, one_line
from weightspace.formats.compact import SUFFIXES
from weightspace.remote import buckets
from weightspace.storage import RangedFile, SourceFile
from weightspace.zoo.catalog import Catalog

SETTING, OWNER = "store", "owner"  # key in the catalog's meta table; name of the object that says whose store it is
PLAIN, COMPACT = SUFFIXES
_WHOLE_PUTS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")  # where an object is not there until it is whole


@dataclass(frozen=True)
class Entry:
    """A file in a store.

    Attributes:
        key: `ab/<id>.safetensors`, or whatever lies there.
        size: its bytes.
        changed: when it came there or was last named by somebody who is about to catalogue it (seconds since 1970).
    """

    key: str
    size: int
    changed: float


class Held(NamedTuple):
    """The weights of a model in a store.

    Attributes:
        key: under which they lie.
        file: to read them from.
    """

    key: str
    file: RangedFile


@runtime_checkable
class Root(Protocol):
    """A place for files by key."""

    def address(self, key: str) -> str:
        """The file as the catalog's `files` table names it."""

    def at(self, key: str) -> RangedFile | None:
        """The file under a key."""

    def renew(self, key: str) -> bool:
        """Say that a file is needed by somebody who has not catalogued it yet; False where it is gone, or has to be put again for that."""

    def fresh(self, key: str) -> Path:
        """A name on this machine under which a file may be written before it is put."""

    def put(self, fresh: Path, key: str) -> None:
        """Bring a whole file under its key; afterwards it is no longer where it was."""

    def remove(self, key: str) -> None:
        """Take a file away, if it is there."""

    def entries(self) -> Iterator[Entry]:
        """All files, also such as are no part of a store."""


def key_of(model: str, suffix: str = PLAIN) -> str:
    """Under which key the weights with this id (hex) are kept."""
    return f"{model[:2]}/{model}{suffix}"


def other_of(path: str) -> str:
    """Where the other form of a file of a store lies, by its key, path or address."""
    return path.removesuffix(PLAIN) + COMPACT if path.endswith(PLAIN) else path.removesuffix(COMPACT) + PLAIN


def find(root: Root, model: str) -> Held | None:
    """The weights of a model in a store, plain or else compact."""
    for key in (key_of(model, suffix) for suffix in SUFFIXES):
        file = root.at(key)
        if file is not None:
            return Held(key, file)
    return None


@dataclass(frozen=True)
class LocalRoot:
    """The folder `store` of a zoo's house."""

    home: Path

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.home / "store"

    def address(self, key: str) -> str:
        """The path from the zoo's folder."""
        return str((self.folder / key).relative_to(self.home.parent))

    def at(self, key: str) -> RangedFile | None:
        """The file under a key, wherever no link leads out of the folder."""
        path = self.folder / key
        is_inside = path.is_file() and path.resolve().is_relative_to(self.folder.resolve())
        return SourceFile.at(path) if is_inside else None

    def renew(self, key: str) -> bool:
        """Renew the file's change time; its modification time stays, by which readers know that nothing happened to it."""
        path = self.folder / key
        with contextlib.suppress(OSError), self.uncollected():
            path.chmod(path.stat().st_mode & 0o7777)
        return path.is_file()

    @contextlib.contextmanager
    def uncollected(self, *, alone: bool = False) -> Iterator[None]:
        """Keep the collection of garbage, which looks and removes in one go, from coming between looking at a file and renewing it."""
        with (self.home / "collecting").open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    def fresh(self, key: str) -> Path:
        """A hidden name in the same folder."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.name.partition('.')[0]}.{secrets.token_hex(4)}.new")

    def put(self, fresh: Path, key: str) -> None:
        """Rename it, and see that the name is on the disk."""
        fresh.replace(self.folder / key)
        folder = os.open(fresh.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, key: str) -> None:
        """Unlink it; who has it open reads on."""
        (self.folder / key).unlink(missing_ok=True)

    def entries(self) -> Iterator[Entry]:
        """Walk the folder; links are not followed."""
        for folder, _, names in os.walk(self.folder):
            for name in sorted(names):
                path = Path(folder) / name
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    yield Entry(str(path.relative_to(self.folder)), status.st_size, max(status.st_mtime, status.st_ctime))


@dataclass(frozen=True)
class RemoteRoot:
    """An address such as `s3://bucket/prefix`; fresh files are written in the house first, and verified there."""

    home: Path
    base: str

    @cached_property
    def _system(self) -> Any:
        return buckets.system_at(self.base)[0]

    def _path(self, key: str) -> str:
        return f"{buckets.system_at(self.base)[1].rstrip('/')}/{key}"

    def address(self, key: str) -> str:
        """The whole address."""
        return f"{self.base.rstrip('/')}/{key}"

    def at(self, key: str) -> RangedFile | None:
        """Ask for the file under a key."""
        self._system.invalidate_cache()
        return buckets.file_at(self.address(key))

    def renew(self, key: str) -> bool:
        """Nothing can be renewed there: what is not young has to be put again."""
        return False

    def fresh(self, key: str) -> Path:
        """A hidden name in the house's own store folder, which holds nothing else."""
        return LocalRoot(self.home).fresh(key)

    def put(self, fresh: Path, key: str) -> None:
        """Upload it, and see that what lies there is as long, and has the same MD5 where the place tells it."""
        path, size = self._path(key), fresh.stat().st_size
        scheme = self.base.partition("://")[0]
        first = path if scheme in _WHOLE_PUTS else f"{path}.{secrets.token_hex(4)}.new"
        with self._told(key):
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(fresh), first)
            self._system.invalidate_cache()
            found = self._system.info(first)
            tag = str(found.get("ETag", "")).strip('"').lower()
            is_md5 = len(tag) == 32 and set(tag) <= set("0123456789abcdef") and not found.get("SSEKMSKeyId")
            if found["size"] != size or (is_md5 and tag != _md5(fresh)):
                self._system.rm_file(first)
                raise CatalogError(f"{self.address(key)}: is not what was uploaded; try again")
            if first != path:
                self._system.mv(first, path)
        fresh.unlink()

    def remove(self, key: str) -> None:
        """Delete the object."""
        with self._told(key), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path(key))
            self._system.invalidate_cache()

    def entries(self) -> Iterator[Entry]:
        """List the prefix."""
        with self._told(""):
            self._system.invalidate_cache()
            start = self._path("")
            found = self._system.find(start, detail=True)
        for path, one in sorted(found.items()):
            when: Any = next((one[key] for key in ("LastModified", "mtime", "created", "last_modified") if one.get(key)), 0)
            changed = when.timestamp() if hasattr(when, "timestamp") else float(when)
            yield Entry(path.removeprefix(start), int(one["size"] or 0), changed)

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except (CatalogError, FormatError, FileNotFoundError):
            raise
        except Exception as error:  # every file system has its own
            said = f"{type(error).__name__}: {one_line(str(error), 120)}"
            raise CatalogError(
                f"{self.address(key)}: the store cannot be reached ({said}); check the address and the credentials"
            ) from None

    def claim(self, zoo: str) -> None:
        """Say that the store is this zoo's, whose garbage collection knows what is needed in it.

        Raises:
            CatalogError: it is another zoo's.
        """
        with self._told(OWNER):
            self._system.invalidate_cache()
            if not self._system.exists(self._path(OWNER)):
                self._system.makedirs(self._path("").rstrip("/"), exist_ok=True)
                self._system.pipe_file(self._path(OWNER), zoo.encode())
            if self._system.cat_file(self._path(OWNER)).decode(errors="replace") != zoo:
                raise CatalogError(f"{self.base}: is the store of another zoo; choose another prefix")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def root_of(home: Path) -> Root:
    """Where the zoo with this house keeps its store; asked of the catalog once."""
    path = Catalog(home).path
    try:
        made = path.stat().st_ino
    except OSError:
        return LocalRoot(home)
    return _root(home, made)


@lru_cache(maxsize=64)
def _root(home: Path, _: int) -> Root:
    with Catalog(home).reading() as connection:
        found = connection.execute("select value from meta where key = ?", [SETTING]).fetchall()
    return RemoteRoot(home, found[0][0]) if found else LocalRoot(home)


def keep_at(catalog: Catalog, base: str) -> None:
    """Let a zoo keep its store at an address; only before anything is in it.

    Raises:
        CatalogError: it has a store already, or the address cannot be used.
        FormatError: no package for such addresses is installed.
    """
    root = RemoteRoot(catalog.home, base.rstrip("/"))
    catalog.create()
    with catalog.reading() as connection:
        said = dict(connection.execute("select key, value from meta where key in ('zoo_id', ?)", [SETTING]).fetchall())
        [(held,)] = connection.execute("select count(*) from files where stamp = 0 and starts_with(path, '.weightspace/store/')").fetchall()
    if said.get(SETTING) == root.base:
        return
    if SETTING in said or held:
        where = said.get(SETTING, "its own folder")
        raise CatalogError(
            f"{catalog.home.parent}: keeps its store in {one_line(where, 120)} already; make a new zoo, and pull or ingest into it"
        )
    root.claim(said["zoo_id"])
    with catalog.writing() as connection:
        connection.execute("insert into meta values (?, ?)", [SETTING, root.base])
    _root.cache_clear()


__all__ = ["COMPACT", "PLAIN", "Entry", "Held", "LocalRoot", "RemoteRoot", "Root", "find", "keep_at", "key_of", "other_of", "root_of"]
