"""Pairs: which block of one network is followed by which of another in a family of stitched networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from weightspace.analysis.stitching.chain import Chain
from weightspace.errors import AnalysisError, UnknownNameError

PAIRS = ("nearest", "all")
WINDOWS = ("all", "forward", "every")
KERNEL = 2  # blocks a window


@dataclass(frozen=True)
class Join:
    """Where one network ends and another begins, in blocks: what stands between two cuts, so the stem is none and the head neither.

    Attributes:
        front: the last block that runs of the front.
        end: the first that runs of the end; 0 is the one behind its stem.
        group: joins of one group stand close together, and may share a layer.
    """

    front: int
    end: int
    group: int

    @property
    def cuts(self) -> tuple[int, int]:
        """The cut behind the front's block, and the one before the end's, which for block 0 is that behind the stem."""
        return self.front + 1, self.end


def windows(depth: int, *, forward: bool = False) -> list[Join]:
    """Joins of two networks of one depth: within windows of two blocks, moved one by one (Pan et al., arXiv:2302.06586, section 3.2).

    Each belongs to the first window that has it.

    Args:
        depth: blocks of each network.
        forward: take only those that skip nothing and run nothing twice, j < k, as the paper does for networks with stages.

    Example:
        >>> len(windows(12)), len(windows(12, forward=True)), len({one.group for one in windows(12)})
        (34, 11, 11)
    """
    found: dict[tuple[int, int], Join] = {}
    for first in range(max(depth - KERNEL, 0) + 1):
        blocks = range(first, min(first + KERNEL, depth))
        for front in blocks:
            for end in blocks:
                if front < end or not forward:
                    found.setdefault((front, end), Join(front, end, first))
    return list(found.values())


def interpolated(front: int, end: int) -> list[Join]:
    """Joins of networks of two depths: each block of the deeper one with that at the same relative depth of the other.

    As in Pan et al. (arXiv:2302.06586), where the front is the shallower: block j of it with every block k of the end to which nearest interpolation
    assigns it, and j < k. A front that is deeper (our addition) is treated the other way round, without what would begin at block 0.

    Args:
        front: blocks of the front.
        end: blocks of the end.

    Example:
        >>> [(one.front, one.end) for one in interpolated(2, 4)]
        [(0, 1), (1, 2), (1, 3)]
    """
    if front <= end:
        return [Join(k * front // end, k, k * front // end) for k in range(end) if k * front // end < k]
    return [Join(j, j * end // front, j) for j in range(front) if j * end // front > 0]


def every(front: int, end: int) -> list[Join]:
    """All joins, each a group of its own."""
    return [Join(j, k, j * end + k) for j in range(front) for k in range(end)]


def joins(front: Chain, end: Chain, window: str = "all") -> list[Join]:
    """Joins of two networks; inside each stage, where both have as many, and stages are several.

    A stage is a row of blocks that give equally many places (pixels, tokens). From one stage into another nothing is joined.

    Args:
        front: the first.
        end: the other.
        window: `all` or `forward` (see `windows`, where depths are equal), or `every`: each block with each, stages or not.

    Raises:
        UnknownNameError: there is no such window.
        AnalysisError: a network has one cut alone, or nothing is joined.
    """
    if window not in WINDOWS:
        raise UnknownNameError.of("window", window, WINDOWS)
    depths = [len(one.cuts) - 1 for one in (front, end)]
    if min(depths) < 1:
        raise AnalysisError("a network of a family needs two cuts or more, found one; take a deeper network, or name the cuts by hand")
    if window == "every":
        return every(*depths)
    stages = _stages(front), _stages(end)
    if len(stages[0]) != len(stages[1]) or len(stages[0]) == 1:
        found = _within(range(depths[0]), range(depths[1]), window)
    else:
        found = []
        for ours, theirs in zip(*stages, strict=True):
            shift = 1 + max((one.group for one in found), default=-1)
            inside = _within(ours, theirs, window)
            found += [Join(one.front, one.end, one.group + shift) for one in inside if one.end > theirs.start or _is_level(end, one.end)]
    if not found:
        raise AnalysisError(
            f"no blocks to join between networks of {depths[0]} and {depths[1]} blocks; take window='every', or deeper ones"
        )
    return found


def neighbours(sizes: Sequence[float], pairs: str = "nearest") -> list[tuple[int, int]]:
    """Which networks are joined, the smaller to the larger always: neighbours in the order of sizes, or all.

    Args:
        sizes: of the networks, their FLOPs.
        pairs: `nearest` or `all`.

    Raises:
        UnknownNameError: there is no such choice.
    """
    if pairs not in PAIRS:
        raise UnknownNameError.of("choice of pairs", pairs, PAIRS)
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    return list(pairwise(order) if pairs == "nearest" else combinations(order, 2))


def _within(front: range, end: range, window: str) -> list[Join]:
    """Joins between two rows of blocks."""
    equal = len(front) == len(end)
    found = windows(len(front), forward=window == "forward") if equal else interpolated(len(front), len(end))
    return [Join(one.front + front.start, one.end + end.start, one.group) for one in found]


def _stages(chain: Chain) -> list[range]:
    """The blocks of each stage."""
    starts = [0] + [at for at in range(1, len(chain.cuts) - 1) if chain.cuts[at].places != chain.cuts[at + 1].places]
    return [range(start, stop) for start, stop in pairwise([*starts, len(chain.cuts) - 1])]


def _is_level(chain: Chain, block: int) -> bool:
    """Whether a block takes as many places as it gives."""
    return chain.cuts[block].places == chain.cuts[block + 1].places


__all__ = ["PAIRS", "WINDOWS", "Join", "every", "interpolated", "joins", "neighbours", "windows"]
