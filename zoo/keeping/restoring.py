"""A zoo made again from its backup: weights first, each against its hash, the catalog last and in one step."""

import contextlib
import itertools
import os
import secrets
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from weightspace.errors import CatalogError, one_line
from weightspace.zoo.catalog import SCHEMA_VERSION, Catalog
from weightspace.zoo.ingest import Progress
from weightspace.zoo.keeping.catalog_file import unreadable
from weightspace.zoo.keeping.copying import digest_of, poured
from weightspace.zoo.keeping.manifest import Kept, Manifest, Open, files_of, read_manifest
from weightspace.zoo.keeping.migrations import migrations, pending

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo

REPLACED = "catalog.before-restore"


@dataclass(frozen=True)
class RestoreReport:
    """What a restore did.

    Attributes:
        models: in the catalog that was restored.
        files: of weights in the backup.
        copied: of these, how many were not there yet.
        bytes_copied: theirs, and the catalog's.
        kept_aside: the catalog that was there before.
        seconds: wall time.
    """

    models: int
    files: int
    copied: int
    bytes_copied: int
    kept_aside: Path | None
    seconds: float


def restore(source: Path, zoo: "Zoo", *, force: bool = False, progress: Callable[[Progress], None] | None = None) -> RestoreReport:
    """Make a zoo what it was when it was backed up.

    Everything is verified against its size and hash while it is copied; a backup that is damaged changes nothing of a zoo that is there. Weights that
    are there already stay, also such as the backup does not know. The catalog comes last, by renaming.

    Args:
        source: what `backup` wrote.
        zoo: named by its folder; it need not exist.
        force: let the catalog take the place of one that is there, which is kept beside it as `catalog.before-restore.duckdb`
            (`-2`, `-3`, … where earlier ones lie there).
        progress: called after each file.

    Raises:
        CatalogError: there is a zoo already, or the backup lies in its folder, is damaged or of a newer weightspace, or the folder cannot be written.
    """
    started = time.monotonic()
    catalog = zoo.catalog
    if source.resolve() in (zoo.folder.resolve(), catalog.home.resolve()):
        raise CatalogError(f"{source}: is the folder that it would be restored into; name another one with --zoo")
    manifest = read_manifest(source)
    if catalog.exists() and not force:
        raise CatalogError(f"{zoo.folder}: has a zoo already; name another folder, or let the backup take its place with --force")
    if pending(manifest.schema_version, SCHEMA_VERSION, migrations()) is None:
        raise CatalogError(
            f"{source}: has schema version {one_line(manifest.schema_version, 20)}, expected {SCHEMA_VERSION} at most; use a newer weightspace"
        )
    fresh = catalog.home / f"restoring.{secrets.token_hex(4)}.new"
    with _told(source, zoo.folder):
        try:
            catalog.home.mkdir(parents=True, exist_ok=True)
            with files_of(source) as opened:
                size = _poured(opened, manifest.catalog, manifest.catalog_file, fresh, source)
                copied = _weights(opened, manifest, catalog.home, source, progress)
            models = _models_in(fresh, source)
            aside = _swapped(catalog, fresh, force)
        finally:
            fresh.unlink(missing_ok=True)
    sizes = size + sum(manifest.weights[name].size for name in copied)
    return RestoreReport(models, len(manifest.weights), len(copied), sizes, aside, time.monotonic() - started)


def _poured(opened: Open, name: str, kept: Kept, target: Path, source: Path) -> int:
    try:
        with opened(name) as stream:
            poured(stream, target, kept.digest, kept.size)
    except ValueError as error:
        raise CatalogError(f"{source}: {name} is damaged ({error}); nothing of the zoo was changed, use another backup") from None
    except (KeyError, FileNotFoundError):
        raise CatalogError(f"{source}: lacks {name}; nothing of the zoo was changed, use another backup") from None
    return kept.size


def _weights(opened: Open, manifest: Manifest, home: Path, source: Path, progress: Callable[[Progress], None] | None) -> list[str]:
    """Bring the weights that are not there, or are not what they were; the latter take the place of what is damaged."""
    copied: list[str] = []
    done, found = 0, sum(one.size for one in manifest.weights.values())
    for at, (name, kept) in enumerate(manifest.weights.items()):
        target = home / name
        if not (target.is_file() and target.stat().st_size == kept.size and digest_of(target) == kept.digest):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.parent.resolve() != home.resolve() / Path(name).parent:
                raise CatalogError(f"{target.parent}: is a link that leads out of the zoo; remove it")
            _poured(opened, name, kept, target, source)
            copied.append(name)
        done += kept.size
        if progress:
            progress(Progress(at + 1, len(manifest.weights), done, found))
    return copied


def _models_in(path: Path, source: Path) -> int:
    """Read the restored catalog to its end, and count its models."""
    try:
        with duckdb.connect(str(path), read_only=True, config={"enable_external_access": "false"}) as connection:
            torn = next(unreadable(connection), None)
            if torn is not None:
                raise CatalogError(f"{source}: its catalog is damaged ({torn.what}); use another backup")
            return int(connection.execute("select count(*) from models").fetchall()[0][0])
    except duckdb.Error as error:
        said = one_line(str(error).partition("\n")[0], 120)
        raise CatalogError(f"{source}: its catalog cannot be opened ({said}); use another backup") from None


def _swapped(catalog: Catalog, fresh: Path, force: bool) -> Path | None:
    """Rename the new catalog into place while nobody has the old one open; the old one stays beside it.

    The log that a killed writer may have left belongs to the old one and goes with it, before it could be taken for that of the new one.
    """
    with catalog.alone():
        aside: Path | None = None
        if catalog.path.exists():
            if not force:
                raise CatalogError(
                    f"{catalog.home.parent}: got a zoo while this one was restored; name another folder, or take its place with --force"
                )
            aside = _free_name(catalog.home)
            aside.hardlink_to(catalog.path)
            log = catalog.home / "catalog.duckdb.wal"
            if log.exists():
                log.replace(aside.with_name(f"{aside.name}.wal"))
        fresh.replace(catalog.path)
    return aside


def _free_name(home: Path) -> Path:
    """Where the catalog that was there is kept: never over one that an earlier restore kept, which may be the only one of what it holds."""
    names = (home / f"{REPLACED}{suffix}.duckdb" for suffix in itertools.chain([""], (f"-{n}" for n in itertools.count(2))))
    return next(path for path in names if not os.path.lexists(path))


@contextlib.contextmanager
def _told(source: Path, folder: Path) -> Iterator[None]:
    """Turn what a file system refuses into one line."""
    try:
        yield
    except tarfile.TarError as error:
        raise CatalogError(
            f"{source}: is damaged ({one_line(str(error), 120)}); nothing of the zoo was changed, use another backup"
        ) from None
    except OSError as error:
        raise CatalogError(
            f"{folder}: cannot be restored ({error.strerror or error}); check the folder, its permissions and the free space"
        ) from None


__all__ = ["REPLACED", "RestoreReport", "restore"]
