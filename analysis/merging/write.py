"""Writing a model tensor by tensor into shards that appear only when they are complete, and going on where an earlier run stopped."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3
from torch import Tensor

from weightspace import identity
from weightspace.checkpoint import TensorInfo, tensor_bytes
from weightspace.errors import MergeError
from weightspace.formats.safetensors import header

SHARD_BYTES = 5_000_000_000
MARGIN = 1 << 24  # bytes of disk that are left free
WRITE = 1 << 22  # bytes that are written at a time
MAX_BLOCKS = 64  # that one call of the system writes


@dataclass(frozen=True)
class Shard:
    """One file of the result.

    Attributes:
        name: of the file.
        info: its tensors, tied ones after their owners.
        metadata: strings in its header.
    """

    name: str
    info: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @cached_property
    def _laid(self) -> tuple[bytes, dict[str, int]]:
        head, order = header(self.info, self.metadata)
        at, offsets = len(head), {}
        for name in order:
            offsets[name] = at
            at += self.info[name].nbytes
        return head, offsets

    @property
    def head(self) -> bytes:
        """What lies before the tensors."""
        return self._laid[0]

    @property
    def offsets(self) -> dict[str, int]:
        """Where each stored tensor begins."""
        return self._laid[1]

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return len(self.head) + sum(self.info[name].nbytes for name in self.offsets)


def shards(
    infos: Sequence[TensorInfo], aliases: Mapping[str, str], metadata: Mapping[str, str], limit: int | None, name: str | None
) -> list[Shard]:
    """Cut a model into files: tensors in order, a new file where the next one would go over the limit.

    Args:
        infos: of the stored tensors.
        aliases: further names of tensors.
        metadata: strings for every header.
        limit: bytes of tensors in a file; None for one file.
        name: of a lone file; by default as the Hub has it.
    """
    groups: list[list[TensorInfo]] = [[]]
    held = 0
    for info in infos:
        if limit is not None and groups[-1] and held + info.nbytes > limit:
            groups.append([])
            held = 0
        groups[-1].append(info)
        held += info.nbytes
    made = []
    for at, group in enumerate(groups):
        file = (name or "model.safetensors") if len(groups) == 1 else f"model-{at + 1:05d}-of-{len(groups):05d}.safetensors"
        tensors = {info.name: info for info in group}
        tied = {
            other: TensorInfo(other, tensors[owner].dtype, tensors[owner].shape, owner)
            for other, owner in aliases.items()
            if owner in tensors
        }
        made.append(Shard(file, {**tensors, **tied}, metadata))
    return made


@dataclass
class Writer:
    """A folder beside the target in which the result grows; renamed to the target at the end.

    Attributes:
        target: the file or folder that is to appear.
        shards: what it holds.
        fingerprint: of everything that the bytes depend on: an earlier run's shards are taken over only where it is the same.
    """

    target: Path
    shards: Sequence[Shard]
    fingerprint: str
    _lock: BinaryIO | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """Where the result grows."""
        return growing(self.target)

    def __enter__(self) -> "Writer":
        """Make the folder, or take over what an earlier run left.

        Raises:
            MergeError: somebody else is at work there, or the folder cannot be written.
        """
        with writable(self.target):
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise MergeError(f"{self.target}: another merge is writing it; wait until it is finished, or choose another name") from None
        with writable(self.target):
            stamp, wanted = self.folder / "fingerprint", self._stamp
            known = stamp.exists() and stamp.read_text() == wanted
            finished = {name for shard in self.shards for name in (shard.name, f"{shard.name}.json")} if known else set()
            for left in self.folder.iterdir():
                if left.name not in {"lock", stamp.name, *finished}:
                    _remove(left)
            if not known:
                _put(stamp, wanted)
        return self

    @property
    def _stamp(self) -> str:
        """What an earlier run's shards have in common with this one's: what they are made of, and how they are cut."""
        hasher = blake3(self.fingerprint.encode())
        for shard in self.shards:
            hasher.update(shard.name.encode("utf-8", "surrogatepass") + b"\0" + shard.head)
        return str(hasher.hexdigest())

    def __exit__(self, *raised: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def done(self, shard: Shard) -> dict[str, Any] | None:
        """What was kept about a shard that an earlier run finished; None for one that is still to be written."""
        try:
            return dict(json.loads((self.folder / f"{shard.name}.json").read_text())) if (self.folder / shard.name).exists() else None
        except (OSError, ValueError):
            return None

    @contextlib.contextmanager
    def writing(self, shard: Shard) -> Iterator["Open"]:
        """Write a shard; it gets its name when the block ends well."""
        temporary = self.folder / f"{shard.name}.tmp"
        with writable(self.target):
            with temporary.open("wb") as stream:
                _reserve(stream.fileno(), shard.num_bytes)
                os.pwrite(stream.fileno(), shard.head, 0)
                yield Open(shard, stream.fileno())
                os.fsync(stream.fileno())

    def close(self, shard: Shard, kept: Mapping[str, Any]) -> None:
        """Give a finished shard its name, after what is to be kept about it."""
        with writable(self.target):
            _put(self.folder / f"{shard.name}.json", json.dumps(kept))
            (self.folder / f"{shard.name}.tmp").replace(self.folder / shard.name)

    def restate(self, shard: Shard, metadata: Mapping[str, str]) -> None:
        """Write other metadata of the same length into a finished shard."""
        head = replace(shard, metadata={**shard.metadata, **metadata}).head
        assert len(head) == len(shard.head)
        with writable(self.target), (self.folder / shard.name).open("r+b") as stream:
            stream.write(head)
            stream.flush()
            os.fsync(stream.fileno())

    def beside(self, files: Mapping[str, str | bytes]) -> None:
        """Put further files beside the shards, by name."""
        with writable(self.target):
            for name, content in files.items():
                _put(self.folder / name, content)

    def finish(self, replace: bool) -> None:
        """Give the result its name: a lone file beside its companions, or the folder as it is.

        Args:
            replace: whether what is there may go.
        """
        own = {"fingerprint", "lock", *(f"{shard.name}.json" for shard in self.shards)}
        with writable(self.target):
            for name in own:
                (self.folder / name).unlink(missing_ok=True)
            if self.shards[0].name == self.target.name:
                self._move_files()
            else:
                with _put_away(self.target, replace):
                    self.folder.rename(self.target)
            for left in self.target.parent.glob(f".{glob.escape(self.target.name)}.????????.old"):
                _remove(left)  # by a run that was killed while it put its own result in this place

    def _move_files(self) -> None:
        """The companions first: what has the result's name is complete. What has a companion's name was left by a run that was killed."""
        companions = [path for path in self.folder.iterdir() if path.name != self.target.name]
        for path in companions:
            place = self.target.with_name(path.name if path.is_file() else f"{self.target.stem}.{path.name}")
            with _put_away(place, True):
                path.rename(place)
        (self.folder / self.target.name).replace(self.target)
        self.folder.rmdir()


@dataclass(frozen=True)
class Open:
    """A shard that is being written."""

    shard: Shard
    descriptor: int

    def put(self, name: str, pieces: Iterable[Tensor]) -> bytes:
        """Write a tensor's runs of rows at its place; returns the hash of its content.

        Several tensors may be written at once.
        """
        info, at = self.shard.info[name], self.shard.offsets[name]
        hasher = identity.tensor_hasher(info.dtype, info.shape)
        held: list[memoryview] = []
        for piece in pieces:
            held.append(tensor_bytes(piece))
            hasher.update(held[-1])
            if sum(map(len, held)) >= WRITE:
                at, held = self._write(held, at), []
        self._write(held, at)
        return bytes(hasher.digest())

    def _write(self, held: Sequence[memoryview], at: int) -> int:
        """Write blocks one after another from an offset; returns where they end."""
        left = [block for block in held if len(block)]
        while left:
            written = os.pwritev(self.descriptor, left[:MAX_BLOCKS], at)
            at += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]
        return at


def growing(target: Path) -> Path:
    """The folder in which a result grows; it is there as long as a merge is under way, or was interrupted."""
    return target.with_name(f".{target.name}.partial")


def expect_room(target: Path, num_bytes: int) -> None:
    """See that the disk has room before work begins.

    Raises:
        MergeError: it has not, or the folder does not exist.
    """
    if not target.absolute().parent.is_dir():
        raise MergeError(f"{target}: its folder does not exist; make it first")
    free = shutil.disk_usage(target.absolute().parent).free
    if free < num_bytes + MARGIN:
        raise MergeError(f"{target}: the result takes {num_bytes:,} bytes and the disk has {free:,} free; make room, or write elsewhere")


@contextlib.contextmanager
def writable(target: Path) -> Iterator[None]:
    """Say in one line what the system has against writing; what is written so far stays where it is, under no final name."""
    try:
        yield
    except OSError as error:
        raise MergeError(
            f"{target}: cannot be written ({error.strerror}); check the folder, its permissions and the free space, then run it again: it goes on where it stopped"
        ) from None


@contextlib.contextmanager
def fresh_folder(target: Path, replace: bool) -> Iterator[Path]:
    """A folder that gets the target's name when the block ends well, and is gone otherwise."""
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        with writable(target):
            folder.mkdir()
            yield folder
            with _put_away(target, replace):
                folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _put_away(place: Path, replace: bool) -> Iterator[None]:
    """Move what is at a place out of the way, and remove it when its successor is there."""
    old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    if replace and place.exists():
        place.rename(old)
    try:
        yield
    except BaseException:
        if old.exists():
            old.rename(place)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Take the room on the disk, where its file system can: so that there is enough of it is known before work begins."""
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        os.truncate(descriptor, num_bytes)


def _put(path: Path, content: str | bytes) -> None:
    """Write a small file that is whole or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
