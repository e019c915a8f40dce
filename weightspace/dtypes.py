"""Element types: one name each (safetensors' own, and GGUF's for quantised blocks), their bits, and how bytes become numbers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from weightspace.errors import FormatError, MissingDependencyError, UnknownNameError

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DType:
    """One element type.

    Attributes:
        name: the name in catalogs, hashes and files.
        kind: float, int, uint, bool, complex or quantized (blocks of codes with their scales).
        bits: bits an element takes; for quantized types the mean over a block.
        torch: attribute of `torch` that holds it, or None.
        numpy: the numpy type with the same bytes, or None where numpy has none.
        block: elements and bytes of one block, for quantized types; the innermost axis is cut into blocks.
    """

    name: str
    kind: str
    bits: int | float
    torch: str | None = None
    numpy: str | None = None
    block: tuple[int, int] | None = None

    @property
    def is_float(self) -> bool:
        """Whether elements are parameters: real, complex or quantized numbers."""
        return self.kind in ("float", "complex", "quantized")


_PLAIN = (
    DType("F64", "float", 64, "float64", "<f8"),
    DType("F32", "float", 32, "float32", "<f4"),
    DType("F16", "float", 16, "float16", "<f2"),
    DType("BF16", "float", 16, "bfloat16"),
    DType("F8_E4M3", "float", 8, "float8_e4m3fn"),
    DType("F8_E5M2", "float", 8, "float8_e5m2"),
    DType("F8_E8M0", "float", 8, "float8_e8m0fnu"),
    DType("F8_E4M3FNUZ", "float", 8, "float8_e4m3fnuz"),
    DType("F8_E5M2FNUZ", "float", 8, "float8_e5m2fnuz"),
    DType("F6_E2M3", "float", 6),
    DType("F6_E3M2", "float", 6),
    DType("F4", "float", 4, "float4_e2m1fn_x2"),
    DType("C64", "complex", 64, "complex64", "<c8"),
    DType("C128", "complex", 128, "complex128", "<c16"),
    DType("I64", "int", 64, "int64", "<i8"),
    DType("I32", "int", 32, "int32", "<i4"),
    DType("I16", "int", 16, "int16", "<i2"),
    DType("I8", "int", 8, "int8", "<i1"),
    DType("U64", "uint", 64, "uint64", "<u8"),
    DType("U32", "uint", 32, "uint32", "<u4"),
    DType("U16", "uint", 16, "uint16", "<u2"),
    DType("U8", "uint", 8, "uint8", "|u1"),
    DType("BOOL", "bool", 8, "bool", "|b1"),
)
# GGUF's block formats: elements and bytes of a block (ggml's type_size and blck_size).
_QUANTIZED = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q8_1": (32, 36),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210), "Q8_K": (256, 292),
    "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74), "IQ3_XXS": (256, 98), "IQ1_S": (256, 50), "IQ4_NL": (32, 18), "IQ3_S": (256, 110),
    "IQ2_S": (256, 82), "IQ4_XS": (256, 136), "IQ1_M": (256, 56), "TQ1_0": (256, 54), "TQ2_0": (256, 66), "MXFP4": (32, 17),
    "NVFP4": (64, 36), "Q1_0": (128, 18),
}  # fmt: skip

DTYPES: dict[str, DType] = {d.name: d for d in _PLAIN} | {
    name: DType(name, "quantized", 8 * size / count, block=(count, size)) for name, (count, size) in _QUANTIZED.items()
}


def dtype(name: str) -> DType:
    """Look an element type up by its name."""
    if name not in DTYPES:
        raise UnknownNameError.of("dtype", name, DTYPES)
    return DTYPES[name]


def from_numpy(kind: np.dtype[Any]) -> DType:
    """Find the element type with the bytes of a numpy dtype, in little-endian order."""
    little = kind.newbyteorder("<").str
    for candidate in _PLAIN:
        if candidate.numpy is not None and np.dtype(candidate.numpy).str == little:
            return candidate
    raise FormatError(
        f"expected numbers or booleans, found numpy dtype '{kind}'", reason="unsupported", advice="store the array in a plain numeric dtype"
    )


def from_torch(name: str) -> DType:
    """Find the element type by torch's name for it, with or without the `torch.` in front.

    Example:
        >>> from_torch("torch.bfloat16").name
        'BF16'
    """
    short = name.removeprefix("torch.")
    for candidate in _PLAIN:
        if candidate.torch == short:
            return candidate
    raise FormatError(f"torch dtype '{short}' is not one that checkpoints carry", reason="unsupported", advice="convert the tensor first")


def numel(shape: Sequence[int]) -> int:
    """Count the elements of a shape; a scalar has one."""
    return math.prod(shape)


def num_bytes(kind: DType, shape: Sequence[int]) -> int:
    """Count the bytes that a tensor of this type and (logical) shape takes, packed types rounded up to whole bytes."""
    count = numel(shape)
    if kind.block is not None:
        elements, size = kind.block
        return count // elements * size
    return -(-count * int(kind.bits) // 8)


def _minifloat(exponent_bits: int, mantissa_bits: int, *, bias: int, nan: str, signed: bool = True) -> npt.NDArray[np.float32]:
    """Tabulate every value of a small float format; `nan` says which codes are not finite (OCP and FNUZ conventions)."""
    bits = exponent_bits + mantissa_bits + signed
    code = np.arange(1 << bits)
    exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    value = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    top = exponent == (1 << exponent_bits) - 1
    if nan == "ieee":
        value = np.where(top, np.where(fraction == 0, np.inf, np.nan), value)
    elif nan == "fn":
        value = np.where(top & (code & ((1 << mantissa_bits) - 1) == (1 << mantissa_bits) - 1), np.nan, value)
    value = np.where((code >> (bits - 1)) & 1 == 1, -value, value) if signed else value
    if nan == "fnuz":
        value[1 << (bits - 1)] = np.nan
    return value.astype(np.float32)


def _e8m0() -> npt.NDArray[np.float32]:
    value = np.ldexp(1.0, np.arange(256) - 127)
    value[255] = np.nan
    return value.astype(np.float32)


_TABLES: dict[str, Callable[[], npt.NDArray[np.float32]]] = {
    "F8_E4M3": lambda: _minifloat(4, 3, bias=7, nan="fn"),
    "F8_E5M2": lambda: _minifloat(5, 2, bias=15, nan="ieee"),
    "F8_E4M3FNUZ": lambda: _minifloat(4, 3, bias=8, nan="fnuz"),
    "F8_E5M2FNUZ": lambda: _minifloat(5, 2, bias=16, nan="fnuz"),
    "F8_E8M0": _e8m0,
    "F6_E2M3": lambda: _minifloat(2, 3, bias=1, nan="none"),
    "F6_E3M2": lambda: _minifloat(3, 2, bias=3, nan="none"),
    "F4": lambda: _minifloat(2, 1, bias=1, nan="none"),
}


@lru_cache
def value_table(name: str) -> npt.NDArray[np.float32] | None:
    """Tabulate the value of every code of a float format of 8 bits or fewer; None for other formats."""
    return _TABLES[name]() if name in _TABLES else None


def codes(raw: Bytes, kind: DType) -> Bytes:
    """Unpack the codes of a small float format, one a byte; the low bits of a byte come first."""
    if kind.bits == 8:
        return raw
    if kind.bits == 4:
        return np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)
    bits = np.unpackbits(raw, bitorder="little")
    return np.packbits(bits[: bits.size // 6 * 6].reshape(-1, 6), axis=-1, bitorder="little").reshape(-1)


def decode(raw: Bytes, kind: DType) -> npt.NDArray[Any]:
    """Turn little-endian bytes into a flat numpy array of numbers; formats that numpy lacks become float32.

    Raises:
        MissingDependencyError: a quantised format, and the gguf package, which knows its blocks, is not installed.
        FormatError: a quantised format that the gguf package cannot expand.
    """
    if kind.numpy is not None:
        return raw.view(kind.numpy)
    if kind.name == "BF16":
        shifted: npt.NDArray[np.float32] = np.left_shift(raw.view("<u2"), 16, dtype=np.uint32).view(np.float32)
        return shifted
    if not raw.size:
        return np.empty(0, np.float32)
    table = value_table(kind.name)
    return _dequantized(raw, kind) if table is None else table[codes(raw, kind)]


def _dequantized(raw: Bytes, kind: DType) -> npt.NDArray[np.float32]:
    try:
        import gguf
    except ImportError:
        raise MissingDependencyError.of("gguf", f"expanding {kind.name} blocks", "gguf") from None
    try:
        size = kind.block[1] if kind.block else 1
        blocks = raw.reshape(raw.size // size, size)
        with np.errstate(all="ignore"):  # a block's scale may be infinite
            made = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind.name])
    except (NotImplementedError, KeyError):
        advice = "read .raw(name) instead"
        raise FormatError(f"the installed gguf package cannot expand dtype '{kind.name}'", reason="unsupported", advice=advice) from None
    return np.ascontiguousarray(made, np.float32).reshape(-1)


def widened(tensor: "torch.Tensor") -> "torch.Tensor":
    """A float tensor in float32, or as it is where it is wider; numbers that are packed in pairs come one by one, along the last axis."""
    import torch

    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    if tensor.dtype == getattr(torch, "float4_e2m1fn_x2", None):  # which torch converts to nothing
        values = decode(tensor.cpu().contiguous().view(torch.uint8).numpy().reshape(-1), dtype("F4"))
        return torch.from_numpy(values).reshape(*tensor.shape[:-1], -1).to(tensor.device)
    return tensor.to(torch.float32)
