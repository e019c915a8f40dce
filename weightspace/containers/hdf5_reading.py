"""What reads HDF5 through h5py; runs only inside the child processes of `weightspace.containers.isolated`."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from weightspace import dtypes
from weightspace.errors import FormatError, MissingDependencyError, one_line

if TYPE_CHECKING:
    import h5py

MAX_OBJECTS = 200_000
MAX_DEPTH = 64
MAX_TEXT = 1 << 16  # characters kept of an attribute: a model_config can have megabytes
MAX_RATIO, FREE = 1032, 1 << 20  # what deflate can reach at most; chunks that were never written cost nothing up to a limit
_ATTRIBUTES = ("keras_version", "backend", "model_config", "training_config", "format_version")


def list_datasets(argument: Mapping[str, Any], out: BinaryIO) -> None:
    """Write one JSON line for the file's attributes, then one for each dataset: name, dtype, shape and where its bytes lie."""
    with _open(argument) as file:
        size = argument["nbytes"]
        _line(out, {"attributes": {name: _text(file.attrs, name) for name in _ATTRIBUTES if name in file.attrs}})
        first: dict[Any, str] = {}
        for name, dataset, address in _walk(file):
            owner = first.setdefault(address, name)
            described = _describe(name, dataset, size)
            _line(out, described | ({"alias_of": owner} if owner != name else {}))


def read_datasets(argument: Mapping[str, Any], out: BinaryIO) -> None:
    """Write the little-endian numbers of the named datasets, one after another, in slabs of their first axis."""
    import numpy as np

    with _open(argument) as file:
        for name in argument["names"]:
            dataset = file[name]
            rows = dataset.shape[0] if dataset.shape else 0
            row_bytes = max(1, dataset.nbytes // max(1, rows))
            step = max(1, (8 << 20) // row_bytes)
            # A chunk is expanded once where slabs follow the chunks' own edges.
            if dataset.chunks:
                step = -(-step // dataset.chunks[0]) * dataset.chunks[0]
            slabs = (dataset[at : at + step] for at in range(0, rows, step)) if dataset.shape else iter((dataset[()],))
            for slab in slabs:
                array = np.asarray(slab)
                little = array if array.dtype.kind == "V" else array.astype(array.dtype.newbyteorder("<"), copy=False)
                out.write(np.ascontiguousarray(little).tobytes())


def _open(argument: Mapping[str, Any]) -> "h5py.File":
    try:
        import h5py
    except ImportError:
        raise MissingDependencyError.of("h5py", "reading Keras HDF5", "keras") from None
    path, offset, nbytes = Path(argument["path"]), argument["offset"], argument["nbytes"]
    if argument["deflated"]:
        import zlib

        stream: Any = _SpanFile(path, offset, argument["packed"])
        expanded = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.readall(), nbytes)
        return h5py.File(io.BytesIO(expanded), "r")
    return h5py.File(_SpanFile(path, offset, nbytes) if offset else path, "r")


class _SpanFile(io.RawIOBase):
    """A range of bytes of a file as a file of its own, which h5py can read."""

    def __init__(self, path: Path, offset: int, nbytes: int) -> None:
        """Open the file; reading starts at `offset`."""
        self._stream = path.open("rb", buffering=0)
        self._offset, self._nbytes, self._at = offset, nbytes, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move inside the range."""
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence] + offset)
        return self._at

    def readinto(self, buffer: "memoryview[int] | bytearray") -> int:  # type: ignore[override]
        """Read what is left of the range, at most as much as the buffer holds."""
        view = memoryview(buffer)[: max(0, self._nbytes - self._at)]
        self._stream.seek(self._offset + self._at)
        got = self._stream.readinto(view) or 0
        self._at += got
        return got

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()


def _walk(file: "h5py.File") -> Iterator[tuple[str, "h5py.Dataset", tuple[Any, ...]]]:
    """Yield every dataset with its path and its place in the file; groups that contain themselves are entered once."""
    import h5py

    pending: list[tuple[str, Any, int]] = [("", file, 0)]
    entered: set[tuple[Any, ...]] = set()
    count = 0
    while pending:
        where, group, depth = pending.pop()
        place = _place(group)
        if place in entered:
            continue
        entered.add(place)
        inner = []
        for name in group:
            count += 1
            path = f"{where}{name}"
            if count > MAX_OBJECTS or depth > MAX_DEPTH:
                raise FormatError(f"holds more than {MAX_OBJECTS} objects or nests deeper than {MAX_DEPTH}", reason="hostile", advice="do not load this file")  # fmt: skip
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
                raise FormatError(f"'{one_line(path, 80)}' is {kind}", reason="unsupported", advice="save the weights themselves")
            found = group[name]
            if isinstance(found, h5py.Group):
                inner.append((f"{path}/", found, depth + 1))
            elif isinstance(found, h5py.Dataset):
                yield path, found, _place(found)
        pending += reversed(inner)


def _place(found: Any) -> tuple[Any, ...]:
    import h5py

    return (h5py.h5o.get_info(found.id).addr,)


def _describe(name: str, dataset: "h5py.Dataset", size: int) -> dict[str, Any]:
    import h5py

    if dataset.external or dataset.is_virtual:
        raise FormatError(f"dataset '{one_line(name, 80)}' keeps its numbers in other files", reason="unsupported", advice="save the weights themselves")  # fmt: skip
    shape = dataset.shape
    if shape is None or h5py.check_string_dtype(dataset.dtype) is not None or dataset.dtype.kind in "OSU":
        return {"name": name, "skipped": str(dataset.dtype)}
    element = _element(dataset)
    if element is None:
        return {"name": name, "skipped": str(dataset.dtype)}
    stored = dataset.id.get_storage_size()
    count = dtypes.num_bytes(dtypes.dtype(element), shape)
    if stored > size or count > stored * MAX_RATIO + FREE:
        raise FormatError(f"dataset '{one_line(name, 80)}' of shape {list(shape)} claims {count} bytes from {stored} stored ones", reason="hostile", advice="do not load this file")  # fmt: skip
    offset = dataset.id.get_offset() if dataset.chunks is None else None
    little = dataset.dtype.byteorder != ">" and dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True))
    plain = offset is not None and stored == count and (little or element == "BF16")
    return {"name": name, "dtype": element, "shape": list(shape), "offset": offset if plain else None}


def _element(dataset: "h5py.Dataset") -> str | None:
    """Name the element type; None for compound, reference and other types that are no numbers."""
    kind = dataset.dtype
    # Keras writes bfloat16 as opaque pairs of bytes and says so in an attribute.
    if kind.kind == "V" and kind.itemsize == 2 and kind.names is None and _text(dataset.attrs, "dtype") == "bfloat16":
        return "BF16"
    if kind.kind not in "biufc":
        return None
    try:
        return dtypes.from_numpy(kind).name
    except FormatError:
        return None


def _text(attributes: Any, name: str) -> str:
    """Read a text attribute, cut to a bounded length."""
    value = attributes.get(name, "")
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _line(out: BinaryIO, value: Mapping[str, Any]) -> None:
    out.write(json.dumps(value).encode() + b"\n")
