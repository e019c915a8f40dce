"""Copies of files that are whole before they have their name, with the hash of what was copied."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from blake3 import blake3

_BLOCK = 1 << 20


def copied(source: Path, target: Path) -> bytes:
    """Copy a file; returns the BLAKE3 of its bytes."""
    with source.open("rb") as stream:
        return poured(stream, target)


def poured(stream: BufferedReader, target: Path, expected: bytes | None = None, size: int | None = None) -> bytes:
    """Write what a stream holds to a file; returns the BLAKE3 of it.

    Args:
        stream: to read to its end.
        target: the file; what was there is replaced.
        expected: BLAKE3 that it has to have.
        size: bytes that it has to have.

    Raises:
        ValueError: it is not what was expected; nothing appears under the name then.
    """
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    hasher = blake3()
    try:
        with fresh.open("xb") as out:
            while block := stream.read(_BLOCK):
                hasher.update(block)
                out.write(block)
                if size is not None and out.tell() > size:
                    raise ValueError(f"it has more than the {size} bytes that it should have")
            out.flush()
            os.fsync(out.fileno())
            if size is not None and out.tell() != size:
                raise ValueError(f"it has {out.tell()} bytes, expected {size}")
        digest = bytes(hasher.digest())
        if expected is not None and digest != expected:
            raise ValueError(f"its hash is {digest.hex()[:12]}, expected {expected.hex()[:12]}")
        fresh.replace(target)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()
    return digest


def flushed(target: Path, data: bytes) -> None:
    """Write a small file, and see that it and its name are on the disk."""
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        with fresh.open("xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(target)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink()
    with _folder(target.parent) as folder:
        os.fsync(folder)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def digest_of(path: Path) -> bytes:
    """BLAKE3 of a file's bytes."""
    hasher = blake3()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            hasher.update(block)
    return bytes(hasher.digest())
