"""ONNX: a protobuf graph whose initialisers and constants are tensors; walked in place, without the onnx package.

Names: an initialiser keeps its own; a Constant node's tensor of more than one element is named after the node's
output, for many exporters keep weights there; inside a subgraph or function the path to it goes in front.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.containers.wire import BYTES, VARINT, Field, Message, signed
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format
from weightspace.storage import FileSpan, Produced, SourceFile, Storage, inside, read

MAX_DEPTH = 32
MAX_TEXT = 1 << 16

# TensorProto.DataType; the packed integers of 4 and 2 bits are widened to a byte, for no other container has them.
_TYPES = {
    1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 12: "U32", 13: "U64", 14: "C64",
    15: "C128", 16: "BF16", 17: "F8_E4M3", 18: "F8_E4M3FNUZ", 19: "F8_E5M2", 20: "F8_E5M2FNUZ", 21: "U8", 22: "I8", 23: "F4", 24: "F8_E8M0",
    25: "U8", 26: "I8", 27: "F6_E2M3", 28: "F6_E3M2",
}  # fmt: skip
_WIDENED = {21: 4, 22: 4, 25: 2, 26: 2}
_STRING = 8
_FLOATING = frozenset({"F32", "C64", "F64", "C128"})  # stored as they are, not as varints
# Which field of a TensorProto holds the numbers of a type, where raw_data does not.
_FLOAT_DATA, _INT32_DATA, _INT64_DATA, _RAW, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 7, 9, 10, 11
_TYPED = {"F32": _FLOAT_DATA, "C64": _FLOAT_DATA, "F64": _DOUBLE_DATA, "C128": _DOUBLE_DATA, "I64": _INT64_DATA, "U32": _UINT64_DATA, "U64": _UINT64_DATA}  # fmt: skip

_MODEL_TEXTS = {2: "producer_name", 3: "producer_version", 4: "domain", 6: "doc_string"}
_MODEL_KINDS = {
    1: VARINT,
    2: BYTES,
    3: BYTES,
    4: BYTES,
    5: VARINT,
    6: BYTES,
    7: BYTES,
    8: BYTES,
    14: BYTES,
    20: BYTES,
    25: BYTES,
    26: BYTES,
}
_GRAPH_FIELDS = frozenset({1, 2, 5, 10, 11, 12, 13, 14, 15, 16})


def sniff(path: Path, head: bytes) -> bool:
    """ONNX has no magic: an ir_version, then known ModelProto fields with their wire types, up to a plausible graph."""
    if len(head) < 6 or head[0] != 0x08 or not 1 <= head[1] <= 64:
        return False
    at = 2
    while at < len(head):
        tag, at = _short_varint(head, at)
        number, kind = tag >> 3, tag & 7
        if _MODEL_KINDS.get(number) != kind:
            return False
        value, at = _short_varint(head, at)
        if kind == VARINT:
            continue
        payload = head[at : at + value]
        if number == 7:
            return value > 0 and (not payload or (payload[0] >> 3 in _GRAPH_FIELDS and payload[0] & 7 == BYTES))
        if number in _MODEL_TEXTS and not _is_text(payload):
            return False
        at += value
    # The graph lies beyond the head only behind a text as long as a head.
    return len(head) < at <= 1 << 24


def _short_varint(head: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for byte in head[at : at + 10]:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at


def _is_text(raw: bytes) -> bool:
    text = raw.decode("utf-8", "replace").rstrip("\ufffd")
    return "\ufffd" not in text and all(c.isprintable() or c in "\t\r\n" for c in text)


@checkpoint_format("onnx", sniff=sniff)
def open_onnx(path: Path) -> Checkpoint:
    """Walk the model's graph, note where each tensor's numbers lie, and check every claim against the files' sizes."""
    reader = _Reader(SourceFile.at(path))
    reader.model()
    return Checkpoint(
        reader.info,
        reader.storages,
        "onnx",
        path=path,
        files=(path, *sorted(one.path for one in reader.external.values())),
        metadata=reader.metadata,
        extras=reader.extras,
    )


@dataclass
class _Reader:
    """What has been gathered of one file so far."""

    file: SourceFile
    info: dict[str, TensorInfo] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    extras: dict[str, TensorInfo] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    external: dict[str, SourceFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.message = Message(self.file)

    def model(self) -> None:
        """Walk the ModelProto."""
        opset: dict[str, int] = {}
        properties: dict[str, str] = {}
        for one in self.message.fields(0, self.file.size):
            if one.number == 1:
                self.metadata["ir_version"] = one.value
            elif one.number in _MODEL_TEXTS:
                text = self.message.text(one, self.file.size)[:MAX_TEXT]
                self.metadata |= {_MODEL_TEXTS[one.number]: text} if text else {}
            elif one.number == 5:
                self.metadata["model_version"] = signed(one.value)
            elif one.number == 7:
                self.graph(one, "", 0)
            elif one.number == 8:
                parts = {part.number: part for part in self.message.fields(one.start, one.end)}
                opset[self.message.text(parts[1]) if 1 in parts else ""] = parts[2].value if 2 in parts else 0
            elif one.number == 14:
                properties |= self.pair(one)
            elif one.number == 20:
                self.training(one)
            elif one.number == 25:
                self.function(one)
        self.metadata |= {"opset": opset} if opset else {}
        self.metadata |= {"properties": properties} if properties else {}

    def graph(self, graph: Field, where: str, depth: int) -> None:
        """Walk a GraphProto; `where` is the path to a subgraph, empty for the main one."""
        if depth > MAX_DEPTH:
            raise FormatError(f"{self.file.path}: graphs nest deeper than {MAX_DEPTH}", reason="hostile", advice="do not load this file")
        inputs: list[dict[str, Any]] = []
        outputs: list[dict[str, Any]] = []
        for index, one in enumerate(self.message.fields(graph.start, graph.end)):
            if one.number == 1:
                self.node(one, where, index, depth)
            elif one.number == 2 and not where:
                self.metadata["graph"] = self.message.text(one)
            elif one.number == 5:
                self.tensor(one, where)
            elif one.number == 15:
                raise self.unsupported("sparse initialisers", "store them dense")
            elif one.number in (11, 12) and not where:
                (inputs if one.number == 11 else outputs).append(self.value(one))
        if not where:
            # Before ir_version 4 every initialiser had to be listed as an input too.
            self.metadata["inputs"] = [one for one in inputs if one["name"] not in self.info]
            self.metadata["outputs"] = outputs

    def node(self, node: Field, where: str, index: int, depth: int) -> None:
        """Look into a node for a constant's tensor and for subgraphs."""
        output = name = operator = ""
        attributes: list[Field] = []
        for one in self.message.fields(node.start, node.end):
            if one.number == 2 and not output:
                output = self.message.text(one)
            elif one.number == 3:
                name = self.message.text(one)
            elif one.number == 4:
                operator = self.message.text(one)
            elif one.number == 5:
                attributes.append(one)
        for attribute in attributes:
            parts = list(self.message.fields(attribute.start, attribute.end))
            label = next((self.message.text(one) for one in parts if one.number == 1), "")
            for count, one in enumerate(one for one in parts if one.number in (6, 11) and one.kind == BYTES):
                of_list = f"[{count}]" if one.number == 11 else ""
                self.graph(one, f"{where}{name or f'{operator}_{index}'}.{label}{of_list}/", depth + 1)
            if operator == "Constant":
                self.constant(attribute, label, parts, where + output)

    def constant(self, attribute: Field, label: str, parts: list[Field], name: str) -> None:
        """Keep a Constant's value where it has more than one element."""
        if label in ("sparse_value", "sparse_tensor"):
            raise self.unsupported("sparse constants", "store them dense")
        for one in parts:
            if one.number == 5 and one.kind == BYTES:
                self.tensor(one, "", name)
        number, element = {"value_floats": (7, "F32"), "value_ints": (8, "I64")}.get(label, (0, ""))
        if number:
            count = self.count(attribute, number, element)
            if count > 1:
                self.add(TensorInfo(name, element, (count,)), self.numbers(attribute, number, element, count))

    def function(self, function: Field) -> None:
        """Walk a FunctionProto's nodes."""
        parts = list(self.message.fields(function.start, function.end))
        name = next((self.message.text(one) for one in parts if one.number == 1), "function")
        for index, one in enumerate(one for one in parts if one.number == 7):
            self.node(one, f"{name}/", index, 1)

    def training(self, training: Field) -> None:
        """Walk a TrainingInfoProto; its tensors, an optimizer's state, stay apart."""
        kept_info, kept_storages = self.info, self.storages
        self.info, self.storages = {}, {}
        for one in self.message.fields(training.start, training.end):
            if one.number in (1, 2):
                self.graph(one, "training/", 1)
        self.extras |= self.info
        self.info, self.storages = kept_info, kept_storages

    def tensor(self, proto: Field, where: str, name: str | None = None) -> None:
        """Note a TensorProto; a constant brings its name along and is kept only with more than one element."""
        dims: list[int] = []
        kind, location, given, raw = 0, 0, "", None
        stores: dict[str, str] = {}
        for one in self.message.fields(proto.start, proto.end):
            if one.number == 1:
                dims += [one.value] if one.kind == VARINT else self.varints(one.start, one.end).tolist()
            elif one.number == 2:
                kind = one.value
            elif one.number == 3:
                raise self.unsupported("tensors in segments", "store each tensor whole")
            elif one.number == 8:
                given = self.message.text(one)
            elif one.number == _RAW:
                raw = one
            elif one.number == 13:
                stores |= self.pair(one)
            elif one.number == 14:
                location = one.value
        named = where + given if name is None else name
        shape = tuple(signed(n) for n in dims)
        if kind == _STRING:
            return
        if kind not in _TYPES:
            raise self.unsupported(f"tensor '{one_line(named, 80)}' has the unknown data type {kind}", "update weightspace", whole=True)
        if len(shape) > 64 or any(n < 0 for n in shape):
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(named, 80)}' has shape {one_line(str(shape), 80)}",
                reason="hostile",
                advice="do not load this file",
            )
        info = TensorInfo(named, _TYPES[kind], shape)
        if name is not None and info.numel <= 1:
            return
        bits = _WIDENED.get(kind)
        nbytes = -(-info.numel * bits // 8) if bits else info.nbytes
        storage: Storage
        if location == 1:
            storage = self.outside(named, stores, nbytes)
        elif raw is not None:
            storage = FileSpan(self.file, raw.start, raw.end - raw.start)
        else:
            storage = self.typed(proto, info, bits, nbytes)
        if storage.nbytes != nbytes:
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(named, 80)}' of dtype {info.dtype} and shape {list(shape)} needs {nbytes} bytes, its file gives it {storage.nbytes}",
                advice="copy or download it again",
            )
        self.add(info, storage if bits is None else Produced(info.nbytes, _widen(storage, bits, info)))

    def typed(self, proto: Field, info: TensorInfo, bits: int | None, nbytes: int) -> Storage:
        """Read a tensor whose numbers stand in a typed field, packed or one by one."""
        number = _TYPED.get(info.dtype, _INT32_DATA)
        if number == _INT32_DATA:
            # One entry an element, but small packed formats put a whole byte into an entry; six-bit floats do not.
            entries = nbytes if bits or info.dtype == "F4" else info.numel
            return self.numbers(proto, number, info.dtype, entries, nbytes)
        return self.numbers(proto, number, info.dtype, info.numel * (2 if info.dtype in ("C64", "C128") else 1))

    def count(self, message: Field, number: int, element: str) -> int:
        """Count the entries of a repeated field."""
        chunks = [one for one in self.message.fields(message.start, message.end) if one.number == number]
        if element in _FLOATING:
            size = 4 if element in ("F32", "C64") else 8
            return sum((one.end - one.start) // size for one in chunks)
        return sum(1 if one.kind == VARINT else self.ends(one.start, one.end) for one in chunks)

    def ends(self, start: int, end: int) -> int:
        """Count the varints in a range: each has one last byte."""
        total = 0
        for block in FileSpan(self.file, start, end - start).blocks():
            total += int(np.count_nonzero(np.frombuffer(block, np.uint8) < 128))
        return total

    def numbers(self, message: Field, number: int, element: str, entries: int, nbytes: int | None = None) -> Storage:
        """Lay the entries of a repeated field out as little-endian bytes, when they are asked for."""
        if nbytes is None:
            nbytes = dtypes.num_bytes(dtypes.dtype(element), (entries,)) // (2 if element in ("C64", "C128") else 1)
        if self.count(message, number, element) != entries:
            raise FormatError(
                f"{self.file.path}: a tensor of dtype {element} needs {entries} numbers, its field {number} has {self.count(message, number, element)}",
                advice="copy or download it again",
            )
        chunks = [one for one in self.message.fields(message.start, message.end) if one.number == number]
        if len(chunks) == 1 and element in _FLOATING:
            return FileSpan(self.file, chunks[0].start, chunks[0].end - chunks[0].start)
        return Produced(nbytes, lambda: self.laid_out(chunks, element, nbytes))

    def laid_out(self, chunks: list[Field], element: str, nbytes: int) -> memoryview:
        """Decode the chunks of a repeated field and put them together."""
        if element in _FLOATING:
            return memoryview(b"".join(self.file.read(one.start, one.end - one.start) for one in chunks))
        parts = [np.array([one.value], np.uint64) if one.kind == VARINT else self.varints(one.start, one.end) for one in chunks]
        values = np.concatenate(parts) if parts else np.empty(0, np.uint64)
        if element.startswith("F6"):
            bits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1, bitorder="little")[:, :6]
            return memoryview(np.packbits(bits.reshape(-1), bitorder="little").data)
        width = nbytes // len(values) if len(values) else 1
        return memoryview(values.astype(f"<u{width}").view(np.uint8).data)

    def varints(self, start: int, end: int) -> npt.NDArray[np.uint64]:
        """Decode packed varints, all at once: each byte adds seven bits to the number that it belongs to."""
        raw = np.frombuffer(self.file.read(start, end - start), np.uint8)
        last = np.flatnonzero(raw < 128)
        if raw.size and (not last.size or last[-1] != raw.size - 1):
            raise FormatError(f"{self.file.path}: packed numbers break off at byte {end}", advice="copy or download it again")
        values = np.zeros(last.size, np.uint64)
        first = np.concatenate([[0], last[:-1] + 1]) if last.size else last
        length = last - first + 1
        if length.size and length.max() > 10:
            raise FormatError(f"{self.file.path}: a packed number of more than 10 bytes before byte {end}", advice="do not load this file")
        for place in range(int(length.max()) if length.size else 0):
            here = length > place
            values[here] |= (raw[first[here] + place] & 127).astype(np.uint64) << np.uint64(7 * place)
        return values

    def outside(self, name: str, stores: dict[str, str], nbytes: int) -> Storage:
        """Find a tensor that lies in a file beside the model."""
        target = inside(self.file.path.parent, stores.get("location", ""), self.file.path)
        if not target.is_file():
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(name, 80)}' lies in '{one_line(target.name, 80)}', which is not there",
                reason="missing",
                advice="put the external data file beside the model",
            )
        if str(target) not in self.external:
            self.external[str(target)] = SourceFile.at(target)
        file = self.external[str(target)]
        numbers = [stores.get("offset", "0"), stores.get("length", str(nbytes))]
        if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(name, 80)}' lies at offset '{one_line(numbers[0], 30)}', length '{one_line(numbers[1], 30)}'",
                reason="hostile",
                advice="do not load this file",
            )
        return FileSpan(file, int(numbers[0]), int(numbers[1]))

    def add(self, info: TensorInfo, storage: Storage) -> None:
        """Keep a tensor under its name, which must be new."""
        if info.name in self.info:
            raise FormatError(
                f"{self.file.path}: the tensor '{one_line(info.name, 80)}' stands twice", reason="hostile", advice="do not load this file"
            )
        self.info[info.name], self.storages[info.name] = info, storage

    def value(self, value: Field) -> dict[str, Any]:
        """Describe a graph's input or output: name, and dtype and shape where it is a tensor."""
        made: dict[str, Any] = {"name": ""}
        for one in self.message.fields(value.start, value.end):
            if one.number == 1:
                made["name"] = self.message.text(one)
            elif one.number == 2:
                tensor = next((t for t in self.message.fields(one.start, one.end) if t.number == 1), None)
                for part in self.message.fields(tensor.start, tensor.end) if tensor else ():
                    if part.number == 1:
                        made["dtype"] = _TYPES.get(part.value, str(part.value))
                    elif part.number == 2:
                        made["shape"] = [self.dimension(dim) for dim in self.message.fields(part.start, part.end) if dim.number == 1]
        return made

    def dimension(self, dim: Field) -> int | str | None:
        """Read one dimension: a size, a name, or nothing."""
        for one in self.message.fields(dim.start, dim.end):
            if one.number in (1, 2):
                return signed(one.value) if one.number == 1 else self.message.text(one)
        return None

    def pair(self, entry: Field) -> dict[str, str]:
        """Read a StringStringEntryProto."""
        parts = {one.number: self.message.text(one, self.file.size)[:MAX_TEXT] for one in self.message.fields(entry.start, entry.end)}
        return {parts.get(1, ""): parts.get(2, "")}

    def unsupported(self, what: str, advice: str, *, whole: bool = False) -> FormatError:
        """Refuse what is valid ONNX but not read here."""
        return FormatError(f"{self.file.path}: {what if whole else f'has {what}'}", reason="unsupported", advice=advice)


def _widen(packed: Storage, bits: int, info: TensorInfo) -> Callable[[], memoryview]:
    """Make the function that spreads integers of 4 or 2 bits, lowest bits first, over a byte each."""

    def widened() -> memoryview:
        raw = np.frombuffer(read(packed), np.uint8)
        mask = (1 << bits) - 1
        codes = np.stack([raw >> shift & mask for shift in range(0, 8, bits)], axis=-1).reshape(-1)[: info.numel]
        if info.dtype == "I8":
            codes = np.where(codes >> (bits - 1) == 1, codes.astype(np.int8) - (1 << bits), codes).astype(np.int8).view(np.uint8)
        return memoryview(codes.data)

    return widened
