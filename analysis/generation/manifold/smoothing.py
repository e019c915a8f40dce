"""Smoothing: the order of the neurons in which a network's weights vary least from one to the next.

NeuMeta (Yang and Wang, ECCV 2024, arXiv:2410.11878), the permutation along a shortest Hamiltonian path: neurons are cities, the distance of two
is the sum of absolute differences of all weights that belong to them. Groups do not disturb each other, since distances along one
axis stay the same when another is reordered. We depart in the search: nearest neighbours from several starts, then segments
reversed (2-opt) and moved (Or-opt) while that shortens the path.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.metanets.layout import Layout, Slot
from weightspace.spec import MATRIX
from weightspace.symmetry import Symmetry, act_on_tensor

STARTS = 32
"""Cities from which a path of nearest neighbours is begun."""

LONGEST_MOVED = 3
"""Cities of the longest segment that is moved elsewhere."""


def smoothing(tensors: Mapping[str, Tensor], layout: Layout, groups: Sequence[str] | None = None) -> Symmetry:
    """Find the element of the symmetry group that makes a network's weights vary least along its groups.

    Args:
        tensors: of one network, by name; those that are left out do not count.
        layout: of its architecture.
        groups: those to be reordered; all permutable ones by default.

    Returns:
        Permutations alone: the function stays as it is.

    Example:
        >>> from weightspace.spec import SymmetrySpec
        >>> layout = Layout.of(SymmetrySpec.parse({"bias": "h"}, sizes={"h": 4}))
        >>> smoothing({"bias": torch.tensor([0., 3., 1., 2.])}, layout).actions["h"].index.tolist() in ([0, 2, 3, 1], [1, 3, 2, 0])
        True
    """
    spec = layout.spec
    found = spec.identity()
    inner_first = sorted(
        layout.groups, key=lambda name: -len(spec.parents(name))
    )  # how far parents are apart depends on their children's order
    for name in inner_first:
        group = spec.groups[name]
        if group.kind != "permutable" or group.size < 2 or group.symmetry in MATRIX or (groups is not None and name not in groups):
            continue
        moved = {tensor: act_on_tensor(found, tensor, values) for tensor, values in tensors.items()}
        apart = distances(moved, layout, name)
        paths = torch.stack([shortest_path(one) for one in apart])
        found = spec.element({name: paths.reshape(layout.node_shape(name))}) @ found
    return found


def total_variation(tensors: Mapping[str, Tensor], layout: Layout, groups: Sequence[str] | None = None) -> float:
    """Sum of absolute differences between the weights of neighbouring members of permutable groups (or of those given)."""
    chosen = [name for name, group in layout.groups.items() if group.kind == "permutable"] if groups is None else groups
    return sum(float(distances(tensors, layout, name).diagonal(1, 1, 2).sum()) for name in chosen)


def distances(tensors: Mapping[str, Tensor], layout: Layout, group: str) -> Float[Tensor, "copies members members"]:
    """How far each two members of a group are apart: the sum of absolute differences of all weights that belong to them.

    Args:
        tensors: of one network.
        layout: of its architecture.
        group: a name; where it is `per` others there are distances for each of their members.
    """
    shape = layout.node_shape(group)
    total = torch.zeros(int(np.prod(shape[:-1])), shape[-1], shape[-1], dtype=torch.float64)
    for slot, values in _slots(tensors, layout):
        for j, name in enumerate(slot.groups):
            if name == group:
                chain = slot.chain(j)
                rows = values.movedim(chain, tuple(range(len(chain)))).reshape(len(total), shape[-1], -1)
                total += torch.cdist(rows, rows, p=1).cpu()
    return total


def _slots(tensors: Mapping[str, Tensor], layout: Layout) -> Iterator[tuple[Slot, Tensor]]:
    own = Layout(layout.spec, tuple(slot for slot in layout.slots if slot.tensor in tensors))
    values = own.unfold({name: tensor[None].double() for name, tensor in tensors.items()})
    return ((slot, values[slot.key][0]) for slot in own.slots)


def shortest_path(apart: Float[Tensor, "cities cities"]) -> Int[Tensor, " cities"]:
    """Order cities along a path through all of them that is short: no reversed or moved segment makes it shorter.

    Args:
        apart: distances, symmetric.
    """
    if len(apart) < 3:
        return torch.arange(len(apart))
    lengths = np.pad(apart.double().cpu().numpy(), ((1, 0), (1, 0)))  # a city next to all the others makes a tour of the path
    tours = sorted(_neighbours(lengths), key=lambda tour: _length(lengths, tour))[:3]
    best = min((_improved(lengths, tour) for tour in tours), key=lambda tour: _length(lengths, tour))
    return torch.from_numpy(best[1:] - 1)


def _neighbours(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Tours that begin at the extra city, then anywhere, and go on to the nearest city left."""
    cities = len(lengths) - 1
    for start in np.unique(np.linspace(1, cities, min(STARTS, cities)).astype(int)):
        tour, left = [0, int(start)], np.ones(len(lengths), dtype=bool)
        left[tour] = False
        while left.any():
            tour.append(int(np.where(left, lengths[tour[-1]], np.inf).argmin()))
            left[tour[-1]] = False
        yield np.array(tour)


def _length(lengths: np.ndarray, tour: np.ndarray) -> float:
    return float(lengths[tour, np.roll(tour, -1)].sum())


def _improved(lengths: np.ndarray, tour: np.ndarray) -> np.ndarray:
    """Reverse or move the segment that shortens the tour most, until none does."""
    enough = 1e-9 * (_length(lengths, tour) + 1e-30)
    while True:
        between = lengths[np.ix_(tour, tour)]
        gain, changed = max((_reversal(between), _move(between)), key=lambda found: found[0])
        if gain <= enough:
            return tour
        tour = tour[changed]


def _reversal(between: np.ndarray) -> tuple[float, np.ndarray]:
    """The best segment to reverse: what it gains, and the new order of the places."""
    after = np.roll(between, -1, 1)
    step = after.diagonal()
    gains = step[:, None] + step - between - np.roll(after, -1, 0)
    gains[np.tril_indices(len(gains), 1)] = 0
    i, j = np.unravel_index(gains.argmax(), gains.shape)
    places = np.arange(len(between))
    return float(gains[i, j]), np.concatenate([places[: i + 1], places[i + 1 : j + 1][::-1], places[j + 1 :]])


def _move(between: np.ndarray) -> tuple[float, np.ndarray]:
    """The best short segment to move between two other places, perhaps reversed: what it gains, and the new order of the places."""
    n = len(between)
    places = np.arange(n)
    after = (places + 1) % n
    step = between[places, after]
    best, order = 0.0, places
    for length in range(1, min(LONGEST_MOVED, n - 2) + 1):
        first = np.arange(1, n - length + 1)
        last, beyond = first + length - 1, (first + length) % n
        removed = between[first - 1, first] + between[last, beyond] - between[first - 1, beyond]
        for flip in (False, True):
            head, tail = (last, first) if flip else (first, last)
            gains = removed[:, None] + step - between[head] - between[tail][:, after]
            gains[(places >= first[:, None] - 1) & (places <= last[:, None])] = 0
            at, k = np.unravel_index(gains.argmax(), gains.shape)
            if gains[at, k] > best:
                best = float(gains[at, k])
                part = places[first[at] : last[at] + 1]
                rest = np.delete(places, part)
                cut = int(np.searchsorted(rest, k)) + 1
                order = np.concatenate([rest[:cut], part[::-1] if flip else part, rest[cut:]])
    return best, order


__all__ = ["distances", "shortest_path", "smoothing", "total_variation"]
