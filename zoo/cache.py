"""The zoo's cache: small sets of tensors by key, such as decompositions, each in a file that may be lost without harm."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from weightspace.checkpoint import Checkpoint, checkpoint_of
from weightspace.errors import FormatError
from weightspace.formats.safetensors import open_safetensors, save

if TYPE_CHECKING:
    from torch import Tensor

    _Sets = MutableMapping[str, Mapping[str, Tensor]]
else:
    # Run-time type checkers look into a parametrised mapping, which would read a file at every call they check.
    _Sets = MutableMapping


LIMIT = 16 << 30  # bytes


class TensorCache(_Sets):
    """Sets of tensors by key in a folder; what is damaged or gone counts as never kept, and what cannot be written is not kept.

    Keys begin with the content hash of what the tensors were computed from, so nothing in it ever grows stale. Beyond `limit` bytes
    what was not used for longest goes.

    Example:
        >>> import tempfile, torch
        >>> cache = TensorCache(Path(tempfile.mkdtemp()) / "cache")
        >>> cache["abc/svd"] = {"s": torch.tensor([2.0, 1.0])}
        >>> cache["abc/svd"]["s"], list(cache)
        (tensor([2., 1.]), ['abc/svd'])
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        """Name the folder; it is made when something is put in."""
        self.folder, self.limit = folder, limit

    def __repr__(self) -> str:
        return f"<TensorCache {self.folder}>"

    def __getitem__(self, key: str) -> "Mapping[str, Tensor]":
        try:
            tensors = self._opened(key).state_dict()
        except (OSError, FormatError):
            raise KeyError(key) from None
        with contextlib.suppress(OSError):  # a zoo that may only be read is read
            os.utime(self._path(key))  # afterwards: a file that changes between opening and reading counts as damaged
        return tensors

    def _opened(self, key: str) -> Checkpoint:
        """The file of a key, if it is whole."""
        checkpoint = open_safetensors(self._path(key))
        if checkpoint.metadata.get("key") != key:
            raise KeyError(key)
        return checkpoint

    def __setitem__(self, key: str, tensors: "Mapping[str, Tensor]") -> None:
        path = self._path(key)
        fresh = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.new")
        with contextlib.suppress(OSError, FormatError):  # no place or no right to write: then it is not kept
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                save(tensors, fresh, {"key": key, "id": checkpoint_of(tensors).id})  # by which a check tells that a bit has changed
                fresh.replace(path)
            finally:
                with contextlib.suppress(OSError):
                    fresh.unlink()
            self._shrink(path)

    def _shrink(self, newest: Path) -> None:
        """Let go of what was not used for longest; the newest stays, whatever its size."""
        kept = [(path, status) for path in self.folder.glob("*/*.safetensors") if (status := _status(path)) is not None]
        total = sum(status.st_size for _, status in kept)
        for path, status in sorted(kept, key=lambda one: one[1].st_mtime_ns):  # reading a set renews it; access times need not be kept
            if total > self.limit and path != newest:
                path.unlink(missing_ok=True)
                total -= status.st_size

    def __delitem__(self, key: str) -> None:
        try:
            self._path(key).unlink()
        except OSError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        try:
            self._opened(key)
        except (KeyError, OSError, FormatError):
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        for path in sorted(self.folder.glob("*/*.safetensors")):
            with contextlib.suppress(OSError, FormatError):
                yield str(open_safetensors(path).metadata["key"])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def num_bytes(self) -> int:
        """Bytes that its files take."""
        return sum(status.st_size for path in self.folder.glob("*/*.safetensors") if (status := _status(path)) is not None)

    def _path(self, key: str) -> Path:
        name = blake3(key.encode()).hexdigest(length=16)
        return self.folder / name[:2] / f"{name}.safetensors"


def _status(path: Path) -> os.stat_result | None:
    """What the system says of a file, unless another process has just let go of it."""
    try:
        return path.stat()
    except OSError:
        return None
