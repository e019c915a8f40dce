"""What a backup holds: its catalog and its files of weights, each with size and hash."""

import contextlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from weightspace.errors import CatalogError, one_line

MANIFEST = "backup.json"
FORMAT = 1
MAX_MANIFEST = 1 << 30  # bytes
_CATALOG = re.compile(r"catalog-[0-9a-f]{16}\.duckdb")
_WEIGHTS = re.compile(r"store/[0-9a-f]{2}/[0-9A-Za-z_][0-9A-Za-z_.-]*")


@dataclass(frozen=True)
class Kept:
    """A file of a backup.

    Attributes:
        size: its bytes.
        digest: BLAKE3 of them.
        modified: modification time of what it was copied from (nanoseconds since 1970), to tell whether that has changed.
        is_damaged: whether it was damaged when it was copied: not the weights that its name says, or not to be read.
    """

    size: int
    digest: bytes
    modified: int
    is_damaged: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Attributes:
        zoo_id: of which zoo it is; None where that had no identity yet.
        schema_version: of its catalog.
        created_with: version of weightspace.
        catalog: name of its catalog.
        catalog_file: the same as a file.
        weights: files by their path in the zoo's house.
    """

    zoo_id: str | None
    schema_version: str
    created_with: str
    catalog: str
    catalog_file: Kept
    weights: Mapping[str, Kept]

    def as_json(self) -> dict[str, Any]:
        """As it is written down."""
        return {
            "weightspace backup": FORMAT,
            "zoo_id": self.zoo_id,
            "schema_version": self.schema_version,
            "created_with": self.created_with,
            "catalog": {"name": self.catalog, **_said(self.catalog_file)},
            "weights": {name: _said(one) for name, one in sorted(self.weights.items())},
        }


def _said(one: Kept) -> dict[str, Any]:
    said = {"size": one.size, "blake3": one.digest.hex(), "modified": one.modified}
    return {**said, "damaged": True} if one.is_damaged else said


def read_manifest(source: Path) -> Manifest:
    """Read what a backup says that it holds; no name in it leads out of a house.

    Raises:
        CatalogError: it is none, damaged, or of a newer weightspace.
    """
    try:
        with files_of(source) as opened, opened(MANIFEST) as stream:
            said = json.loads(stream.read(MAX_MANIFEST))
        number = said["weightspace backup"]
        if number != FORMAT:
            raise CatalogError(f"{source}: is a backup of format {one_line(str(number), 20)}, expected {FORMAT}; use a newer weightspace")
        catalog, weights = said["catalog"], {str(name): _kept(one) for name, one in said["weights"].items()}
        odd = next((name for name in weights if not _WEIGHTS.fullmatch(name)), None)
        if odd is not None or not _CATALOG.fullmatch(catalog["name"]):
            raise ValueError(f"the name {one_line(str(odd or catalog['name']), 80)!r}")
        return Manifest(said["zoo_id"], str(said["schema_version"]), str(said["created_with"]), catalog["name"], _kept(catalog), weights)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, tarfile.TarError) as error:
        raise CatalogError(f"{source}: is no backup of a zoo, or damaged ({one_line(str(error), 120)}); choose another one") from None
    except FileNotFoundError:
        said = f"holds no {MANIFEST}" if source.is_dir() else "is not there"
        raise CatalogError(f"{source}: {said}; name a folder or file that 'backup' wrote") from None
    except OSError as error:
        raise CatalogError(f"{source}: cannot be read ({error.strerror or error}); name a folder or file that 'backup' wrote") from None


def _kept(said: Mapping[str, Any]) -> Kept:
    digest = bytes.fromhex(said["blake3"])
    if len(digest) != 32 or type(said["size"]) is not int or type(said["modified"]) is not int or said["size"] < 0:
        raise ValueError("a file without size or hash")
    return Kept(said["size"], digest, said["modified"], said.get("damaged") is True)


Open = Callable[[str], BufferedReader]
"""Opens one file of a backup by its name in it."""


def _plain(path: Path) -> BufferedReader:
    """Open a plain file; who opens a pipe waits for what never comes."""
    if path.exists() and not path.is_file():
        raise tarfile.ReadError(f"{path.name} is no plain file")
    return path.open("rb")


@contextlib.contextmanager
def files_of(source: Path) -> Iterator[Open]:
    """Open the files of a backup, which is a folder or a tar file.

    Raises:
        KeyError: a tar file does not hold one as a plain file.
        OSError, tarfile.TarError: it cannot be read, or is no plain file.
    """
    if source.is_dir():
        yield lambda name: _plain(source / name)
        return
    with tarfile.open(source, "r:") as archive:
        members = {member.name: member for member in archive if member.isreg()}

        def open_member(name: str) -> BufferedReader:
            found = archive.extractfile(members[name])
            assert isinstance(found, BufferedReader)
            return found

        yield open_member
