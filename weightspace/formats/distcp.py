"""torch.distributed.checkpoint folders: `.metadata`, a pickle read statically, says which piece of which tensor lies where."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint
from weightspace.containers import pickle_safety, pickles, torch_tree
from weightspace.containers.archive import Archive
from weightspace.containers.pickles import Call, Global, Opaque, Pickle, Value
from weightspace.containers.torch_tensors import ITEMSIZE, Tensor
from weightspace.errors import DAMAGE, FormatError, one_line
from weightspace.formats import checkpoint_format, torch_zip
from weightspace.storage import BLOCK, Pieces, SourceFile, Storage, inside

METADATA = ".metadata"
MAX_ITEMS_READ, MAX_ITEM = 200, 1 << 20  # plain values beside the tensors, each a little file of its own
_MODULE = "torch.distributed.checkpoint.metadata"


def sniff(path: Path, head: bytes) -> bool:
    """A folder whose `.metadata` is a pickle of that module, or a file beside it that holds its pieces."""
    folder = path if not head else path.parent if path.suffix == ".distcp" or path.name == METADATA else None
    index = folder / METADATA if folder is not None else None
    if index is None or not index.is_file():
        return False
    with index.open("rb") as stream:
        return _MODULE.encode() in stream.read(256)


def claims(folder: Path) -> frozenset[Path]:
    """The metadata and every file that it names."""
    try:
        return frozenset(_Folder(folder).files)
    except DAMAGE:  # what is wrong with it is told when it is opened
        return frozenset({folder / METADATA, *folder.glob("*.distcp")})


@checkpoint_format("distcp", sniff=sniff, claims=claims)
def open_distcp(path: Path) -> Checkpoint:
    """Read the metadata; the pieces of a tensor are looked up when it is read."""
    folder = path if path.is_dir() else path.parent
    parts = _Folder(folder)
    found = parts.found
    tree = Pickle(parts.tree(), found.globals, found.called, (), found.end)
    return torch_tree.checkpoint(tree, parts, format="distcp", path=folder, files=tuple(parts.files))


class _Folder:
    """One folder's metadata: a source of tensors for `torch_tree`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = SourceFile.at(folder / METADATA)
        self.found = pickles.read(index.read(0, min(index.size, pickles.MAX_BYTES)))
        pickle_safety.refuse_code(self.found)
        state = _state(self.found.value, "Metadata")
        self._entries: dict[Value, Value] = _of(state.get("state_dict_metadata"), dict)
        self._paths: dict[Value, Value] = state["planner_data"] if isinstance(state.get("planner_data"), dict) else {}
        self._names = {id(value): name for name, value in self._entries.items()}
        self._places: dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]] = {}
        for key, value in _of(state.get("storage_data"), dict).items():
            self._add_place(_state(key.value if isinstance(key, Opaque) else key, "MetadataIndex"), _state(value, "_StorageInfo"))
        self._files: dict[str, SourceFile] = {}
        self._items_read = 0
        self.files = [
            folder / METADATA,
            *(inside(folder, name, index.path) for name in sorted({place[0] for place in self._places.values()})),
        ]

    def _add_place(self, key: dict[Value, Value], value: dict[Value, Value]) -> None:
        name, offset = _of(key.get("fqn"), str), key.get("offset")
        if value.get("transform_descriptors"):
            raise FormatError(
                f"tensor '{one_line(name, 80)}' is stored compressed", reason="unsupported", advice="save it without extensions"
            )
        place = _of(value.get("relative_path"), str), _of(value.get("offset"), int), _of(value.get("length"), int)
        self._places[name, None if offset is None else _counts(offset)] = place

    def tree(self) -> dict[str, Value]:
        """Lay the flat names out as the nested dictionaries that were saved."""
        top: dict[str, Value] = {}
        for name, value in self._entries.items():
            keys = self._paths.get(name)
            path = [str(key) for key in keys] if isinstance(keys, tuple | list) and keys else [_of(name, str)]
            at = top
            for key in path[:-1]:
                at = _of(at.setdefault(key, {}), dict)
            at[path[-1]] = value if self.is_tensor(value) else self._item(name, path[0])
        return top

    def _item(self, name: str, top: str) -> Value:
        """Read a small value that was saved beside the tensors, such as a step count; optimizers' many settings stay unread."""
        place = self._places.get((name, None))
        if place is None or torch_tree.is_trainer(top, None) or self._items_read >= MAX_ITEMS_READ or place[2] > MAX_ITEM:
            return None
        self._items_read += 1
        return torch_zip.read(Archive(self._file(place[0]), place[1], place[2]))[0].value

    def is_tensor(self, value: Value) -> bool:
        """Whether an entry is a tensor's."""
        return isinstance(value, Call) and _is(value, "TensorStorageMetadata")

    def tensor(self, value: Call) -> Tensor:
        """Put one tensor together from its pieces."""
        state, name = _state(value, "TensorStorageMetadata"), self._names[id(value)]
        kind = _dtype(state.get("properties"))
        shape, itemsize = _counts(state.get("size")), ITEMSIZE[kind]
        pieces: dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...], Storage]] = {}
        for chunk in _of(state.get("chunks"), list):
            box = _state(chunk, "ChunkStorageMetadata")
            starts, lengths = _counts(box.get("offsets")), _counts(box.get("sizes"))
            place = self._places.get((name, starts)) or self._places.get((name, None))
            if place is None:
                raise FormatError(
                    f"the piece at {starts} is in no file", reason="missing", advice="bring all files of the checkpoint together"
                )
            piece = _Piece(self._file(place[0]), place[1], place[2], kind, lengths, dtypes.numel(lengths) * itemsize)
            if piece.nbytes:
                pieces[starts] = (starts, lengths, piece)
        whole = Pieces(itemsize, shape, tuple(pieces.values()))
        logical = shape if kind != "F4" else (*shape[:-1], 2 * shape[-1])
        return Tensor(kind, logical, whole, name)

    def _file(self, name: str) -> SourceFile:
        found = self._files.get(name)
        if found is None:
            place = inside(self._folder, name, self._folder / METADATA)
            if not place.is_file():
                raise FormatError(
                    f"'{one_line(name, 80)}', which its metadata names, is not there",
                    reason="missing",
                    advice="bring all files of the checkpoint together",
                )
            found = self._files[name] = SourceFile.at(place)
        return found


@dataclass(frozen=True)
class _Piece:
    """One box of a tensor: a torch zip file inside a larger file, looked into when its bytes are asked for."""

    file: SourceFile
    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    def __post_init__(self) -> None:
        if not (0 <= self.offset and self.nbytes <= self.length and self.offset + self.length <= self.file.size):
            raise FormatError(
                f"a piece of {self.nbytes} bytes lies in bytes {self.offset} to {self.offset + self.length} of {self.file.path.name}, which has {self.file.size}",
                reason="truncated",
                advice="copy or download it again",
            )

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Open the inner file, check that it holds this piece, and read it."""
        found, tensors = torch_zip.read(Archive(self.file, self.offset, self.length))
        one = tensors.tensor(found.value) if tensors.is_tensor(found.value) else None
        if one is None or one.dtype != self.dtype or one.bytes.nbytes != self.nbytes:
            raise FormatError(
                f"{self.file.path}: the piece at byte {self.offset} is not the one that the metadata describe",
                reason="corrupt",
                advice="copy or download it again",
            )
        yield from one.bytes.blocks(size)


def _is(value: Value, name: str) -> bool:
    return isinstance(value, Call) and isinstance(value.function, Global) and value.function.name == name


def _state(value: Value, name: str) -> dict[Value, Value]:
    if not _is(value, name) or not isinstance(value.state, dict):
        raise FormatError(f"its metadata have no {name} where one is expected", advice="copy or download it again")
    state: dict[Value, Value] = value.state
    return state


def _of(value: Value, kind: type) -> Value:
    if type(value) is not kind:
        raise FormatError(f"its metadata have {type(value).__name__} where {kind.__name__} is expected", advice="copy or download it again")
    return value


def _counts(value: Value) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(n) is int and 0 <= n < 1 << 63 for n in value):
        raise FormatError("its metadata have a size that is no tuple of counts", reason="hostile", advice="do not load it")
    return value


def _dtype(properties: Value) -> str:
    """The dtype is the first field of the properties, which older versions pickle as a dictionary."""
    state = properties.state if isinstance(properties, Call) else None
    first = state[0] if isinstance(state, tuple) and state else state.get("dtype") if isinstance(state, dict) else None
    if not isinstance(first, Global) or first.module != "torch":
        raise FormatError("its metadata have no dtype for a tensor", advice="copy or download it again")
    return dtypes.from_torch(first.name).name
