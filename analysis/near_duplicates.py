"""Near-duplicates: models that differ so little from an earlier one that storing the difference would save most of their bytes.

Which models are worth comparing is told by statistics that a catalog has, so that few are read: a tensor's mean and deviation alone bound
from below how far two models are apart.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, tensor_bytes
from weightspace.errors import AnalysisError

Statistics = Mapping[str, Mapping[str, Mapping[str, float | int | None]]]
"""By model, then by tensor: `numel`, `mean`, `std`, ... of its elements, as the catalog's table `tensors` has them."""

LEVEL: Final = 3
"""Level of zstd: its own default."""
SLICE: Final = 1 << 22  # bytes that are compressed at once
WITHIN: Final = 0.5
"""How far apart two models may be at least, as a share of the larger one's norm, to be compared."""


@dataclass(frozen=True)
class Difference:
    """What one model would take as a difference from another.

    Attributes:
        stored: bytes of its tensors as they are, tied ones once.
        alone: bytes of them compressed without the other.
        delta: bytes of the compressed difference.
        changed: share of its elements whose bits differ.
    """

    stored: int
    alone: int
    delta: int
    changed: float

    @property
    def saved(self) -> int:
        """Bytes that storing the difference saves, against the model as it is."""
        return self.stored - self.delta

    @property
    def share(self) -> float:
        """Share of its bytes that the difference saves beyond what compression alone does."""
        return (self.alone - self.delta) / self.stored if self.stored else 0.0


@dataclass(frozen=True)
class NearDuplicate:
    """A model, the earlier one that it is stored best as a difference from, and that difference."""

    model: str
    base: str
    difference: Difference

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        found = self.difference
        return {
            "model": self.model,
            "base": self.base,
            "saved_bytes": found.saved,
            "bytes": found.stored,
            "delta_bytes": found.delta,
            "alone_bytes": found.alone,
            "changed": found.changed,
        }


def candidates(statistics: Statistics, *, neighbours: int = 6, within: float = WITHIN) -> list[tuple[str, str]]:
    """Pairs of an earlier and a later model that may be near each other, without reading weights.

    For a tensor of n elements, `|a - b|^2 >= n (mean_a - mean_b)^2 + n (std_a - std_b)^2`: the squared difference of the means is that of
    the parts along ones, and the deviations are the norms of what is left. Summed over tensors this is a squared distance between vectors of
    `sqrt(n) mean` and `sqrt(n) std`, in which neighbours are found by a tree.

    Args:
        statistics: by model, in the order in which they came; models with unknown means or deviations are left out.
        neighbours: of each model, at most.
        within: see `WITHIN`.

    Returns:
        Pairs (earlier, later), nearest bounds first for each later model.
    """
    from scipy.spatial import KDTree

    place = {name: at for at, name in enumerate(statistics)}
    found: list[tuple[str, str]] = []
    for names, points in _groups(statistics):
        norms = np.linalg.norm(points, axis=1)
        distances, indices = KDTree(points).query(points, k=min(neighbours + 1, len(names)))
        pairs: dict[tuple[int, int], float] = {}
        for at, (row, reached) in enumerate(zip(np.atleast_2d(distances), np.atleast_2d(indices), strict=True)):
            for distance, other in zip(row, reached, strict=True):
                if other != at and distance <= within * max(norms[at], norms[other]):
                    first, last = sorted((at, int(other)), key=lambda one: place[names[one]])
                    pairs[first, last] = float(distance)
        found += [(names[first], names[last]) for first, last in sorted(pairs, key=lambda pair: (place[names[pair[1]]], pairs[pair]))]
    return found


def _groups(statistics: Statistics) -> list[tuple[list[str], npt.NDArray[np.float64]]]:
    """Models of one architecture with their vectors; single ones have no neighbours."""
    groups: dict[tuple[tuple[str, int], ...], tuple[list[str], list[list[float]]]] = {}
    for name, tensors in statistics.items():
        vector: list[float] = []
        for tensor in sorted(tensors):
            count, mean, std = (tensors[tensor].get(key) for key in ("numel", "mean", "std"))
            if count and mean is not None and std is not None:
                vector += [count**0.5 * mean, count**0.5 * std]
        if vector and np.isfinite(vector).all() and len(vector) == 2 * len(tensors):
            key = tuple((tensor, int(tensors[tensor]["numel"] or 0)) for tensor in sorted(tensors))
            names, vectors = groups.setdefault(key, ([], []))
            names.append(name)
            vectors.append(vector)
    return [(names, np.array(vectors)) for names, vectors in groups.values() if len(names) > 1]


def near_duplicates(pairs: Iterable[tuple[str, str]], opener: Callable[[str], Checkpoint], *, least: float = 0.2) -> list[NearDuplicate]:
    """For each later model of the pairs, the earlier one from which its difference is smallest, where that saves enough.

    As every base is earlier than what is stored as a difference from it, all of them can be stored so together.

    Args:
        pairs: an earlier and a later model, as from `candidates` or the edges of a lineage; pairs of one later model stand together or not.
        opener: opens a model by name.
        least: share of a model's bytes that has to be saved beyond what compression alone saves.

    Returns:
        The near-duplicates, those that save most first.
    """
    bases: dict[str, list[str]] = {}
    for base, model in pairs:
        bases.setdefault(model, []).append(base)
    found: list[NearDuplicate] = []
    for model, names in bases.items():
        later = opener(model)
        best = min((NearDuplicate(model, name, difference(opener(name), later)) for name in dict.fromkeys(names)), key=_delta)
        if best.difference.share >= least:
            found.append(best)
    return sorted(found, key=lambda one: (-one.difference.saved, one.model))


def _delta(found: NearDuplicate) -> int:
    return found.difference.delta


def difference(base: Checkpoint, model: Checkpoint) -> Difference:
    """Measure what a model takes as a difference from a base: bits that differ, by place in the element, compressed by zstd.

    A tensor that the base has in another float dtype is compared with the base's cast, so that a cast model takes nothing. What the base
    lacks, or has in another shape, is stored whole. Tensors are looked at one at a time; nothing is written.

    Raises:
        AnalysisError: the two have no tensor of one name and shape.

    Example:
        >>> import torch
        >>> one, other = {"w": torch.ones(1000)}, {"w": torch.ones(1000)}
        >>> other["w"][3] = 2
        >>> found = difference(Checkpoint.of(one), Checkpoint.of(other))
        >>> found.stored, found.delta < 100, found.changed
        (4000, True, 0.001)
    """
    if not any(name in base.info and base.info[name].shape == info.shape for name, info in model.info.items()):
        raise AnalysisError("the two models share no tensor of one name and shape; compare models of one architecture")
    stored = alone = delta = changed = elements = 0
    for name, info in model.info.items():
        if info.alias_of is not None or not info.nbytes:
            continue
        width = max(1, info.nbytes // max(1, info.numel))
        now = np.frombuffer(model.raw(name), np.uint8)
        before = _counterpart(base, model, name)
        itself = _compressed(now, width)
        stored, alone, elements = stored + info.nbytes, alone + itself, elements + info.numel
        if before is None:
            delta, changed = delta + itself, changed + info.numel
            continue
        bits = now ^ before
        if bits.any():
            # What changed all over is no smaller as a difference; what one writes then is the tensor itself.
            delta += min(itself, _compressed(bits, width))
            changed += int(bits.reshape(-1, width).any(1).sum()) if bits.size % width == 0 else info.numel
    return Difference(stored, alone, delta, changed / max(1, elements))


def _counterpart(base: Checkpoint, model: Checkpoint, name: str) -> npt.NDArray[np.uint8] | None:
    """The base's bytes of a tensor, in the model's dtype; None where it has none that can be compared."""
    if name not in base.info or base.info[name].shape != model.info[name].shape:
        return None
    ours, theirs = model.info[name].dtype, base.info[name].dtype
    if ours == theirs:
        return np.frombuffer(base.raw(name), np.uint8)
    if dtypes.dtype(ours).kind != "float" or dtypes.dtype(theirs).kind != "float":
        return None
    return np.frombuffer(tensor_bytes(base[name].to(model[name].dtype)), np.uint8)


def _compressed(data: npt.NDArray[np.uint8], width: int) -> int:
    """Bytes after compression, first bytes of all elements first: exponents lie together, where there is something to save."""
    import pyarrow as pa

    codec = pa.Codec("zstd", compression_level=LEVEL)
    step = SLICE - SLICE % width
    total = 0
    for start in range(0, len(data), step):
        part = data[start : start + step]
        planes = part.reshape(-1, width).T if len(part) % width == 0 else part
        total += min(len(part), codec.compress(np.ascontiguousarray(planes).tobytes()).size)
    return total


def saved_bytes(found: Sequence[NearDuplicate]) -> int:
    """Bytes that all of them save together."""
    return sum(one.difference.saved for one in found)
