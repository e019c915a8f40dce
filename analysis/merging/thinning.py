"""Keeping entries of a delta by chance: drawn once for a tensor, remembered as a bit each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weightspace.analysis.merging.method import Slab, Slabs
from weightspace.analysis.merging.selection import as_words
from weightspace.analysis.merging.task_vectors import as_factor, deltas
from weightspace.analysis.merging.trimming import ratio
from weightspace.errors import MergeError

Draw = Callable[[Slab, int, Tensor], Tensor | None]
"""Says which entries of a slab's delta of one input are kept, given the number of the input; None for all."""


@dataclass(frozen=True)
class Thinned:
    """What the draws for all slabs of a tensor came to.

    Attributes:
        scales: for each input what its kept entries are multiplied by.
        kept: a bit for each entry, for each input, by the first row of the slab; None where all are kept. A slab that is not here is
            drawn for when it is combined.
    """

    scales: tuple[float, ...]
    kept: dict[int, list[NDArray[np.uint8] | None]] = field(default_factory=dict)


def uniformly(density: Sequence[float]) -> Draw:
    """Keep each entry with the same probability, the density of its input."""

    def draw(slab: Slab, index: int, delta: Tensor) -> Tensor | None:
        return None if density[index] >= 1 else slab.chance.keeps(index, tuple(delta.shape), density[index]).to(delta.device)

    return draw


def by_rank(density: Sequence[float], epsilon: Sequence[float]) -> Draw:
    """Keep larger entries of a row with a higher probability: `density - epsilon` for its smallest to `density + epsilon` for its largest.

    In between the probability goes up evenly with the rank of the magnitude among the entries along axis 1; a tensor of one axis is one
    row. Equal magnitudes share the mean of their ranks, and an entry that is alone in its row is kept with its density.

    Raises:
        MergeError: a probability would not lie between 0 and 1.
    """
    for share, spread in zip(density, epsilon, strict=True):
        if 0 < share < 1 and not (share - spread > 0 and share + spread < 1):
            raise MergeError(
                f"density {share:g} and epsilon {spread:g} make probabilities from {share - spread:g} to {share + spread:g};"
                " expected them between 0 and 1, choose a smaller epsilon"
            )

    def draw(slab: Slab, index: int, delta: Tensor) -> Tensor | None:
        share, spread = density[index], epsilon[index]
        length = delta.shape[1] if delta.ndim > 1 else delta.numel()
        if not 0 < share < 1 or spread == 0 or length < 2 or not delta.numel():
            return uniformly(density)(slab, index, delta)
        chances = slab.chance.uniform(index, tuple(delta.shape)).to(delta.device)
        if delta.ndim < 2:
            return _among(delta[None], chances[None], share, spread)[0]
        kept = _among(delta.movedim(1, -1), chances.movedim(1, -1), share, spread)
        return kept.movedim(-1, 1)

    return draw


def _among(delta: Tensor, chances: Tensor, share: float, spread: float) -> Tensor:
    """Which entries are kept, by their rank along the last axis.

    An entry of rank r (from 0) is kept if its draw u lies under `share - spread + 2 spread r / (n - 1)`, so if r exceeds a bound t that
    follows from u. It need not be known what r is: the entry is compared with the one that has the rank after t, in the sorted row. For
    entries that are equal, of ranks a to b, one half of the draws asks whether b exceeds t and the other half whether a does.
    """
    length = delta.shape[-1]
    words = as_words(delta.abs()).reshape(-1, length)
    slope = (length - 1) / (2 * spread)
    halves = chances.reshape(-1, length).mul(2 * slope).sub_(2 * slope * (share - spread)).floor_().clamp_(-2, 2 * length - 1).int()
    strict = halves & 1
    ends = torch.iinfo(words.dtype)
    # The row with one more that everything exceeds and one that nothing does; both stay at their ends when sorted.
    row = torch.nn.functional.pad(words, (1, 1), value=-1)
    row[:, -1] = ends.max - 1
    bound = _sorted(row).gather(1, ((halves >> 1).add_(2).sub_(strict)).long()).add_(strict)
    return (words >= bound).reshape(delta.shape)


def _sorted(rows: Tensor) -> Tensor:
    """Sort along the last axis, in place; NumPy does so thirty times as fast as PyTorch on a CPU with AVX-512."""
    if rows.device.type != "cpu":
        return rows.sort(dim=-1).values
    rows.numpy().sort(axis=-1)
    return rows


def draw_all(slabs: Slabs, draw: Draw, inputs: int) -> Thinned:
    """Draw for all slabs, and find the scales that give each delta the sum of magnitudes that it had before."""
    before, after = [0.0] * inputs, [0.0] * inputs
    kept: dict[int, list[NDArray[np.uint8] | None]] = {}
    for slab in slabs:
        bits = kept[slab.chance.row] = []
        for index, delta in enumerate(deltas(slab)):
            mask = draw(slab, index, delta)
            bits.append(None if mask is None else np.packbits(mask.cpu().numpy()))
            if mask is not None:
                before[index] += delta.abs_().sum().item()
                after[index] += delta.mul_(as_factor(mask)).sum().item()
    return Thinned(tuple(map(ratio, before, after)), kept)


def thinned(slab: Slab, draw: Draw, drawn: Thinned) -> Iterator[Tensor]:
    """The deltas of a slab, each with what is kept of it, one after another: new tensors, that may be overwritten.

    Args:
        slab: of a tensor.
        draw: says what to keep where that was not drawn before.
        drawn: what was, and the scales.
    """
    bits = drawn.kept.get(slab.chance.row)
    for index, delta in enumerate(deltas(slab)):
        mask = draw(slab, index, delta) if bits is None else _unpacked(bits[index], delta)
        made = delta if mask is None else delta.mul_(as_factor(mask))
        yield made if drawn.scales[index] == 1 else made.mul_(drawn.scales[index])


def _unpacked(bits: NDArray[np.uint8] | None, like: Tensor) -> Tensor | None:
    return (
        None
        if bits is None
        else torch.from_numpy(np.unpackbits(bits, count=like.numel())).view(torch.bool).view(like.shape).to(like.device)
    )
