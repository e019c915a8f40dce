"""The methods that combine task vectors, written again in float64 numpy: slow, plain, and independent of what they judge."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from weightspace.analysis.merging.chance import Chance

Array = np.ndarray[Any, np.dtype[np.float64]]
Sparsify = Callable[[int, Array], Array]


def each(value: Any, count: int) -> list[float]:
    return list(value) if isinstance(value, Sequence) else [value] * count


def summed(parts: list[Array], weights: list[float], normalize: bool) -> Array:
    total = np.sum([w * part for w, part in zip(weights, parts, strict=True)], axis=0)
    divisor = sum(weights)
    return np.asarray(total / divisor if normalize and abs(divisor) >= 1e-8 else total)


def elected(parts: list[Array], weights: list[float], normalize: bool, votes: list[Array] | None = None) -> Array:
    made = np.zeros(parts[0].shape)
    for place in np.ndindex(*made.shape):
        voices = [w * part[place] for w, part in zip(weights, parts, strict=True)]
        sign = 1 if sum(voices if votes is None else [vote[place] for vote in votes]) >= 0 else -1
        agree = [index for index, voice in enumerate(voices) if voice * sign > 0]
        divisor = sum(weights[index] for index in agree)
        made[place] = sum(voices[index] for index in agree) / (divisor if normalize and abs(divisor) > 1e-7 * sum(map(abs, weights)) else 1)
    return made


def rescaled(before: Array, after: Array, wanted: bool) -> Array:
    left = np.abs(after).sum()
    return after * (np.abs(before).sum() / left) if wanted and left > 0 else after


def between(delta: Array, first: int, last: int) -> Array:
    """Keep the ranks of magnitude from `first` to `last`, the largest being 1, and all that equal these."""
    if last < first:
        return np.zeros_like(delta)
    descending = np.sort(np.abs(delta), axis=None)[::-1]
    return np.where((np.abs(delta) <= descending[first - 1]) & (np.abs(delta) >= descending[last - 1]), delta, 0.0)


def all_of_it(chance: Chance, count: int, **_: Any) -> Sparsify:
    return lambda index, delta: delta


def trimming(chance: Chance, count: int, *, density: Any = 1.0, rescale: bool = False, **_: Any) -> Sparsify:
    def trim(index: int, delta: Array) -> Array:
        share = each(density, count)[index]
        kept = max(1, int(share * delta.size)) if share > 0 else 0
        return delta if share >= 1 or not delta.size else rescaled(delta, between(delta, 1, kept), rescale)

    return trim


def crumbling(chance: Chance, count: int, *, density: Any = 1.0, gamma: Any = 0.01, rescale: bool = False, **_: Any) -> Sparsify:
    def crumble(index: int, delta: Array) -> Array:
        share = each(density, count)[index]
        if share >= 1 or not delta.size:
            return delta
        kept = max(1, int(share * delta.size)) if share > 0 else 0
        smallest = max(0, delta.size - kept - int(each(gamma, count)[index] * delta.size))
        last = delta.size - smallest
        return rescaled(delta, between(delta, last - kept + 1, last), rescale)

    return crumble


def dropping(chance: Chance, count: int, *, density: Any = 1.0, rescale: bool = True, rescale_by: str = "norm", **_: Any) -> Sparsify:
    def drop(index: int, delta: Array) -> Array:
        share = each(density, count)[index]
        if share >= 1:
            return delta
        kept = delta * chance.keeps(index, delta.shape, share).numpy()
        if rescale_by == "density":
            return np.asarray(kept / share if rescale and share > 0 else kept)
        return rescaled(delta, kept, rescale)

    return drop


def pruning(chance: Chance, count: int, *, density: Any = 1.0, epsilon: Any = 0.15, rescale: bool = True, **_: Any) -> Sparsify:
    def prune(index: int, delta: Array) -> Array:
        share, spread = each(density, count)[index], each(epsilon, count)[index]
        if share >= 1 or not delta.size:
            return delta
        rows = delta[None] if delta.ndim == 1 else delta
        if delta.ndim == 0 or rows.shape[1] == 1 or spread == 0 or share == 0:
            return rescaled(delta, delta * chance.keeps(index, delta.shape, share).numpy(), rescale)
        draws = chance.uniform(index, delta.shape).double().numpy().reshape(rows.shape)
        kept = np.zeros_like(rows)
        for place in np.ndindex(*rows.shape):
            row = np.abs(rows[(place[0], slice(None), *place[2:])])
            below, upto = (row < abs(rows[place])).sum(), (row <= abs(rows[place])).sum() - 1
            bound = (draws[place] - (share - spread)) / (2 * spread) * (rows.shape[1] - 1)
            rank = upto if bound % 1 < 0.5 else below
            kept[place] = rows[place] * (rank > np.floor(bound))
        return rescaled(delta, kept.reshape(delta.shape), rescale)

    return prune


def family(sparsifying: Callable[..., Sparsify], combine: Callable[..., Array], normalized: bool) -> Callable[..., Array]:
    def reference(tensors: list[Array], base: Array | None, chance: Chance, **parameters: Any) -> Array:
        assert base is not None
        sparsify = sparsifying(chance, len(tensors), **parameters)
        parts = [sparsify(index, np.asarray(tensor - base)) for index, tensor in enumerate(tensors)]
        combined = combine(parts, each(parameters["weight"], len(tensors)), parameters.get("normalize", normalized))
        return np.asarray(base + parameters.get("lambda", 1.0) * combined)

    return reference


def sce(
    tensors: list[Array], base: Array | None, chance: Chance, *, select_topk: float = 1.0, floor: float = 1e-6, int8_mask: bool = False
) -> Array:
    assert base is not None
    parts = np.stack([tensor - base for tensor in tensors])
    if select_topk < 1 and base.size:
        # Around the first model: equal numbers have no variance then, whatever the rounding.
        spread = (parts - parts[0]).var(axis=0)
        kept = int(select_topk * (spread > 0).sum())
        parts = parts * (spread >= np.sort(spread, axis=None)[-kept]) if kept else parts * 0
    squares = (parts**2).reshape(len(tensors), -1).sum(axis=1)
    flat = squares.sum() == 0 or squares.sum() < floor * base.size
    coefficients = [1 / len(tensors)] * len(tensors) if flat else list(squares / squares.sum())
    return np.asarray(base + elected(list(parts), coefficients, True, votes=list(parts)))


REFERENCES: dict[str, Callable[..., Array]] = {
    "task_arithmetic": family(all_of_it, summed, False),
    "ties": family(trimming, elected, True),
    "dare_linear": family(dropping, summed, False),
    "dare_ties": family(dropping, elected, False),
    "della": family(pruning, elected, True),
    "della_linear": family(pruning, summed, False),
    "breadcrumbs": family(crumbling, summed, False),
    "breadcrumbs_ties": family(crumbling, elected, False),
    "sce": sce,
}
