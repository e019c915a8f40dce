"""The compiled assignment kernel `_lapjv.c`, where the install found a C compiler to build it with."""

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weightspace.errors import MissingDependencyError

FOLDER = Path(__file__).parent
LARGEST = 1e30  # the kernel's bounds are floats, which costs beyond this could overflow and costs below its inverse underflow


def is_compiled() -> bool:
    """Whether the kernel is there."""
    return _library() is not None


def solve_compiled(cost: npt.NDArray[np.floating], maximise: bool) -> npt.NDArray[np.int64]:
    """The column of each row by the compiled kernel: the best there is for the costs in float32.

    Args:
        cost: shape (rows, columns), finite, rows <= columns.
        maximise: whether the sum is to be large.

    Raises:
        MissingDependencyError: the kernel is not built.
    """
    path = _library()
    if path is None:
        raise MissingDependencyError(
            "solver 'lapjv' needs a kernel that was not built with this install; install weightspace again where there is a C compiler, "
            "or take solver 'scipy'"
        )
    peak = max(float(cost.max()), -float(cost.min()))
    if peak and (cost.dtype == np.float64 or not 1 / LARGEST < peak < LARGEST):
        cost = cost / peak
    values = np.ascontiguousarray(cost, np.float32)
    taken = np.empty(len(values), np.int64)
    rows, columns = (ctypes.c_int64(size) for size in values.shape)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (values, taken))
    costs, out = pointers
    if _load(path).lapjv(rows, columns, costs, ctypes.c_int(maximise), out):
        raise MemoryError(f"no memory to assign {values.shape[0]} rows to {values.shape[1]} columns")
    return taken


def _library() -> Path | None:
    """The kernel's file."""
    paths = (FOLDER / f"_lapjv{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.exists()), None)


@cache
def _load(path: Path) -> Any:
    return ctypes.CDLL(str(path))
