"""NumPy's .npy and .npz: arrays by name, read where they lie; object arrays, which are pickles, are refused.

The one array of an .npy file is named `array`, whatever the file is called, so that renaming a file changes no identity.
"""

import ast
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.containers.archive import Archive, first_name
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format
from weightspace.storage import FileSpan, Produced, SourceFile, Storage, Strided, read

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # numpy's own limit for headers of files that are not trusted
MAX_STRINGS = 1 << 16  # bytes of text arrays kept as metadata
SINGLE = "array"
_DESCR = re.compile(r"([<>|=]?)([a-zA-Z])(\d*)")


def sniff_npy(path: Path, head: bytes) -> bool:
    """The magic string."""
    return head.startswith(MAGIC)


def sniff_npz(path: Path, head: bytes) -> bool:
    """A zip archive that begins with an array."""
    return (first_name(head) or "").endswith(".npy")


@checkpoint_format("npy", sniff=sniff_npy)
def open_npy(path: Path) -> Checkpoint:
    """Read the header of one array."""
    file = SourceFile.at(path)
    reader = _Reader(path)
    reader.add(SINGLE, file.size, lambda offset, count: FileSpan(file, offset, count))
    return reader.checkpoint("npy")


@checkpoint_format("npz", sniff=sniff_npz)
def open_npz(path: Path) -> Checkpoint:
    """Read the archive's directory and the header of every array in it."""
    archive = Archive(SourceFile.at(path))
    reader = _Reader(path)
    others: list[str] = []
    for name, member in archive.items():
        if name.endswith(".npy"):
            reader.add(name.removesuffix(".npy"), member.size, partial(archive.part, name))
        elif not name.endswith("/"):
            others.append(name)
    if others:
        reader.metadata["other_members"] = others[:1000]
    return reader.checkpoint("npz")


class _Reader:
    """Gathers arrays of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, TensorInfo] = {}
        self.storages: dict[str, Storage] = {}
        self.metadata: dict[str, Any] = {}

    def checkpoint(self, format: str) -> Checkpoint:
        return Checkpoint(self.info, self.storages, format, path=self.path, files=(self.path,), metadata=self.metadata)

    def add(self, name: str, size: int, part: Callable[[int, int], Storage]) -> None:
        """Parse one array's header and note where its numbers lie; `part` takes a range of the array's `size` bytes."""
        label = one_line(name, 80)
        descr, fortran, shape, start = self._header(label, bytes(read(part(0, min(size, MAX_HEADER + 12)))))
        order, kind, width = self._element(label, descr)
        # Looked up first: a type that nothing carries needs no bytes counted.
        element = "" if kind in "US" else dtypes.from_numpy(np.dtype(f"{kind}{width}")).name
        count = dtypes.numel(shape)
        if size - start != count * width:
            raise FormatError(
                f"{self.path}: array '{label}' of dtype '{descr}' and shape {list(shape)} needs {count * width} bytes, its file has {size - start}",
                reason="truncated" if size - start < count * width else "corrupt",
                advice="copy or download it again",
            )
        storage = part(start, count * width)
        if not element:
            self._text(name, storage, f"{order}{kind}{width // 4 if kind == 'U' else width}", shape)
            return
        if order == ">" and width > 1:
            # A complex number is two numbers: numpy swaps each half by itself.
            storage = _swapped(storage, np.dtype(f">{kind}{width}"))
        if fortran and len(shape) > 1:
            strides = tuple(dtypes.numel(shape[:axis]) for axis in range(len(shape)))
            storage = Strided(storage, width, 0, shape, strides)
        self.info[name], self.storages[name] = TensorInfo(name, element, shape), storage

    def _header(self, label: str, head: bytes) -> tuple[Any, bool, tuple[int, ...], int]:
        version = head[6:7]
        if not head.startswith(MAGIC) or version not in (b"\x01", b"\x02", b"\x03"):
            raise FormatError(
                f"{self.path}: array '{label}' has no npy header of version 1, 2 or 3",
                reason="corrupt",
                advice="copy or download it again",
            )
        size = 2 if version == b"\x01" else 4
        length = int.from_bytes(head[8 : 8 + size], "little")
        start = 8 + size + length
        if length > MAX_HEADER or start > len(head):
            reason = "hostile" if length > MAX_HEADER else "truncated"
            raise FormatError(
                f"{self.path}: array '{label}' claims a header of {length} bytes", reason=reason, advice="copy or download it again"
            )
        try:
            header = ast.literal_eval(head[8 + size : start].decode("latin1" if size == 2 else "utf-8").strip())
            descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
            sound = len(header) == 3 and isinstance(fortran, bool) and isinstance(shape, tuple) and len(shape) <= 64
            sound = sound and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
        except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError, AttributeError):
            sound = False
        if not sound:
            raise FormatError(
                f"{self.path}: array '{label}' has a damaged npy header", reason="corrupt", advice="copy or download it again"
            )
        return descr, fortran, shape, start

    def _element(self, label: str, descr: Any) -> tuple[str, str, int]:
        """Take a dtype's description apart into byte order, kind and bytes."""
        match = _DESCR.fullmatch(descr) if isinstance(descr, str) else None
        if match is not None and match[2] == "O":
            raise FormatError(
                f"{self.path}: array '{label}' holds Python objects, which only a pickle can rebuild",
                reason="needs-code",
                advice="save plain numeric arrays",
            )
        if match is None or match[2] not in "biufcUS" or not match[3] or len(match[3]) > 9:
            raise FormatError(
                f"{self.path}: array '{label}' has dtype {one_line(repr(descr), 60)}, expected a plain number",
                reason="unsupported",
                advice="save its fields, or its numbers in another dtype, as arrays of their own",
            )
        width = int(match[3])
        return match[1], match[2], width * 4 if match[2] == "U" else width

    def _text(self, name: str, storage: Storage, descr: str, shape: tuple[int, ...]) -> None:
        """Keep a short text array as metadata; text is no tensor."""
        texts = self.metadata.setdefault("strings", {})
        if not 0 < storage.nbytes <= MAX_STRINGS or len(texts) >= 1000:
            texts[name] = f"text of shape {list(shape)}"
            return
        try:
            values = np.frombuffer(read(storage), descr).reshape(shape)
            texts[name] = np.char.decode(values, "utf-8", "replace").tolist() if "S" in descr else values.tolist()
        except (ValueError, UnicodeError, SystemError):  # the last for characters beyond Unicode
            texts[name] = f"text of shape {list(shape)} that is not valid"


def _swapped(storage: Storage, big: "np.dtype[Any]") -> Storage:
    """Turn big-endian numbers into little-endian ones."""
    return Produced(storage.nbytes, lambda: memoryview(np.frombuffer(read(storage), big).astype(big.newbyteorder("<")).view(np.uint8).data))
