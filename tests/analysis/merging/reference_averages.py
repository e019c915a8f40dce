"""Averages, paths on spheres and their like, written again in float64 numpy: slow, plain, and independent of what they judge."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def each(value: Any, count: int) -> list[float]:
    return list(value) if isinstance(value, Sequence) else [value] * count


def norm(vector: Array) -> float:
    return float(np.sqrt((vector * vector).sum()))


def unit(vector: Array) -> Array:
    return vector / norm(vector) if vector.any() else vector


def linear(tensors: list[Array], base: Array | None, chance: Any, *, weight: Any, normalize: bool = True) -> Array:
    weights = each(weight, len(tensors))
    total = sum((w * x for w, x in zip(weights, tensors, strict=True)), np.zeros_like(tensors[0]))
    return total / sum(weights) if normalize else total


def interpolated(a: Array, b: Array, t: float, straight: float) -> Array:
    cosine = min(max(float((unit(a) * unit(b)).sum()), -1.0), 1.0)
    if abs(cosine) > straight:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    made: Array = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return made


def slerp(tensors: list[Array], base: Array | None, chance: Any, *, t: float) -> Array:
    assert base is not None
    return interpolated(base, tensors[0], t, 0.9995)


def nuslerp(
    tensors: list[Array],
    base: Array | None,
    chance: Any,
    *,
    weight: Any,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Array:
    first, second = each(weight, 2)
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    origin = np.zeros_like(tensors[0]) if base is None else base
    a, b = (tensor - origin for tensor in tensors)
    if nuslerp_flatten or a.ndim == 0:
        return origin + interpolated(a, b, t, 1 - 1e-6)
    axis = 0 if nuslerp_row_wise else a.ndim - 1
    made = np.empty_like(a)
    for place in np.ndindex(*(size for number, size in enumerate(a.shape) if number != axis)):
        line = (*place[:axis], slice(None), *place[axis:])
        made[line] = interpolated(a[line], b[line], t, 1 - 1e-6)
    return origin + made


def multislerp(
    tensors: list[Array], base: Array | None, chance: Any, *, weight: Any, normalize_weights: bool = True, eps: float = 1e-8
) -> Array:
    """With the step along the tangents, which comes to nothing."""
    origin = np.zeros_like(tensors[0]) if base is None else base
    points = [tensor - origin for tensor in tensors]
    weights = np.array(each(weight, len(tensors)))
    weights = weights / weights.sum() if normalize_weights else weights
    units = [point / (norm(point) + eps) for point in points]
    mean = sum((w * u for w, u in zip(weights, units, strict=True)), np.zeros_like(origin))
    if norm(mean) < eps:
        return origin + sum((w * p for w, p in zip(weights, points, strict=True)), np.zeros_like(origin))
    mean = unit(mean)
    tangent = sum((w * (u - (u * mean).sum() * mean) for w, u in zip(weights, units, strict=True)), np.zeros_like(origin))
    length = norm(tangent) + 1e-30
    direction = np.cos(length) * mean + np.sin(length) / length * tangent
    return np.asarray(origin + sum(w * norm(p) for w, p in zip(weights, points, strict=True)) * direction)


def karcher(tensors: list[Array], base: Array | None, chance: Any, *, max_iter: int = 10, tol: float = 1e-5) -> Array:
    units = [unit(tensor) for tensor in tensors if tensor.any()]
    if not units:
        return np.zeros_like(tensors[0])
    mean = np.mean(np.stack(units), 0)
    mean = units[0] if norm(mean) < tol else unit(mean)
    for _ in range(max_iter):
        step = np.zeros_like(mean)
        for one in units:
            cosine = min(max(float((one * mean).sum()), -1.0), 1.0)
            angle = np.arccos(cosine)
            if tol <= angle <= np.pi - tol:
                step = step + angle / np.sin(angle) * (one - cosine * mean) / len(units)
        if norm(step) < tol:
            break
        mean = unit(np.cos(norm(step)) * mean + np.sin(norm(step)) * unit(step))
    return np.asarray(np.mean([norm(tensor) for tensor in tensors]) * mean)


def model_stock(tensors: list[Array], base: Array | None, chance: Any, *, filter_wise: bool = False) -> Array:
    assert base is not None
    if filter_wise and base.ndim > 1:
        rows = [model_stock([tensor[row] for tensor in tensors], base[row], chance, filter_wise=True) for row in range(len(base))]
        return np.stack(rows) if rows else base
    deltas, count = [tensor - base for tensor in tensors], len(tensors)
    cosine = np.mean([(unit(deltas[i]) * unit(deltas[j])).sum() for i in range(count) for j in range(i)])
    below = 1 + (count - 1) * cosine
    share = 0.0 if abs(below) < 1e-6 else count * cosine / below
    return np.asarray(share * np.mean(np.stack(tensors), 0) + (1 - share) * base)


def nearswap(tensors: list[Array], base: Array | None, chance: Any, *, t: float) -> Array:
    assert base is not None
    (other,) = tensors
    distance = np.abs(other - base)
    weight = np.minimum(t / np.where(distance > 0, distance, 1.0), 1.0)
    return weight * other + (1 - weight) * base


def softmax(values: Array) -> Array:
    made = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(made / made.sum(-1, keepdims=True))


def arcee_fusion(tensors: list[Array], base: Array | None, chance: Any) -> Array:
    assert base is not None
    shape = base.shape
    new, old = np.atleast_1d(tensors[0]), np.atleast_1d(base)
    if not new.size:
        return base
    p, q = softmax(new) + 1e-8, softmax(old) + 1e-8
    importance = np.abs(new - old) * np.maximum((p * np.log(p / q)).sum(-1, keepdims=True), 0)
    ranked = np.sort(importance.ravel())
    lower, median, upper = (ranked[int(share * (len(ranked) - 1))] for share in (0.25, 0.5, 0.75))
    return np.where(importance >= median + 1.5 * (upper - lower), new, old).reshape(shape)


def passthrough(tensors: list[Array], base: Array | None, chance: Any, *, scale: Any = 1.0) -> Array:
    return each(scale, 1)[0] * tensors[0]


def ram(tensors: list[Array], base: Array | None, chance: Any, *, epsilon: float = 1e-5) -> Array:
    return ramplus(tensors, base, chance, r=0.0, epsilon=epsilon)


def ramplus(tensors: list[Array], base: Array | None, chance: Any, *, r: float = 0.1, alpha: float = 0.2, epsilon: float = 1e-5) -> Array:
    assert base is not None
    deltas = np.stack(tensors) - base
    active = np.abs(deltas) > epsilon
    count = active.sum(0)
    scales = []
    for one in active:
        alone, together = (one & (count == 1)).sum(), (one & (count > 1)).sum()
        scales.append(1 + r * min(together / max(alone, 1), alpha))
    made = np.array(base)
    for place in np.ndindex(*base.shape):
        who = [index for index in range(len(tensors)) if active[(index, *place)]]
        if len(who) == 1:
            made[place] += scales[who[0]] * deltas[(who[0], *place)]
        elif who:
            made[place] += np.mean([deltas[(index, *place)] for index in who])
    return made


REFERENCES: dict[str, Callable[..., Array]] = {
    "linear": linear,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
    "passthrough": passthrough,
    "ram": ram,
    "ramplus": ramplus,
    "ramplus_tl": ramplus,
}
