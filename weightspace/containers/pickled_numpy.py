"""numpy's arrays, scalars and dtypes as they stand in a pickle, read without calling numpy's rebuild functions."""

from typing import Any

import numpy as np

from weightspace.containers.pickles import Call, Global, Value
from weightspace.errors import FormatError

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFER_MODULES = ("numpy.core.numeric", "numpy._core.numeric")


def is_array(value: Value) -> bool:
    """Whether a call makes a numpy array."""
    function = value.function if isinstance(value, Call) else None
    if not isinstance(function, Global):
        return False
    named = (function.module, function.name)
    return named in {(m, "_reconstruct") for m in _ARRAY_MODULES} | {(m, "_frombuffer") for m in _BUFFER_MODULES}


def is_scalar(value: Value) -> bool:
    """Whether a call makes a numpy scalar."""
    function = value.function if isinstance(value, Call) else None
    return isinstance(function, Global) and function.module in _ARRAY_MODULES and function.name == "scalar"


def array(value: Call) -> np.ndarray[Any, np.dtype[Any]]:
    """Take a numeric array out of its pickle, in little-endian C order.

    Raises:
        FormatError: not numeric, or its bytes do not fit its shape.
    """
    if value.function.name == "_frombuffer":  # protocol 5: (buffer, dtype, shape, order)
        raw, kind, shape, order = value.args
        fortran = order == "F"
    else:  # state: (version, shape, dtype, is Fortran order, bytes)
        if not isinstance(value.state, tuple) or len(value.state) != 5:
            raise FormatError("a numpy array has no state", advice="copy or download it again")
        _, shape, kind, fortran, raw = value.state
    found = dtype_of(kind)
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise FormatError("a numpy array holds Python objects", reason="needs-code", advice="save it in a plain numeric dtype")
    if found.itemsize * int(np.prod(shape, dtype=object)) != len(raw):
        raise FormatError(
            f"a numpy array of shape {shape} and dtype '{found}' has {len(raw)} bytes", reason="corrupt", advice="copy or download it again"
        )
    made = np.frombuffer(raw, found).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(made, found.newbyteorder("<")).reshape(shape)


def scalar(value: Call) -> int | float | complex | bool:
    """Take a numeric scalar out of its pickle.

    Raises:
        FormatError: not numeric, or damaged.
    """
    kind, raw = value.args
    found = dtype_of(kind)
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes) or len(raw) != found.itemsize:
        raise FormatError("a numpy scalar is damaged", advice="copy or download it again")
    made: int | float | complex | bool = np.frombuffer(raw, found)[0].item()
    return made


def dtype_of(value: Value) -> np.dtype[Any]:
    """Understand `numpy.dtype('f4', False, True)` with its state, or a class of `numpy.dtypes`; numbers and booleans only."""
    code, big = "", False
    if isinstance(value, Call) and isinstance(value.function, Global):
        if value.function.name == "dtype" and value.args and isinstance(value.args[0], str):
            code = value.args[0]
        if isinstance(value.state, tuple) and len(value.state) > 1 and isinstance(value.state[1], str):
            big = value.state[1] == ">"
    if code[:1] not in "biufc" or not code[1:].isdigit():
        raise FormatError(
            f"a numpy array has the dtype '{code or 'object'}', expected numbers",
            reason="unsupported",
            advice="save it in a plain numeric dtype",
        )
    return np.dtype(code).newbyteorder(">" if big else "<")
