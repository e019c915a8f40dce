"""GGUF: key-value metadata and aligned, often quantised, tensors; the header is parsed here, the gguf package only expands blocks."""

import re
import struct
from pathlib import Path
from typing import Any

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format
from weightspace.storage import FileSpan, SourceFile, Storage

MAGIC = b"GGUF"
VERSIONS = (2, 3)
WINDOW = 1 << 20
MAX_TENSORS = 1_000_000
MAX_STRING = 16 << 20
MAX_TEXT = 256 << 20  # of all strings that are kept
KEPT = 64  # elements of an array that metadata keeps: a tokenizer's tables have hundreds of thousands
MAX_NESTING = 4

_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K",
    14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_PIECE = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def sniff(path: Path, head: bytes) -> bool:
    """The magic string."""
    return head.startswith(MAGIC)


def pieces(path: Path) -> list[Path]:
    """All files of a split model, in order, when given its first; otherwise the file alone."""
    match = _PIECE.fullmatch(path.name)
    if match is None or int(match[2]) != 1 or int(match[3]) < 2:
        return [path]
    return [path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}.gguf") for number in range(1, int(match[3]) + 1)]


def claims(path: Path) -> frozenset[Path]:
    """The pieces of a split model, found by their first."""
    return frozenset(pieces(path)) if path.is_file() else frozenset()


@checkpoint_format("gguf", sniff=sniff, claims=claims)
def open_gguf(path: Path) -> Checkpoint:
    """Read the header; the first file of a split model (`-00001-of-00003.gguf`) brings the others along, another opens alone."""
    info: dict[str, TensorInfo] = {}
    storages: dict[str, Storage] = {}
    metadata: dict[str, Any] = {}
    files = pieces(path)
    for number, piece in enumerate(files):
        if not piece.is_file():
            raise FormatError(
                f"{path}: piece '{piece.name}' of this split model is not there",
                reason="missing",
                advice="bring all pieces together in one folder",
            )
        header = _Header(SourceFile.at(piece))
        if len(files) > 1 and header.metadata.get("split.count") != len(files):
            raise FormatError(
                f"{piece}: says it is one of {header.metadata.get('split.count', 1)} pieces, its name says one of {len(files)}",
                reason="corrupt",
                advice="copy or download all pieces again",
            )
        twice = next((name for name in header.info if name in info), None)
        if twice is not None:
            raise FormatError(
                f"{piece}: the tensor '{one_line(twice, 80)}' lies in another piece too",
                reason="corrupt",
                advice="copy or download it again",
            )
        info |= header.info
        storages |= header.spans
        metadata |= header.metadata if number == 0 else {}
    return Checkpoint(info, storages, "gguf", path=path, files=tuple(files), metadata=metadata)


class _Header:
    """The parsed header of one file."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.info: dict[str, TensorInfo] = {}
        self.spans: dict[str, FileSpan] = {}
        self.metadata: dict[str, Any] = {}
        self._window, self._start, self._at, self._text = b"", 0, 4, 0
        self._parse()

    def _parse(self) -> None:
        version = self._number("<I")
        if version not in VERSIONS:
            swapped = version.to_bytes(4, "little") == version.to_bytes(4, "big") or int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "is big-endian" if swapped in VERSIONS else f"has version {version}, expected 2 or 3"
            raise FormatError(
                f"{self.file.path}: this GGUF file {what}", reason="unsupported", advice="convert it with the current tools of llama.cpp"
            )
        tensors, pairs = self._number("<Q"), self._number("<Q")
        # The smallest tensor entry takes 24 bytes, the smallest pair 13.
        if tensors > MAX_TENSORS or tensors * 24 + pairs * 13 > self.file.size:
            raise FormatError(
                f"{self.file.path}: claims {tensors} tensors and {pairs} metadata keys in {self.file.size} bytes",
                reason="hostile",
                advice="do not load this file",
            )
        for _ in range(pairs):
            key = self._string()
            if key in self.metadata:
                raise FormatError(
                    f"{self.file.path}: the metadata key '{one_line(key, 80)}' stands twice",
                    reason="hostile",
                    advice="do not load this file",
                )
            self.metadata[key] = self._value(self._number("<I"))
        entries = [self._entry() for _ in range(tensors)]
        self._place(entries)

    def _entry(self) -> tuple[TensorInfo, int]:
        name = self._string()
        rank = self._number("<I")
        if rank > 8:
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(name, 80)}' claims {rank} dimensions",
                reason="hostile",
                advice="do not load this file",
            )
        shape = tuple(reversed([self._number("<Q") for _ in range(rank)]))
        code, offset = self._number("<I"), self._number("<Q")
        if code not in _TYPES:
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(name, 80)}' has the unknown type {code}",
                reason="unsupported",
                advice="update weightspace",
            )
        element = dtypes.dtype(_TYPES[code])
        if element.block is not None and (not shape or shape[-1] % element.block[0]):
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(name, 80)}' of shape {list(shape)} cannot be cut into blocks of {element.block[0]}",
                reason="corrupt",
                advice="copy or download it again",
            )
        return TensorInfo(name, element.name, shape), offset

    def _place(self, entries: list[tuple[TensorInfo, int]]) -> None:
        """Find each tensor's bytes behind the header and see that none share them."""
        alignment = self.metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
            raise FormatError(
                f"{self.file.path}: has the alignment {one_line(str(alignment), 40)}", reason="hostile", advice="do not load this file"
            )
        start = -(-self._at // alignment) * alignment
        end = start
        for info, offset in sorted(entries, key=lambda entry: (entry[1], entry[0].nbytes)):
            if info.name in self.info:
                raise FormatError(
                    f"{self.file.path}: the tensor '{one_line(info.name, 80)}' stands twice",
                    reason="hostile",
                    advice="do not load this file",
                )
            if offset % alignment or start + offset < end:
                what = "overlaps another" if start + offset < end else f"is not aligned to {alignment} bytes"
                raise FormatError(
                    f"{self.file.path}: tensor '{one_line(info.name, 80)}' at offset {offset} {what}",
                    reason="hostile",
                    advice="do not load this file",
                )
            end = start + offset + info.nbytes
            self.info[info.name], self.spans[info.name] = info, FileSpan(self.file, start + offset, info.nbytes)

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or depth >= MAX_NESTING:
            what = "nests arrays too deep" if kind == _ARRAY else f"has the unknown type {kind}"
            raise FormatError(f"{self.file.path}: a metadata value {what}", reason="corrupt", advice="copy or download it again")
        inner, count = self._number("<I"), self._number("<Q")
        smallest = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8 if inner == _STRING else 12
        if count * smallest > self.file.size - self._at:
            raise FormatError(
                f"{self.file.path}: a metadata array claims {count} elements, more than the file has bytes for",
                reason="hostile" if count > self.file.size else "truncated",
                advice="copy or download it again",
            )
        if inner in _SCALARS:
            kept = [self._number(_SCALARS[inner]) for _ in range(min(count, KEPT))]
            self._at += (count - len(kept)) * smallest
        elif inner == _STRING:
            kept = [self._string() for _ in range(min(count, KEPT))]
            for _ in range(count - len(kept)):
                length = self._length()
                self._at += length
        else:
            kept = []
            for _ in range(count):
                value = self._value(inner, depth + 1)
                kept += [value] if len(kept) < KEPT else []
        return kept if count <= KEPT else {"length": count, "first": kept}

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _length(self) -> int:
        length: int = self._number("<Q")
        if length > self.file.size - self._at:
            raise FormatError(
                f"{self.file.path}: a string of {length} bytes reaches beyond the file",
                reason="truncated",
                advice="copy or download it again",
            )
        return length

    def _string(self) -> str:
        length = self._length()
        self._text += length
        if length > MAX_STRING or self._text > MAX_TEXT:
            raise FormatError(
                f"{self.file.path}: a string of {length} bytes among {self._text} bytes of text",
                reason="hostile",
                advice="do not load this file",
            )
        return self._take(length).decode("utf-8", "replace")

    def _take(self, count: int) -> bytes:
        """Take the next bytes of the header from a window that moves along."""
        inside = self._at - self._start
        if inside < 0 or inside + count > len(self._window):
            want = max(count, min(WINDOW, self.file.size - self._at))
            self._window, self._start, inside = self.file.read(self._at, want), self._at, 0
        self._at += count
        return self._window[inside : inside + count]
