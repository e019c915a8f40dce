"""Bringing a remote file here whole: once, resumed where it broke off, and only if it is what its hash says."""

from pathlib import Path
from typing import Any

from weightspace.remote.client import local_refusal
from weightspace.remote.file import LocalCopy, RemoteFile

_BLOCK = 1 << 20


def downloaded(file: RemoteFile, folder: Path, name: str) -> LocalCopy:
    """Bring a file here; one that is here already is only checked.

    Args:
        file: of the Hub, whose version is its SHA-256, or git's SHA-1 of a small one.
        folder: where it is put; nobody else may write there meanwhile.
        name: under this name.

    Raises:
        FormatError: it cannot be had or written, or is not what its hash says.
    """
    target = folder / name
    part = target.with_name(f".{name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            if part.exists() and part.stat().st_size > file.size:
                part.unlink()
            if not _completed(file, part) and not _completed(file, part):
                raise file.wrong()
            part.replace(target)
    except OSError as error:
        raise local_refusal(str(target), error) from None
    return LocalCopy(file.address, file.size, file.version, file.fetch, local=target)


def _completed(file: RemoteFile, part: Path) -> bool:
    """Bring what is missing of a file; False, and nothing is left of it, where all of it is not what its hash says."""
    hasher = file.hasher()
    with part.open("a+b") as stream:
        at = _hashed(hasher, stream)
        for block in file.fetch(at, file.size - at) if at < file.size else ():
            hasher.update(block)
            stream.write(block)
    if hasher.hexdigest() == file.version:
        return True
    part.unlink()
    return False


def _hashed(hasher: Any, stream: Any) -> int:
    """Hash what is there already; returns how much that is."""
    stream.seek(0)
    at = 0
    while block := stream.read(_BLOCK):
        hasher.update(block)
        at += len(block)
    return at


__all__ = ["downloaded"]
