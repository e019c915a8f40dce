"""Methods that look at data or at matrices, written again in float64 numpy: slow, plain, and independent of what they judge."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Evidence = Mapping[str, Sequence[Array | None]]


def each(value: Any, count: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * count if len(values) == 1 else values


def uniform_soup(tensors: list[Array], base: Array | None, chance: Any, **parameters: Any) -> Array:
    return np.asarray(np.mean(np.stack(tensors), 0))


def smear(tensors: list[Array], base: Array | None, chance: Any, *, score: Any, temperature: float = 1.0) -> Array:
    scores = np.array(each(score, len(tensors))) / temperature
    shares = np.exp(scores - scores.max())
    return np.tensordot(shares / shares.sum(), np.stack(tensors), 1)


def fisher(
    tensors: list[Array], base: Array | None, chance: Any, *, weight: Any = 1.0, floor: float = 0.0, evidence: Evidence | None = None
) -> Array:
    weights = np.array(each(weight, len(tensors)))
    found = (evidence or {}).get("fisher")
    if found is None or found[0] is None:
        return np.tensordot(weights / weights.sum(), np.stack(tensors), 1)
    made = np.empty(tensors[0].shape)
    for place in np.ndindex(*made.shape):
        importance = weights * [max(one[place], floor) for one in found if one is not None]
        importance = importance if importance.any() else weights
        made[place] = np.average([tensor[place] for tensor in tensors], weights=importance)
    return made


def regmean(
    tensors: list[Array],
    base: Array | None,
    chance: Any,
    *,
    weight: Any = 1.0,
    ratio: float = 0.9,
    ridge: float = 1e-6,
    evidence: Evidence | None = None,
) -> Array:
    weights = np.array(each(weight, len(tensors)))
    average = np.tensordot(weights / weights.sum(), np.stack(tensors), 1)
    found = (evidence or {}).get("gram")
    if found is None or found[0] is None:
        return average
    turned = found[0].ndim == 3
    shrunk = []
    for one in found:
        assert one is not None
        matrix = one.reshape(one.shape[-2:])
        shrunk.append(ratio * matrix + (1 - ratio) * np.diag(np.diag(matrix)))
    flat = [(one if turned else one.reshape(len(one), -1).T) for one in tensors]
    total = sum(w * g for w, g in zip(weights, shrunk, strict=True))
    pull = ridge * np.trace(total) / len(total)
    if not pull:
        return average
    mean = average if turned else average.reshape(len(average), -1).T
    right = sum(w * g @ x for w, g, x in zip(weights, shrunk, flat, strict=True)) + pull * mean
    solved = np.linalg.solve(total + pull * np.eye(len(total)), right)
    return (solved if turned else solved.T).reshape(average.shape)


def deltas(tensors: list[Array], base: Array | None) -> tuple[Array, list[Array]]:
    assert base is not None
    return base, [tensor - base for tensor in tensors]


def decomposed(matrix: Array, rank: int | None = None, size: float | None = None) -> list[tuple[float, Array, Array]]:
    """The directions of a matrix that have a size: value, left, right."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    floor = np.finfo(np.float32).eps * max(matrix.shape) * (values[0] if size is None else size)
    return [(values[at], left[:, at], right[at]) for at in range(len(values)) if values[at] > floor][:rank]


def whitened(columns: list[Array]) -> Array:
    """`C (C^T C)^(-1/2)`, by the pseudo-inverse root."""
    matrix = np.stack(columns, 1)
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    roots = np.array([one**-0.5 if one > 1e-10 * values.max() else 0.0 for one in values])
    made: Array = matrix @ (vectors * roots) @ vectors.T
    return made


def tsv(tensors: list[Array], base: Array | None, chance: Any, **parameters: Any) -> Array:
    base, changes = deltas(tensors, base)
    if base.ndim < 2:
        return np.asarray(base + parameters.get("lambda", 1.0) * np.mean(changes, 0))
    matrices = [change.reshape(len(base), -1) for change in changes]
    rank = max(1, min(matrices[0].shape) // len(matrices))
    parts = [part for matrix in matrices for part in decomposed(matrix, rank)]
    if not parts:
        return base.copy()
    left, right = whitened([one for _, one, _ in parts]), whitened([one for _, _, one in parts])
    merged = sum(value * np.outer(left[:, at], right[:, at]) for at, (value, _, _) in enumerate(parts))
    return np.asarray(base + parameters.get("lambda", 1.0) * np.reshape(merged, base.shape))


def isotropic(parts: list[tuple[float, Array, Array]], base: Array, scale: float) -> Array:
    if not parts:
        return base.copy()
    merged = whitened([one for _, one, _ in parts]) @ whitened([one for _, _, one in parts]).T
    return base + scale * np.mean([value for value, _, _ in parts]) * merged.reshape(base.shape)


def iso_c(tensors: list[Array], base: Array | None, chance: Any, **parameters: Any) -> Array:
    base, changes = deltas(tensors, base)
    if base.ndim < 2:
        return np.asarray(base + parameters.get("lambda", 1.0) * np.mean(changes, 0))
    return isotropic(decomposed(np.sum(changes, 0).reshape(len(base), -1)), base, parameters.get("lambda", 1.0))


def iso_cts(tensors: list[Array], base: Array | None, chance: Any, *, common_space_fraction: float = 0.8, **parameters: Any) -> Array:
    base, changes = deltas(tensors, base)
    if base.ndim < 2:
        return np.asarray(base + parameters.get("lambda", 1.0) * np.mean(changes, 0))
    matrices = [change.reshape(len(base), -1) for change in changes]
    rank = min(matrices[0].shape)
    own = round((rank - int(rank * common_space_fraction)) / len(matrices))
    parts = decomposed(np.sum(matrices, 0), max(0, rank - own * len(matrices)))
    span = np.stack([one for _, one, _ in parts], 1) if parts else np.zeros((len(base), 0))
    specific = [part for matrix in matrices for part in decomposed(matrix - span @ span.T @ matrix, own, float(np.linalg.norm(matrix)))]
    return isotropic(parts + specific, base, parameters.get("lambda", 1.0))


def trimmed(part: Array, density: float) -> Array:
    smallest = np.sort(np.abs(part), axis=None)[-max(1, int(density * part.size))]
    return np.where(np.abs(part) >= smallest, part, 0)


def elected(parts: list[Array], weights: Sequence[float], normalize: bool) -> Array:
    """TIES, entry by entry."""
    made = np.zeros(parts[0].shape)
    for place in np.ndindex(*made.shape):
        values = [w * part[place] for w, part in zip(weights, parts, strict=True)]
        sign = 1 if sum(values) >= 0 else -1
        agreed = [at for at, value in enumerate(values) if value * sign > 0]
        divisor = sum(weights[at] for at in agreed) if normalize else 1.0
        made[place] = sum(values[at] for at in agreed) / (divisor if abs(divisor) >= 1e-8 else 1.0)
    return made


def knots(
    tensors: list[Array],
    base: Array | None,
    chance: Any,
    *,
    weight: Any = 1.0,
    density: Any = 1.0,
    normalize: bool = True,
    merge: str = "ties",
    **parameters: Any,
) -> Array:
    base, changes = deltas(tensors, base)
    given = zip(changes, each(weight, len(tensors)), each(density, len(tensors)), strict=True)
    there = [(change, w, d) for change, w, d in given if w]
    if not there:
        return base.copy()
    weights, densities = [w for _, w, _ in there], [d for _, _, d in there]
    matrices = [change.reshape(len(base), -1) if base.ndim > 1 else change for change, _, _ in there]
    parts, basis = matrices, np.eye(1)
    if base.ndim > 1:
        common = decomposed(np.concatenate(matrices, 1))
        if not common:
            return base.copy()
        basis = np.stack([left for _, left, _ in common], 1)
        parts = [basis.T @ matrix for matrix in matrices]
    parts = [trimmed(part, d) for part, d in zip(parts, densities, strict=True)]
    if merge == "ties":
        merged: Any = elected(parts, weights, normalize)
    else:
        merged = sum(np.multiply(w, part) for w, part in zip(weights, parts, strict=True)) / (sum(weights) if normalize else 1.0)
    made = basis @ merged if base.ndim > 1 else merged
    return np.asarray(base + parameters.get("lambda", 1.0) * made.reshape(base.shape))


REFERENCES: dict[str, Callable[..., Array]] = {
    "fisher": fisher,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "knots": knots,
    "regmean": regmean,
    "smear": smear,
    "tsv": tsv,
    "uniform_soup": uniform_soup,
}
