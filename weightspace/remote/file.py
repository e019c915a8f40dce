"""A remote file: read by range, each run of bytes that was asked for kept in a cache, and never more of the file than that."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from blake3 import blake3

from weightspace.errors import FormatError
from weightspace.storage import BLOCK

Fetch = Callable[[int, int], Iterator[bytes]]
"""Yields a file's bytes from an offset, as many as asked for; raises `FormatError` where it cannot."""


def cache_folder() -> Path:
    """Where ranges that were read are kept: `$WEIGHTSPACE_CACHE`, or `weightspace` in the user's cache folder. It may be emptied at any time."""
    given = os.environ.get("WEIGHTSPACE_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weightspace"


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere, of a version that does not change.

    Attributes:
        address: where, such as `hf:org/name@revision/model.safetensors`.
        size: its bytes.
        version: what the server tells versions apart by; another one is another file.
        fetch: reads a range; crosses to other processes.
    """

    address: str
    size: int
    version: str
    fetch: Fetch = field(repr=False, compare=False)

    @property
    def path(self) -> PurePosixPath:
        """Its address, for messages."""
        return PurePosixPath(self.address)

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes from an offset.

        Raises:
            FormatError: the file has not so many, or they cannot be had.
        """
        if count < 0 or offset < 0 or offset + count > self.size:
            raise FormatError(
                f"{self.address}: expected {count} bytes at offset {offset}, the file has {self.size}",
                reason="truncated",
                advice="see that it is complete where it lies",
            )
        return b"".join(bytes(block) for block in self.blocks(offset, count))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from an offset."""
        at = 0
        for block in self.blocks(offset, len(buffer)):
            buffer[at : at + len(block)] = block
            at += len(block)

    def blocks(self, offset: int, count: int, size: int = BLOCK) -> Iterator[memoryview]:
        """Yield a range in blocks: from the cache, or from afar in one request and into the cache."""
        for block in self._pieces(offset, count) if count else ():
            for at in range(0, len(block), size):
                yield block[at : at + size]

    def _pieces(self, offset: int, count: int) -> Iterator[memoryview]:
        kept = self._kept(offset, count)
        if kept.is_file() and kept.stat().st_size == count:
            with kept.open("rb") as known:
                while piece := known.read(BLOCK):
                    yield memoryview(piece)
            return
        fresh = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}.new")
        got = 0
        with contextlib.ExitStack() as stack:
            stream: IO[bytes] | None = self._opened(fresh)
            if stream is not None:
                stack.callback(fresh.unlink, missing_ok=True)
                stack.enter_context(stream)
            for block in self.fetch(offset, count):
                got += len(block)
                if got > count:
                    break
                if stream is not None and not _wrote(stream, block):
                    stream = None
                yield memoryview(block)
            if got != count:
                raise FormatError(
                    f"{self.address}: asked for {count} bytes at offset {offset}, got {'more' if got > count else got}",
                    reason="truncated",
                    advice="try again later",
                )
            if stream is not None:
                stream.flush()
                fresh.replace(kept)

    @staticmethod
    def _opened(fresh: Path) -> IO[bytes] | None:
        """The file to keep a range in; None where there can be none, which costs only a second request another time."""
        try:
            fresh.parent.mkdir(parents=True, exist_ok=True)
            return fresh.open("xb")
        except OSError:
            return None

    def _kept(self, offset: int, count: int) -> Path:
        digest = blake3(f"{self.address}\0{self.version}\0{self.size}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return cache_folder() / "ranges" / digest[:2] / digest / f"{offset}-{count}"


def _wrote(stream: IO[bytes], block: bytes) -> bool:
    """Keep a block, if there is room for it."""
    try:
        stream.write(block)
    except OSError:
        return False
    return True


__all__ = ["Fetch", "RemoteFile", "cache_folder"]
