"""Partition: each network of a zoo in consecutive blocks, the blocks of all in sets of those that do the same."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.reassembly.assembly import Block
from weightspace.errors import AnalysisError

Stretch = tuple[int, int]
"""The first part of a block, and the one after its last."""


@dataclass(frozen=True)
class Partition:
    """Networks in blocks, and these in equivalence sets.

    Attributes:
        blocks: of each network, in order.
        sets: the first holds the blocks that begin at an input, the last those that end at an output; those between are in the order of how deep
            their blocks lie on average.
        centres: of each set the block to which all others of it are most similar in sum.
        similarity: of all blocks to their centres, summed.
        left_out: networks with fewer parts than blocks are wanted.
    """

    blocks: Mapping[str, tuple[Block, ...]]
    sets: tuple[tuple[Block, ...], ...]
    centres: tuple[Block, ...]
    similarity: float
    left_out: tuple[str, ...] = ()

    @cached_property
    def set_of(self) -> Mapping[Block, int]:
        """In which set a block is."""
        return {block: at for at, members in enumerate(self.sets) for block in members}

    def follows(self, one: Block, other: Block) -> bool:
        """Whether a block may come behind another: it is in the set of the block that does so in that one's own network."""
        own = self.blocks[one.network]
        return self.set_of[own[own.index(one) + 1]] == self.set_of[other]


def partition(
    chains: Mapping[str, Chain],
    table: Tensor,
    rows: Mapping[tuple[str, int], int],
    *,
    blocks: int = 4,
    slack: float = 0.2,
    starts: int = 20,
    generator: torch.Generator | None = None,
) -> Partition:
    """Cut each network into blocks and group these, so that blocks are similar to the centre of their set.

    DeRy (Yang et al., Deep Model Reassembly, arXiv:2210.17409, section 3.2), from many random starts, of which the best is kept: centres, then
    sets, then boundaries, until nothing rises. Two blocks are as similar as what crosses before them and what crosses behind them, on average.
    We depart in two ways. A block at an input can stand nowhere but first, one at an output nowhere but last, so these two sets are given, and only
    those between are found. The boundaries of a network are not moved one at a time: the best ones for given centres are found at once, by
    dynamic programming.

    Args:
        chains: networks by name.
        table: similarity of each cut with each other; NaN counts as 0.
        rows: which row a cut has.
        blocks: to each network.
        slack: a block has at most `ceil(parts / blocks) (1 + slack)` parts.
        starts: random beginnings.
        generator: draws them.

    Raises:
        AnalysisError: fewer than two blocks, a negative slack, or fewer than two networks that have so many parts.
    """
    if blocks < 2:
        raise AnalysisError(f"expected two blocks or more to a network, found {blocks}; give at least 2")
    if not slack >= 0:
        raise AnalysisError(f"expected a slack of 0 or more, found {slack}; give one such as 0.2")
    fit = {name: chain for name, chain in chains.items() if len(chain.parts) >= blocks}
    if len(fit) < 2:
        most = max((len(chain.parts) for chain in chains.values()), default=0)
        raise AnalysisError(
            f"expected two networks or more of at least {blocks} parts, found {len(fit)} (the most parts are {most}); give other networks, or ask for fewer blocks"
        )
    generator = generator or torch.Generator().manual_seed(0)
    search = _Search(fit, table.nan_to_num(0.0).tolist(), rows, blocks, slack)
    found = max((search.run(generator) for _ in range(max(1, starts))), key=lambda one: one.similarity)
    return replace(found, left_out=tuple(name for name in chains if name not in fit))


class _Search:
    """One zoo, searched from several starts."""

    def __init__(
        self,
        chains: Mapping[str, Chain],
        table: Sequence[Sequence[float]],
        rows: Mapping[tuple[str, int], int],
        blocks: int,
        slack: float,
    ) -> None:
        self.parts = {name: len(chain.parts) for name, chain in chains.items()}
        self.rows, self.table, self.blocks = rows, table, blocks
        self.longest = {name: math.floor(math.ceil(count / blocks) * (1 + slack)) for name, count in self.parts.items()}

    def run(self, generator: torch.Generator) -> Partition:
        """Rise from a random start: random boundaries, and as centre of each set the block that a random network has there."""
        names = list(self.parts)
        cuts = {name: self._best(name, lambda at, stretch: float(torch.rand((), generator=generator)))[1] for name in names}
        drawn = [names[int(at)] for at in torch.randint(len(names), (self.blocks,), generator=generator)]
        centres = [self._block(name, cuts[name][at]) for at, name in enumerate(drawn)]
        before = -math.inf
        while True:
            found = {name: self._best(name, partial(self._worth, name, centres)) for name in names}
            total, cuts = sum(value for value, _ in found.values()), {name: row for name, (_, row) in found.items()}
            sets: list[list[Block]] = [[] for _ in range(self.blocks)]
            for name in names:
                for at, stretch in enumerate(cuts[name]):
                    block = self._block(name, stretch)
                    sets[self._nearest(block, at, centres)[1]].append(block)
            if total <= before + 1e-9:
                break
            before = total
            centres = [self._centre(members, centre) for members, centre in zip(sets, centres, strict=True)]
        blocks = {name: tuple(self._block(name, stretch) for stretch in cuts[name]) for name in names}
        return self._ordered(blocks, sets, centres, total)

    def _best(self, name: str, worth: Callable[[int, Stretch], float]) -> tuple[float, list[Stretch]]:
        """The blocks of one network that are worth most in sum, by dynamic programming over where each begins."""
        parts, longest = self.parts[name], self.longest[name]
        reached: dict[int, tuple[float, list[Stretch]]] = {0: (0.0, [])}
        for at in range(self.blocks):
            left = self.blocks - at - 1
            after: dict[int, tuple[float, list[Stretch]]] = {}
            for start, (value, row) in reached.items():
                for stop in range(start + 1, min(start + longest, parts - left) + 1):
                    if parts - stop > left * longest:  # what is left must fit too
                        continue
                    total = value + worth(at, (start, stop))
                    if stop not in after or total > after[stop][0]:
                        after[stop] = total, [*row, (start, stop)]
            reached = after
        return reached[parts]

    def _worth(self, name: str, centres: Sequence[Block], at: int, stretch: Stretch) -> float:
        """How similar a stretch of a network would be to its centre."""
        return self._nearest(self._block(name, stretch), at, centres)[0]

    def _nearest(self, block: Block, at: int, centres: Sequence[Block]) -> tuple[float, int]:
        """How similar a block is to its centre, and which one that is."""
        places = (at,) if at in (0, self.blocks - 1) else range(1, self.blocks - 1)
        value, place = max((self._similarity(block, centres[place]), -place) for place in places)
        return value, -place

    def _similarity(self, one: Block, other: Block) -> float:
        values = []
        if one.start >= 0 and other.start >= 0:
            values.append(self.table[self.rows[one.network, one.start]][self.rows[other.network, other.start]])
        if one.stop is not None and other.stop is not None:
            values.append(self.table[self.rows[one.network, one.stop]][self.rows[other.network, other.stop]])
        return sum(values) / len(values)

    def _centre(self, members: Sequence[Block], before: Block) -> Block:
        """The block to which a set is most similar; an empty set keeps the one that it had."""
        return max([before, *members], key=lambda one: sum(self._similarity(one, other) for other in members))

    def _block(self, name: str, stretch: Stretch) -> Block:
        return Block(name, stretch[0] - 1, None if stretch[1] == self.parts[name] else stretch[1] - 1)

    def _ordered(
        self, blocks: Mapping[str, tuple[Block, ...]], sets: Sequence[Sequence[Block]], centres: Sequence[Block], total: float
    ) -> Partition:
        """Sets in the order of how deep their blocks lie on average."""

        def depth(at: int) -> float:
            members = sets[at] or [centres[at]]
            return sum((one.start + 1) / self.parts[one.network] for one in members) / len(members)

        order = [0, *sorted(range(1, self.blocks - 1), key=depth), self.blocks - 1]
        return Partition(blocks, tuple(tuple(sets[at]) for at in order), tuple(centres[at] for at in order), total)


__all__ = ["Partition", "partition"]
