"""Copies of a zoo: its catalog as it stands at one moment, and with it the weights of its store, each file under its hash.

A backup is a folder (`catalog-<hash>.duckdb`, `store/…`) or a tar file of the same. What it holds is what `backup.json` says, which is
written last: a backup that was broken off is the one before.
"""

import contextlib
import json
import os
import secrets
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from weightspace import __version__
from weightspace.errors import CatalogError, one_line
from weightspace.storage import SourceFile
from weightspace.zoo import store
from weightspace.zoo.ingest import Progress
from weightspace.zoo.keeping.catalog_file import unreadable
from weightspace.zoo.keeping.copying import copied, digest_of, flushed
from weightspace.zoo.keeping.manifest import MANIFEST, Kept, Manifest, read_manifest
from weightspace.zoo.keeping.migrations import version_of
from weightspace.zoo.store.putting import holds
from weightspace.zoo.store.roots import Held, LocalRoot, key_of, other_of

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

ARCHIVE = ".tar"


@dataclass(frozen=True)
class BackupReport:
    """What a backup did.

    Attributes:
        path: of the backup.
        models: in the catalog.
        in_store: of these, whose weights lie in the zoo's own store.
        stored: of those, whose weights are in the backup and whole.
        copied: files of weights that were copied now.
        bytes_copied: theirs, and the catalog's.
        files: of weights in the backup.
        damaged: paths, as the catalog has them, of those of the store's files that were damaged when they were copied.
        seconds: wall time.
    """

    path: Path
    models: int
    in_store: int
    stored: int
    copied: int
    bytes_copied: int
    files: int
    damaged: tuple[str, ...]
    seconds: float


def backup(
    zoo: "Zoo", target: Path, *, weights: bool = False, force: bool = False, progress: Callable[[Progress], None] | None = None
) -> BackupReport:
    """Copy the catalog, and the weights of the zoo's own store.

    Others may read meanwhile; who wants to write waits while the catalog is copied, not while weights are. Into a folder only what is not
    there yet is copied. What is copied is read to its end: what is not the weights that its name says is copied and told, and looked at
    again by the next backup. A catalog that cannot be read to its end is not copied: the backup before it is worth more.

    Args:
        zoo: to copy.
        target: a folder, or a file that ends in `.tar`.
        weights: copy the store, too; what an earlier backup in the same folder has of it stays in any case.
        force: let it take the place of another zoo's backup, or of a file that is none, or lie in the zoo's own folder.
        progress: called after each file.

    Raises:
        CatalogError: there is no zoo, it is damaged, the target is something else, or it cannot be written; what was there stays.
    """
    started = time.monotonic()
    is_archive = target.suffix == ARCHIVE
    before = _before(zoo, target, is_archive, force)
    root = store.root_of(zoo.catalog.home) if zoo.catalog.exists() else LocalRoot(zoo.catalog.home)
    if weights and not isinstance(root, LocalRoot):
        raise CatalogError(
            f"{zoo.folder}: keeps its store elsewhere, where it has copies of its own; back up the catalog without --weights"
        )
    with _told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_archive:
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
                made = _Backup(zoo, Path(scratch), None, progress, is_linked=True).make(weights=weights)
                _archived(Path(scratch), made.manifest, target)
        else:
            target.mkdir(exist_ok=True)
            made = _Backup(zoo, target, before, progress).make(weights=weights)
    files = made.manifest.weights
    seconds = time.monotonic() - started
    damaged = tuple(f"{zoo.catalog.home.name}/{name}" for name, one in sorted(files.items()) if one.is_damaged)
    return BackupReport(target, made.models, made.in_store, made.stored, made.copied, made.bytes_copied, len(files), damaged, seconds)


def _before(zoo: "Zoo", target: Path, is_archive: bool, force: bool) -> Manifest | None:
    """The backup that is there already.

    Raises:
        CatalogError: it is another zoo's, or something else; or the place is the zoo's own, where the next `ingest` would find the copies.
    """
    place, own_folder = target.resolve(), zoo.folder.resolve()
    if place.is_relative_to(zoo.catalog.home.resolve()) or (not force and place.is_relative_to(own_folder) and place != own_folder):
        raise CatalogError(f"{target}: lies in the zoo's own folder; keep a backup elsewhere")
    if not target.exists():
        return None
    if is_archive != target.is_file():
        raise CatalogError(
            f"{target}: is a {'folder' if is_archive else 'file'}; name a folder for a backup, or a file that ends in {ARCHIVE}"
        )
    if not is_archive and all(
        path.name == "store" or path.name.startswith((".catalog.", ".backup.json.", "catalog-")) for path in target.iterdir()
    ):
        return None  # empty, or the beginning of a backup that was broken off
    try:
        before = read_manifest(target)
    except CatalogError:
        if force:
            return None
        raise CatalogError(f"{target}: exists, and is no backup of a zoo; choose another name, or take its place with --force") from None
    with zoo.catalog.reading() as connection:
        own = connection.execute("select value from meta where key = 'zoo_id'").fetchall()
    if not force and before.zoo_id is not None and own != [(before.zoo_id,)]:
        raise CatalogError(f"{target}: is the backup of another zoo; choose another place, or take its place with --force")
    return before


class _Backup:
    """One run into a folder."""

    def __init__(
        self, zoo: "Zoo", folder: Path, before: Manifest | None, progress: Callable[[Progress], None] | None, *, is_linked: bool = False
    ) -> None:
        self.zoo, self.folder, self.before, self.progress, self.is_linked = zoo, folder, before, progress, is_linked
        self.home = zoo.catalog.home
        self.kept: dict[str, Kept] = dict(before.weights) if before else {}
        self.looked: set[str] = set()  # in this run, and found damaged or not
        self.models = self.in_store = self.stored = self.copied = self.bytes_copied = 0
        self.manifest: Manifest

    def make(self, *, weights: bool) -> "_Backup":
        """Copy weights first, which never change; then the catalog, and what of weights came meanwhile, while nobody writes."""
        if weights:
            self._copy_weights()
        with self.zoo.catalog.reading() as connection:
            torn = next(unreadable(connection), None)
            if torn is not None:
                raise CatalogError(f"{self.zoo.catalog.path}: is damaged ({torn.what}), and is not copied; 'weightspace check' tells more")
            if weights:
                self._copy_weights()
            said = dict(connection.execute("select key, value from meta").fetchall())
            version = version_of(connection)
            [(self.models,)] = connection.execute("select count(*) from models").fetchall()
            named = connection.execute("select distinct lower(hex(id)) from models join files using (model_id) where stamp = 0").fetchall()
            name, catalog = self._copy_catalog()
        held = {Path(path).name.partition(".")[0] for path, one in self.kept.items() if not one.is_damaged}
        self.in_store = len(named)
        self.stored = sum(digest in held for (digest,) in named)
        self.manifest = Manifest(said.get("zoo_id"), version, __version__, name, catalog, self.kept)
        flushed(self.folder / MANIFEST, json.dumps(self.manifest.as_json(), indent=1).encode())
        for stale in self.folder.glob("catalog-*.duckdb"):
            if stale.name != name:
                stale.unlink()
        for stale in [*self.folder.glob(".*.new"), *self.folder.glob("store/*/.*.new")]:
            stale.unlink(missing_ok=True)  # of a run that was killed
        return self

    def _copy_weights(self) -> None:
        entries = [
            (path, path.stat()) for path in sorted((self.home / "store").glob("*/*")) if not path.name.startswith(".") and path.is_file()
        ]
        found = sum(status.st_size for _, status in entries)
        done = 0
        for at, (path, status) in enumerate(entries):
            name = str(path.relative_to(self.home))
            known = self.kept.get(name)
            there = self.folder / name
            is_known = (
                known is not None
                and (name in self.looked or not known.is_damaged)
                and (known.size, known.modified) == (status.st_size, status.st_mtime_ns)
            )
            is_there = is_known and there.is_file() and there.stat().st_size == status.st_size
            if not (is_there or self._is_worth_more(there, known, name)):
                with contextlib.suppress(
                    FileNotFoundError
                ):  # it was compacted or removed meanwhile; the catalog tells what has to be there
                    there.parent.mkdir(parents=True, exist_ok=True)
                    if self.is_linked:
                        there.unlink(missing_ok=True)
                        digest = _linked(path, there)
                    else:
                        digest = copied(path, there)
                        self.bytes_copied += status.st_size
                    self.kept[name] = Kept(status.st_size, digest, status.st_mtime_ns, not self._is_whole(name, there))
                    self.looked.add(name)
                    self.copied += 1
            done += status.st_size
            if self.progress:
                self.progress(Progress(at + 1, len(entries), done, found))

    def _is_worth_more(self, there: Path, known: Kept | None, name: str) -> bool:
        """Whether the backup's copy is whole and the store's file is damaged: then it may be the last one, and stays."""
        if known is None or known.is_damaged or not there.is_file() or digest_of(there) != known.digest:
            return False
        return not self._is_whole(name, self.home / name)

    def _is_whole(self, name: str, path: Path) -> bool:
        """Whether a file of the store or its copy, read to its end, holds the weights that its name says; True for what is named as none."""
        key = name.removeprefix("store/")
        model = Path(key).stem
        if key not in (key_of(model), other_of(key_of(model))):
            return True
        return path.is_file() and holds(LocalRoot(self.home), Held(key, SourceFile.at(path)), model)

    def _copy_catalog(self) -> tuple[str, Kept]:
        """Copy the file, take in what a writer that was killed left beside it, and read it all once more."""
        fresh = self.folder / f".catalog.{secrets.token_hex(4)}.new"
        log, fresh_log = self.home / "catalog.duckdb.wal", fresh.with_name(f"{fresh.name}.wal")
        try:
            copied(self.zoo.catalog.path, fresh)
            if log.exists():
                copied(log, fresh_log)
            with duckdb.connect(str(fresh), config={"memory_limit": "2GB"}) as connection:
                connection.execute("checkpoint")
                torn = next(unreadable(connection), None)
            if torn is not None:
                raise CatalogError(f"{self.folder}: the copy cannot be read ({torn.what}); look at the disk, or choose another one")
            digest, size = digest_of(fresh), fresh.stat().st_size
            name = f"catalog-{digest.hex()[:16]}.duckdb"
            fresh.replace(self.folder / name)
        finally:
            fresh.unlink(missing_ok=True)
            fresh_log.unlink(missing_ok=True)
        self.bytes_copied += size
        return name, Kept(size, digest, 0)


def _linked(source: Path, target: Path) -> bytes:
    """Let a file of the store stand under a second name for as long as it is put into an archive; copy it where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        return copied(source, target)
    return digest_of(target)


def _archived(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write a folder as one file, the manifest first; it appears under its name when it is whole."""
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        with fresh.open("xb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name in (MANIFEST, manifest.catalog, *manifest.weights):
                    archive.add(folder / name, name, recursive=False)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    """Turn what a file system refuses into one line."""
    try:
        yield
    except duckdb.Error as error:
        said = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)
        raise CatalogError(f"{target}: the catalog cannot be copied there ({said}); check permissions and free space") from None
    except OSError as error:
        raise CatalogError(
            f"{target}: cannot be written ({error.strerror or error}); check the folder, its permissions and the free space"
        ) from None


__all__ = ["ARCHIVE", "BackupReport", "backup"]
