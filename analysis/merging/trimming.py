"""Keeping the entries of a delta whose magnitudes lie between two thresholds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, prod

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Slab, Slabs
from weightspace.analysis.merging.selection import kth_largest
from weightspace.analysis.merging.task_vectors import delta_of, deltas


@dataclass(frozen=True)
class Band:
    """Magnitudes that are kept, both ends included; all of them unless said otherwise.

    Attributes:
        low: the smallest.
        high: the largest.
        scale: what the kept entries are multiplied by.
    """

    low: float = 0.0
    high: float = inf
    scale: float = 1.0

    def keep(self, delta: Tensor) -> Tensor:
        """Set to zero what lies outside, and scale the rest; the delta may be overwritten."""
        made = delta
        if self.low > 0:
            # hardshrink keeps what is larger than its bound, five times as fast as multiplying with a mask.
            bound = torch.nextafter(torch.tensor(self.low, dtype=delta.dtype), torch.zeros((), dtype=delta.dtype)).item()
            made = torch.nn.functional.hardshrink(made, bound)
        if self.high < inf:
            made = made - torch.nn.functional.hardshrink(delta, self.high)
        return made if self.scale == 1 else made.mul_(self.scale)


Places = tuple[int, int]
"""Which entries of a delta are kept: from the first rank of magnitude to the last, both included; 1 is the largest."""


def trimmed(slab: Slab, bands: Sequence[Band]) -> Iterator[Tensor]:
    """The deltas of a slab, each within its band, one after another: new tensors, that may be overwritten."""
    for delta, band in zip(deltas(slab), bands, strict=True):
        yield band.keep(delta)


def find_bands(slabs: Slabs, places: Callable[[int, int], Places | None], inputs: int, rescale: bool) -> tuple[Band, ...]:
    """Find the thresholds between which the delta of each input is kept.

    All magnitudes that equal a threshold are kept: which entries are does not depend on where they stand.

    Args:
        slabs: of one tensor.
        places: what to keep of an input, given its number and the number of entries; None for everything, last before first for nothing.
        inputs: how many there are.
        rescale: whether to give each delta the sum of magnitudes that it had before.
    """
    entries = prod(slabs.shape)
    wanted = {index: place for index in range(inputs) if entries and (place := places(index, entries))}
    found = [Band(low=inf) if index in wanted else Band() for index in range(inputs)]
    sought = [index for index, (first, last) in wanted.items() if first <= last]
    if sought:
        thresholds = kth_largest(lambda: _magnitudes(slabs, sought), lambda series, _: wanted[sought[series]])
        for index, (high, low) in zip(sought, thresholds, strict=True):
            found[index] = Band(low, high if wanted[index][0] > 1 else inf)
    return _rescaled(slabs, found, sought) if rescale and sought else tuple(found)


def _rescaled(slabs: Slabs, bands: list[Band], sought: list[int]) -> tuple[Band, ...]:
    """The same bands, with the scales that keep the sums of magnitudes."""
    before, after = [0.0] * len(sought), [0.0] * len(sought)
    for magnitudes in _magnitudes(slabs, sought):
        for place, magnitude in enumerate(magnitudes):
            before[place] += magnitude.sum().item()
            after[place] += bands[sought[place]].keep(magnitude).sum().item()
    for place, index in enumerate(sought):
        bands[index] = replace(bands[index], scale=ratio(before[place], after[place]))
    return tuple(bands)


def _magnitudes(slabs: Slabs, inputs: Sequence[int]) -> Iterator[list[Tensor]]:
    for slab in slabs:
        yield [delta_of(slab, index).abs_() for index in inputs]


def ratio(before: float, after: float) -> float:
    """What brings a sum back to what it was; 1 where nothing is left."""
    return before / after if after > 0 else 1.0
