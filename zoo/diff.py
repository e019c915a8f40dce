"""What changed between two checkpoints, tensor by tensor."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.storage import Storage, read

MAX_RANK_ELEMENTS = 1 << 20  # the rank of a difference is computed up to a matrix of this many elements (1024 x 1024)

STATUSES = ("changed", "cast", "reshaped", "resized", "renamed", "moved", "added", "removed", "same")


@dataclass(frozen=True)
class TensorDiff:
    """One tensor in two checkpoints, A and B.

    Attributes:
        status: `same`; `moved` (same name and content, another place in the order); `renamed` (same content, other name);
            `reshaped` (same bytes in another shape); `cast` (another dtype); `resized` (other number of elements);
            `changed`; `added` (only in B); `removed` (only in A).
        name: its name in A, or in B where A has none.
        new_name: its name in B when that differs.
        a: what A's header says, if A has it.
        b: what B's header says, if B has it.
        relative_l2: |b - a| / |a| over all elements, for equal numbers of elements; None otherwise or where A is all zero.
        cosine: of the two tensors as vectors; None where one is all zero or holds NaN.
        max_abs: largest absolute difference.
        rank: numerical rank of b - a, for matrices of at most `MAX_RANK_ELEMENTS` elements.
    """

    status: str
    name: str
    new_name: str | None = None
    a: TensorInfo | None = None
    b: TensorInfo | None = None
    relative_l2: float | None = None
    cosine: float | None = None
    max_abs: float | None = None
    rank: int | None = None


def diff(a: Checkpoint, b: Checkpoint) -> Iterator[TensorDiff]:
    """Compare two checkpoints and yield every tensor once, in A's order, then what only B has.

    Contents are compared by hash, so only tensors that differ are held in memory, two at a time.
    """
    left, right = a.tensor_hashes, b.tensor_hashes
    common_a, common_b = ([name for name in one.info if name in other.info] for one, other in ((a, b), (b, a)))
    order_b = {name: at for at, name in enumerate(common_b)}
    order_a = {name: at for at, name in enumerate(common_a)}
    unclaimed: dict[bytes, list[str]] = {}
    for name in b.info:
        if name not in a.info:
            unclaimed.setdefault(right[name], []).append(name)
    renamed: set[str] = set()
    for name, info in a.info.items():
        if name in b.info:
            if left[name] == right[name]:
                status = "same" if order_a[name] == order_b[name] else "moved"
                yield TensorDiff(status, name, a=info, b=b.info[name], relative_l2=0.0)
            else:
                yield _compared(name, a, b)
            continue
        twins = unclaimed.get(left[name])
        if twins:
            new_name = twins.pop(0)
            renamed.add(new_name)
            yield TensorDiff("renamed", name, new_name, a=info, b=b.info[new_name], relative_l2=0.0)
        else:
            yield TensorDiff("removed", name, a=info)
    for name, info in b.info.items():
        if name not in a.info and name not in renamed:
            yield TensorDiff("added", name, b=info)


def _compared(name: str, a: Checkpoint, b: Checkpoint) -> TensorDiff:
    info, other = a.info[name], b.info[name]
    if info.numel != other.numel or "complex" in (dtypes.dtype(info.dtype).kind, dtypes.dtype(other.dtype).kind):
        return TensorDiff("resized" if info.numel != other.numel else "changed", name, a=info, b=other)
    x, y = values(info, a.storages[name]), values(other, b.storages[name])
    with np.errstate(all="ignore"):
        delta = y - x
        size, other_size, change = (float(np.sqrt(np.dot(v, v))) for v in (x, y, delta))
        cosine = float(np.dot(x, y)) / (size * other_size) if size and other_size else None
    max_abs = float(np.max(np.abs(delta))) if delta.size else 0.0
    finite = np.isfinite(change) and np.isfinite(size)
    if info.dtype != other.dtype:
        status = "cast"
    elif info.shape != other.shape and max_abs == 0:
        status = "reshaped"
    else:
        status = "changed"
    return TensorDiff(
        status,
        name,
        a=info,
        b=other,
        relative_l2=change / size if finite and size else None,
        cosine=max(-1.0, min(1.0, cosine)) if cosine is not None and np.isfinite(cosine) else None,
        max_abs=max_abs if np.isfinite(max_abs) else None,
        rank=_rank(delta.reshape(info.shape)) if finite and info.shape == other.shape else None,
    )


def _rank(delta: npt.NDArray[np.float64]) -> int | None:
    """Numerical rank of a matrix (convolutions by output channel), where that is cheap."""
    if delta.ndim < 2 or not 0 < delta.size <= MAX_RANK_ELEMENTS:
        return None
    matrix = delta.reshape(delta.shape[0], -1)
    singular = np.linalg.svd(matrix, compute_uv=False)
    # Differences of float32 weights carry their rounding, about 1e-7 of the weights: what lies under 1e-5 of the top is noise.
    return int(np.count_nonzero(singular > max(singular[0] * 1e-5, np.finfo(np.float64).tiny)))


def values(info: TensorInfo, storage: Storage) -> npt.NDArray[np.float64]:
    """Read a tensor as a flat float64 array; quantised ones are expanded."""
    flat = dtypes.decode(np.frombuffer(read(storage), np.uint8), dtypes.dtype(info.dtype))
    return np.asarray(flat[: info.numel], dtype=np.float64)
