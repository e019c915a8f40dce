"""A remote file: read by range, each run of bytes that was asked for kept in a cache, and never more of the file than that."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from blake3 import blake3

from weightspace.errors import FormatError
from weightspace.storage import BLOCK

DIGEST = 32  # bytes that stand behind a range which is kept
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

    def whole(self) -> bytes:
        """Read all of a small file of the Hub, whose version is its SHA-256 or git's SHA-1.

        Raises:
            FormatError: it cannot be had, or is not what its hash says; nothing of it is kept then.
        """
        data = self.read(0, self.size)
        hasher = self.hasher()
        hasher.update(data)
        if hasher.hexdigest() != self.version:
            self.forget()
            raise self.wrong()
        return data

    def hasher(self) -> Any:
        """What its version is computed by: SHA-256, or SHA-1 as git does it, where the Hub has no other."""
        return hashlib.sha256() if len(self.version) == 64 else hashlib.sha1(f"blob {self.size}\0".encode())

    def wrong(self) -> FormatError:
        """What a file is that was not what its hash says."""
        return FormatError(f"{self.address}: is not what its hash says ({self.version[:12]}…)", reason="corrupt", advice="try again later")

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
        if _is_whole(kept, count):
            with kept.open("rb") as known:
                left = count
                while left and (piece := known.read(min(BLOCK, left))):
                    left -= len(piece)
                    yield memoryview(piece)
            return
        got = 0
        with _Keeping(kept) as keeping:
            for block in self.fetch(offset, count):
                got += len(block)
                if got > count:
                    break
                keeping.write(block)
                yield memoryview(block)
            if got != count:
                raise FormatError(
                    f"{self.address}: asked for {count} bytes at offset {offset}, got {'more' if got > count else got}",
                    reason="truncated",
                    advice="try again later",
                )
            keeping.finish()

    def forget(self) -> None:
        """Forget what was kept of it: it may be wrong, and is to be had again."""
        shutil.rmtree(self._kept(0, 0).parent, ignore_errors=True)

    def _kept(self, offset: int, count: int) -> Path:
        digest = blake3(f"{self.address}\0{self.version}\0{self.size}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return cache_folder() / "ranges" / digest[:2] / digest / f"{offset}-{count}"


@dataclass(frozen=True)
class LocalCopy(RemoteFile):
    """A remote file that was brought here whole.

    Attributes:
        local: where it lies here.
    """

    local: Path = Path()

    def _pieces(self, offset: int, count: int) -> Iterator[memoryview]:
        with self.local.open("rb") as stream:
            stream.seek(offset)
            while count and (piece := stream.read(min(BLOCK, count))):
                count -= len(piece)
                yield memoryview(piece)


def _is_whole(kept: Path, count: int) -> bool:
    """Whether a range was kept, and is what it was: a disk may lose the end of a file that nobody waited for."""
    try:
        if kept.stat().st_size != count + DIGEST:
            return False
        with kept.open("rb") as stream:
            hasher, left = blake3(), count
            while left and (piece := stream.read(min(BLOCK, left))):
                hasher.update(piece)
                left -= len(piece)
            return bool(hasher.digest(DIGEST) == stream.read())
    except OSError:
        return False


class _Keeping:
    """Keeps a range with its digest; where it cannot, that costs only a second request another time."""

    def __init__(self, kept: Path) -> None:
        self.kept, self.hasher = kept, blake3()
        self.fresh = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}.new")
        self.stream: IO[bytes] | None = None

    def __enter__(self) -> "_Keeping":
        with contextlib.suppress(OSError):
            self.fresh.parent.mkdir(parents=True, exist_ok=True)
            self.stream = self.fresh.open("xb", buffering=0)  # a buffer would complain of a full disk again when it is closed
        return self

    def write(self, block: bytes) -> None:
        """Keep a block, if there is room for it."""
        if self.stream is None:
            return
        try:
            self.hasher.update(block)
            if self.stream.write(block) == len(block):
                return
        except OSError:
            pass
        self._give_up()

    def finish(self) -> None:
        """Give what was kept its name."""
        self.write(self.hasher.digest(DIGEST))
        if self.stream is not None:
            self.stream.close()
            with contextlib.suppress(OSError):
                self.fresh.replace(self.kept)

    def _give_up(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None
            with contextlib.suppress(OSError):
                self.fresh.unlink(missing_ok=True)

    def __exit__(self, *raised: object) -> None:
        self._give_up()


__all__ = ["Fetch", "LocalCopy", "RemoteFile", "cache_folder"]
