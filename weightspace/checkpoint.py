"""A checkpoint: named tensors read lazily from wherever they lie, never executed."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightspace import dtypes, identity
from weightspace.dtypes import DType
from weightspace.errors import FormatError, Result, UnknownNameError, guarded, one_line
from weightspace.storage import FileSpan, Memory, SourceFile, Storage, Strided, read

if TYPE_CHECKING:
    import torch

    _Tensors = Mapping[str, "torch.Tensor"]
else:
    # Run-time type checkers look into a parametrised mapping, which would read a tensor at every call they check.
    _Tensors = Mapping

MAX_SHAPE = 1 << 59  # elements of an empty tensor, were it not for its zeros: libraries count their bytes in 63 bits
MAX_NAME = 1 << 16  # characters of a tensor's name
MAX_RATIO, FREE = 1032, 1 << 26  # what tensors may take more than the files that they lie in: as deflate can, unless it is little


Content = tuple[Storage, str, tuple[int, ...]]
"""What a tensor's hash depends on: where its bytes lie, its dtype and its shape."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor, without its values.

    Attributes:
        name: the key, verbatim as the checkpoint has it.
        dtype: name of its element type (see `weightspace.dtypes`).
        shape: logical shape; for packed types the number of elements, not of bytes.
        alias_of: the first name of the same storage, when this tensor is tied to another.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    alias_of: str | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return dtypes.numel(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Number of bytes."""
        return dtypes.num_bytes(dtypes.dtype(self.dtype), self.shape)

    @property
    def is_parameter(self) -> bool:
        """Whether its elements count as parameters: floats, each storage once."""
        return self.alias_of is None and dtypes.dtype(self.dtype).is_float


@dataclass(frozen=True)
class Checkpoint(_Tensors):
    """One saved state dict with its metadata; tensors are read when asked for.

    Attributes:
        info: what the header says of each tensor, in file order.
        storages: where each tensor's bytes lie, by name.
        format: the registered name of its format.
        path: the file or folder it was opened from, if any.
        files: every file that its bytes come from.
        metadata: what the container itself says besides tensors (strings, numbers, nested dicts and lists).
        kind: `full`, `adapter` (low-rank updates of another model), `signature` (what `weightspace.analysis.signatures` takes out of models)
            or `trainer` (optimizer state alone).
        extras: tensors kept apart from the state dict, such as optimizer state, by dotted name; outside `id`.
        recipe: how it was made, for models the platform made.
        parents: ids (hex) of the models it was made from.
    """

    info: Mapping[str, TensorInfo]
    storages: Mapping[str, Storage] = field(repr=False)
    format: str
    path: Path | None = None
    files: tuple[Path, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "full"
    extras: Mapping[str, TensorInfo] = field(default_factory=dict, repr=False)
    recipe: Mapping[str, Any] | None = None
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, info in self.info.items():
            if len(name) > MAX_NAME or (not info.nbytes and math.prod(n or 1 for n in info.shape) >= MAX_SHAPE):
                what = f"a name of {len(name)} characters" if len(name) > MAX_NAME else f"the shape {list(info.shape)}"
                raise FormatError(f"tensor '{one_line(name, 80)}' has {what}", reason="hostile", advice="do not load this file")
            if self.storages[name].nbytes != info.nbytes:
                raise FormatError(
                    f"tensor '{one_line(name, 80)}' of dtype {info.dtype} and shape {list(info.shape)} needs {info.nbytes} bytes, "
                    f"its file gives it {self.storages[name].nbytes}",
                    reason="corrupt",
                    advice="copy or download the file again",
                )
        if self.files and self.num_bytes > FREE:
            stored = sum(file.stat().st_size for file in self.files)
            if self.num_bytes > stored * MAX_RATIO + FREE:
                raise FormatError(
                    f"its tensors claim {self.num_bytes} bytes from files of {stored}", reason="hostile", advice="do not load this file"
                )

    @classmethod
    def of(cls, tensors: Mapping[str, "torch.Tensor"], *, metadata: Mapping[str, Any] | None = None, kind: str = "full") -> "Checkpoint":
        """Wrap a state dict that is in memory; tensors that share their storage exactly are tied."""
        info: dict[str, TensorInfo] = {}
        storages: dict[str, Storage] = {}
        first: dict[tuple[Any, ...], str] = {}
        for name, tensor in tensors.items():
            _expect_tensor(name, tensor)
            element = dtypes.from_torch(str(tensor.dtype))
            where = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), element.name)
            owner = first.setdefault(where, name) if tensor.numel() else name
            info[name] = TensorInfo(name, element.name, _logical_shape(tuple(tensor.shape), element), None if owner == name else owner)
            storages[name] = Memory(tensor_bytes(tensor))
        return cls(info, storages, "memory", metadata=metadata or {}, kind=kind)

    def __getitem__(self, name: str) -> "torch.Tensor":
        """Read one tensor now.

        Raises:
            UnknownNameError: the checkpoint has no such tensor.
            FormatError: its bytes are gone or damaged, or torch has no such dtype.
        """
        import torch

        if name not in self.info:
            raise UnknownNameError.of("tensor", name, self.info)
        info, element = self.info[name], dtypes.dtype(self.info[name].dtype)
        if element.kind == "quantized":
            return torch.from_numpy(dtypes.decode(np.frombuffer(self.raw(name), np.uint8), element).reshape(info.shape))
        halves = element.name == "F4" and (not info.shape or info.shape[-1] % 2 == 1)  # torch packs pairs along the last axis
        if element.torch is None or not hasattr(torch, element.torch) or halves:
            raise FormatError(
                f"tensor '{name}' has dtype {element.name}, which torch {torch.__version__} cannot hold",
                reason="unsupported",
                advice="read .raw(name) instead",
            )
        shape = info.shape if element.name != "F4" else (*info.shape[:-1], info.shape[-1] // 2)
        raw = self.raw(name)
        if not raw:
            return torch.empty(shape, dtype=getattr(torch, element.torch))
        return torch.frombuffer(raw, dtype=torch.uint8).view(getattr(torch, element.torch)).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def __len__(self) -> int:
        return len(self.info)

    def __repr__(self) -> str:
        where = f" at {one_line(str(self.path))}" if self.path else ""
        return f"<Checkpoint {self.format}{where}: {len(self)} tensors, {self.num_params:,} parameters, {self.num_bytes:,} bytes>"

    def _repr_html_(self) -> str:
        """The header as tables for notebooks; no weights are read."""
        from weightspace import html

        told = {
            "kind": None if self.kind == "full" else self.kind,
            "file": None if self.path is None else str(self.path),
            "tensors": len(self),
            "parameters": self.num_params,
            "bytes": self.num_bytes,
            "made by": None if self.recipe is None else str(self.recipe.get("kind") or "a recipe"),
        }
        listed = (
            {
                "tensor": one.name,
                "shape": " × ".join(map(str, one.shape)),
                "dtype": one.dtype,
                "elements": one.numel,
                "tied to": one.alias_of or "",
            }
            for one in self.info.values()
        )
        columns = ["tensor", "shape", "dtype", "elements"] + ["tied to"] * any(one.alias_of for one in self.info.values())
        return html.page(f"Checkpoint, {self.format}", html.facts(told), html.rows(listed, len(self), columns=columns))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checkpoint) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def raw(self, name: str) -> bytearray:
        """Read the little-endian, C-contiguous bytes of one tensor, whatever its dtype."""
        if name not in self.info:
            raise UnknownNameError.of("tensor", name, self.info)
        return self._guarded(lambda: read(self.storages[name]))

    def _guarded(self, work: Callable[[], Result]) -> Result:
        """Do what reads bytes; what goes wrong names the file."""
        return guarded(lambda _: work(), self.path or Path("memory"))

    def state_dict(self) -> "dict[str, torch.Tensor]":
        """Read all tensors; tied ones come back as one tensor under each name."""
        made: dict[str, torch.Tensor] = {}
        for name, info in self.info.items():
            made[name] = made[info.alias_of] if info.alias_of in made else self[name]
        return made

    @property
    def num_params(self) -> int:
        """Float elements, tied tensors once, running statistics included."""
        return sum(info.numel for info in self.info.values() if info.is_parameter)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors, tied ones once."""
        return sum(info.nbytes for info in self.info.values() if info.alias_of is None)

    @cached_property
    def tensor_hashes(self) -> Mapping[str, bytes]:
        """BLAKE3 of each tensor's dtype, shape and bytes; reads everything once."""
        return self._guarded(self._hashed)

    def remember(self, known: Mapping[Content, bytes]) -> "Checkpoint":
        """Take hashes of tensors that somebody computed while reading them, so that they are not read again; returns itself.

        Args:
            known: BLAKE3 as in `tensor_hashes`, by where the bytes lie and what they are read as.
        """
        if "tensor_hashes" not in vars(self):
            vars(self)["tensor_hashes"] = self._guarded(lambda: self._hashed(known))
        return self

    def _hashed(self, known: Mapping[Content, bytes] = {}) -> dict[str, bytes]:
        made: dict[str, bytes] = {}
        for name, info in self.info.items():
            if info.alias_of in made:
                made[name] = made[info.alias_of]
                continue
            content = content_of(self, name) if known else None
            if content is not None and content in known:
                made[name] = known[content]
                continue
            made[name] = self._hash(name)
        return made

    def _hash(self, name: str) -> bytes:
        hasher = identity.tensor_hasher(self.info[name].dtype, self.info[name].shape)
        for block in self.storages[name].blocks():
            hasher.update(block)
        return bytes(hasher.digest())

    def tensor_hash(self, name: str) -> bytes:
        """BLAKE3 of one tensor's dtype, shape and bytes; reads that tensor alone, where not all are known already.

        Raises:
            UnknownNameError: the checkpoint has no such tensor.
        """
        if name not in self.info:
            raise UnknownNameError.of("tensor", name, self.info)
        known: Mapping[str, bytes] | None = vars(self).get("tensor_hashes")
        return self._guarded(lambda: self._hash(name)) if known is None else known[name]

    @cached_property
    def id(self) -> str:
        """Content identity in hex: the same weights under the same names have one id in any container."""
        hashes = self.tensor_hashes
        return identity.model_id((name, info.dtype, info.shape, hashes[name]) for name, info in self.info.items()).hex()

    @cached_property
    def weights_id(self) -> str:
        """Identity of the weights without their names, in hex."""
        return identity.weights_id(self.tensor_hashes.values()).hex()

    @cached_property
    def architecture_id(self) -> str:
        """Fingerprint of names and shapes, in hex."""
        return identity.architecture_id((name, info.shape) for name, info in self.info.items()).hex()

    def with_source(self, path: Path) -> "Checkpoint":
        """The same checkpoint, known by another path (the folder it was found in)."""
        return replace(self, path=path)


def state_of(weights: "_Tensors") -> "dict[str, torch.Tensor]":
    """All tensors of a checkpoint, each read once; those of a state dict as they are."""
    return weights.state_dict() if isinstance(weights, Checkpoint) else dict(weights)


def checkpoint_of(weights: "_Tensors") -> Checkpoint:
    """A checkpoint as it is; a state dict as one in memory."""
    return weights if isinstance(weights, Checkpoint) else Checkpoint.of(weights)


def content_of(checkpoint: Checkpoint, name: str) -> Content | None:
    """Where a tensor's bytes lie and what they are read as; None where they do not lie in a file as they are."""
    storage, info = checkpoint.storages[name], checkpoint.info[name]
    return (storage, info.dtype, info.shape) if isinstance(storage, FileSpan | Strided) else None


def tied(info: Mapping[str, TensorInfo], names: Mapping[str, str]) -> dict[str, TensorInfo]:
    """Mark tensors as tied: `names` gives, for a name, the name that it repeats. Chains lead to their first name."""
    marked = dict(info)
    for name, owner in names.items():
        seen = {name}
        while owner in names and owner not in seen:
            seen.add(owner)
            owner = names[owner]
        if owner in info and owner != name:
            marked[name] = replace(info.get(name, info[owner]), name=name, alias_of=owner)
    return marked


def _logical_shape(shape: tuple[int, ...], element: DType) -> tuple[int, ...]:
    """Torch counts pairs of 4-bit numbers; we count numbers."""
    return (*shape[:-1], shape[-1] * 2) if element.name == "F4" and shape else shape


def _expect_tensor(name: object, tensor: object) -> None:
    import torch

    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        found = f"{type(name).__name__} -> {type(tensor).__name__}"
        raise FormatError(
            f"a state dict maps names to tensors, found {found} at '{one_line(str(name), 80)}'", advice="flatten it, or convert the value"
        )
    if tensor.is_meta or tensor.layout is not torch.strided:
        kind = "on the meta device" if tensor.is_meta else str(tensor.layout)
        raise FormatError(
            f"tensor '{one_line(name, 80)}' is {kind}, expected a dense one", reason="unsupported", advice="save tensor.to_dense()"
        )


def tensor_bytes(tensor: "torch.Tensor") -> memoryview:
    """The little-endian, C-contiguous bytes of a dense tensor."""
    import torch

    plain = tensor.detach().cpu().contiguous().reshape(-1)
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    return plain.view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")


__all__ = ["Checkpoint", "Content", "SourceFile", "TensorInfo", "checkpoint_of", "content_of", "state_of", "tied"]
