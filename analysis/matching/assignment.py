"""The linear assignment problem: send rows to columns so that what the pairs are worth adds up to the most (or the least)."""

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weightspace.analysis.matching.compiled import solve_compiled
from weightspace.analysis.matching.sparse_core import solve_core
from weightspace.errors import ShapeMismatchError, SymmetryError, UnknownNameError

Solver = Callable[[npt.NDArray[np.floating], bool], npt.NDArray[np.int64]]

CHOICE = "WEIGHTSPACE_ASSIGNMENT"
"""The environment variable that names the solver wherever a caller names none."""

CORE_FROM = 512  # rows, from which a sparse core is faster than the dense solver: measured


def assign(cost: Tensor, *, maximise: bool = True, solver: str | None = None) -> Tensor:
    """Solve the linear assignment problem exactly.

    Args:
        cost: what each pair is worth, shape (*batch, rows, columns); finite, of any float dtype, on any device.
        maximise: whether the sum over the pairs is to be large; small otherwise.
        solver: `scipy`, or `lapjv`, the compiled kernel, which takes costs in float32. By default what the environment variable
            `WEIGHTSPACE_ASSIGNMENT` says, `scipy` if it says nothing.

    Returns:
        The column of each row as int64 on the CPU, shape (*batch, rows); where there are more rows than columns, -1 for those left over.

    Raises:
        ShapeMismatchError: the cost has fewer than two axes.
        SymmetryError: the cost is not finite.
        UnknownNameError: no solver has this name.
        MissingDependencyError: the compiled kernel was asked for and is not built.

    Example:
        >>> assign(torch.tensor([[1.0, 5.0], [4.0, 6.0]]))
        tensor([1, 0])
    """
    name = solver or os.environ.get(CHOICE) or "scipy"
    if name not in SOLVERS:
        raise UnknownNameError.of("assignment solver", name, SOLVERS)
    if cost.dim() < 2:
        raise ShapeMismatchError(f"an assignment needs a cost of shape (rows, columns), not {list(cost.shape)}; add the missing axis")
    wide = cost.detach().to("cpu", torch.float64 if cost.dtype == torch.float64 else torch.float32)
    values = np.ascontiguousarray(wide.numpy())
    out = np.full(values.shape[:-1], -1, np.int64)
    if values.size:
        for place in np.ndindex(values.shape[:-2]):
            out[place] = _solve_one(values[place], maximise, SOLVERS[name])
    return torch.from_numpy(out)


def _solve_one(cost: npt.NDArray[np.floating], maximise: bool, solve: Solver) -> npt.NDArray[np.int64]:
    """Solve one problem, lying on its side if it has more rows than columns."""
    if not (np.isfinite(cost.max()) and np.isfinite(cost.min())):
        raise SymmetryError("an assignment needs finite costs, but there is a NaN or an infinity among these; look for it in the weights")
    rows, columns = cost.shape
    if rows <= columns:
        return solve(cost, maximise)
    taken = solve(np.ascontiguousarray(cost.T), maximise)
    out = np.full(rows, -1, np.int64)
    out[taken] = np.arange(columns)
    return out


def solve_scipy(cost: npt.NDArray[np.floating], maximise: bool) -> npt.NDArray[np.int64]:
    """The column of each row by scipy: on a sparse core where the problem is large and square, dense otherwise.

    Args:
        cost: shape (rows, columns), rows <= columns.
        maximise: whether the sum is to be large.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = cost.shape
    if rows == columns >= CORE_FROM:
        found = solve_core(-cost if maximise else cost)
        if found is not None:
            return found
    taken: npt.NDArray[np.int64] = linear_sum_assignment(cost.astype(np.float64), maximize=maximise)[1]
    return taken.astype(np.int64)


SOLVERS: Mapping[str, Solver] = MappingProxyType({"scipy": solve_scipy, "lapjv": solve_compiled})
