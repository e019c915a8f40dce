"""Tensors as torch describes them in a pickle: dtype, shape and the bytes of a storage, found without calling torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from weightspace import dtypes
from weightspace.containers import pickled_numpy
from weightspace.containers.pickles import Call, Global, Persistent, Value
from weightspace.errors import FormatError
from weightspace.storage import FileSpan, Memory, Storage, Strided, is_contiguous, part

_STORAGE_DTYPES = {
    "FloatStorage": "F32", "DoubleStorage": "F64", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64", "IntStorage": "I32",
    "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128", "QInt8Storage": "I8", "QUInt8Storage": "U8", "QInt32Storage": "I32", "UntypedStorage": "U8",
    "_UntypedStorage": "U8",
}  # fmt: skip
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
ITEMSIZE = {name: int(kind.bits) // 8 or 1 for name, kind in dtypes.DTYPES.items() if kind.block is None}
MAX_RANK = 64  # torch's own limit
_DAMAGED = "copy or download it again"


@dataclass(frozen=True, slots=True)
class StorageRef:
    """One storage that tensors view.

    Attributes:
        key: what tells it from the file's other storages.
        dtype: its elements; bytes for untyped ones.
        bytes: where they lie.
    """

    key: Any
    dtype: str
    bytes: Storage


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        dtype: name of its element type.
        shape: logical shape.
        bytes: its elements in row-major order.
        place: equal for tensors that are the same part of the same storage.
        quantization: scale and zero point of integer codes, for quantized tensors.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: Storage
    place: Any
    quantization: dict[str, Any] | None = None


def storage_dtype(kind: Value) -> str:
    """Name the element type of a storage class such as `torch.FloatStorage`."""
    if isinstance(kind, Global) and kind.module in _STORAGE_MODULES and kind.name in _STORAGE_DTYPES:
        return _STORAGE_DTYPES[kind.name]
    named = kind if isinstance(kind, Global) else type(kind).__name__
    raise FormatError(f"a storage has the unknown type '{named}'", reason="unsupported", advice="save the tensors in a plain dtype")


class Tensors:
    """Turns descriptions of tensors into tensors, given a way to find storages."""

    def __init__(self, resolve: Callable[[Value], StorageRef]) -> None:
        """Remember `resolve`, which finds the storage of a persistent id."""
        self._resolve = resolve
        self._storages: dict[int, StorageRef] = {}

    def is_tensor(self, value: Value) -> bool:
        """Whether a value describes a tensor (of any kind, also one that cannot be read)."""
        if type(value) is not Call or type(value.function) is not Global:
            return False
        return (value.function.module, value.function.name) in _REBUILDERS or pickled_numpy.is_array(value)

    def tensor(self, value: Call) -> Tensor:
        """Understand one description.

        Raises:
            FormatError: a kind that has no dense bytes here, or a claim that its storage does not bear out.
        """
        for _ in range(8):  # a Parameter of a subclass of a tensor: wrappers lie in each other, a few deep
            rebuild = _REBUILDERS.get((value.function.module, value.function.name))
            if rebuild is None:
                return _numpy_tensor(value)
            found = rebuild(self, *value.args)
            if isinstance(found, Tensor):
                return found
            if not self.is_tensor(found):
                break
            value = found
        raise FormatError("a tensor is wrapped in something unknown", reason="unsupported", advice="save plain tensors")

    def shard(self, value: Value) -> "tuple[tuple[int, ...], Call, Call] | None":
        """Take a DTensor apart: global shape, its local tensor, and the spec that says which part that is; None for others."""
        if not isinstance(value, Call) or not isinstance(value.function, Global) or value.function.name != "_rebuild_from_type_v2":
            return None
        _, kind, args, state = value.args
        if not isinstance(kind, Global) or kind.name != "DTensor" or not isinstance(state, tuple):
            return None
        parts = state[1]
        return args[2], parts["_local_tensor"], parts["_spec"]

    def storage(self, value: Value) -> StorageRef:
        """Find the storage that a tensor names."""
        found = self._storages.get(id(value))
        if found is None:
            if not isinstance(value, Persistent):
                raise FormatError("a tensor has no storage", advice=_DAMAGED)
            found = self._storages[id(value)] = self._resolve(value.pid)
        return found

    def view(self, storage: StorageRef, dtype: str, offset: Value, shape: Value, stride: Value) -> Tensor:
        """Take a view of a storage, checked against its bytes."""
        itemsize = ITEMSIZE[dtype]
        if not (is_shape(shape) and is_shape(stride) and type(offset) is int and offset >= 0 and len(shape) == len(stride)):
            raise FormatError("a tensor's shape, stride or offset is no count", reason="hostile", advice="do not load this file")
        base = storage.bytes
        logical = shape if dtype != "F4" else (*shape[:-1], 2 * shape[-1]) if shape else (2,)
        place = (storage.key, dtype, offset, shape, stride)
        if not is_contiguous(shape, stride):
            return Tensor(dtype, logical, Strided(base, itemsize, offset, shape, stride), place)
        count, start = dtypes.numel(shape) * itemsize, offset * itemsize
        if start + count > base.nbytes and count:
            raise FormatError(
                f"a tensor needs {start + count} bytes of its storage, which has {base.nbytes}", reason="truncated", advice=_DAMAGED
            )
        if type(base) is FileSpan:
            return Tensor(dtype, logical, FileSpan(base.file, base.offset + start, count) if count else Memory(b""), place)
        return Tensor(dtype, logical, part(base, start, count) if count else Memory(b""), place)


def is_shape(value: Value) -> bool:
    """Whether a value is a tuple of counts, as many as torch allows."""
    return isinstance(value, tuple) and len(value) <= MAX_RANK and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _rebuild_tensor(self: Tensors, storage: Value, offset: Value, shape: Value, stride: Value) -> Tensor:
    found = self.storage(storage)
    return self.view(found, found.dtype, offset, shape, stride)


def _rebuild_tensor_v2(
    self: Tensors,
    storage: Value,
    offset: Value,
    shape: Value,
    stride: Value,
    grad: Value = None,
    hooks: Value = None,
    metadata: Value = None,
) -> Tensor:
    if isinstance(metadata, dict) and any(metadata.get(bit) for bit in ("conj", "neg")):
        raise FormatError(
            "a tensor is saved as the lazy conjugate or negative of its storage", reason="unsupported", advice="save tensor.resolve_conj()"
        )
    found = self.storage(storage)
    return self.view(found, found.dtype, offset, shape, stride)


def _rebuild_tensor_v3(
    self: Tensors,
    storage: Value,
    offset: Value,
    shape: Value,
    stride: Value,
    grad: Value = None,
    hooks: Value = None,
    dtype: Value = None,
    metadata: Value = None,
) -> Tensor:
    if not isinstance(dtype, Global) or dtype.module != "torch":
        raise FormatError("a tensor has no dtype", advice=_DAMAGED)
    return self.view(self.storage(storage), dtypes.from_torch(dtype.name).name, offset, shape, stride)


def _rebuild_qtensor(
    self: Tensors, storage: Value, offset: Value, shape: Value, stride: Value, quantizer: Value, grad: Value = None, hooks: Value = None
) -> Tensor:
    plain = _rebuild_tensor(self, storage, offset, shape, stride)
    scheme, *numbers = quantizer if isinstance(quantizer, tuple) else (None,)
    kept = dict(zip(("scale", "zero_point", "axis"), numbers, strict=False))
    return Tensor(plain.dtype, plain.shape, plain.bytes, plain.place, {"scheme": getattr(scheme, "name", ""), **kept})


def _wrapped(self: Tensors, data: Value, *rest: Value) -> Value:
    return data


def _rebuild_from_type(self: Tensors, function: Value, kind: Value, args: Value, state: Value = None) -> Call:
    return Call(function, args if isinstance(args, tuple) else ())


def _refuse(what: str, advice: str) -> Callable[..., Tensor]:
    def rebuild(self: Tensors, *args: Value) -> Tensor:
        raise FormatError(f"a tensor is {what}", reason="unsupported", advice=advice)

    return rebuild


_SUBCLASS = _refuse(
    "of a wrapper subclass (a DTensor shard or packed weights)", "save plain tensors, or name the folder that holds all ranks"
)
_UTILS: dict[str, Callable[..., Value]] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor_v2,
    "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_qtensor": _rebuild_qtensor,
    "_rebuild_parameter": _wrapped,
    "_rebuild_parameter_with_state": _wrapped,
    "_rebuild_device_tensor_from_numpy": _wrapped,
    "_rebuild_device_tensor_from_cpu_tensor": _wrapped,
    "_rebuild_xla_tensor": _wrapped,
    "_rebuild_sparse_tensor": _refuse("sparse, expected a dense one", "save tensor.to_dense()"),
    "_rebuild_nested_tensor": _refuse("nested, expected a dense one", "save its parts"),
    "_rebuild_meta_tensor_no_storage": _refuse("on the meta device and has no values", "save the model after its weights are loaded"),
    "_rebuild_wrapper_subclass": _SUBCLASS,
}
_REBUILDERS: dict[tuple[str, str], Callable[..., Value]] = {("torch._utils", name): rebuild for name, rebuild in _UTILS.items()}
_REBUILDERS |= {("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type, ("torch._tensor", "_rebuild_from_type"): _rebuild_from_type}
_REBUILDERS |= {("torch.nn.parameter", name): _wrapped for name in ("Parameter", "Buffer")}


def _numpy_tensor(value: Call) -> Tensor:
    found = pickled_numpy.array(value)
    return Tensor(dtypes.from_numpy(found.dtype).name, found.shape, Memory(found.tobytes()), id(value))
