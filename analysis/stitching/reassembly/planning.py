"""Planning: which blocks of a zoo to put together under a budget, found without training anything."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.fitting import Bias, expect_bias
from weightspace.analysis.stitching.layer import stitches
from weightspace.analysis.stitching.patchwork import Patchwork, batch_like
from weightspace.analysis.stitching.reassembly.assembly import Assembly, Block
from weightspace.analysis.stitching.reassembly.building import assemble
from weightspace.analysis.stitching.reassembly.partition import Partition, partition
from weightspace.analysis.stitching.reassembly.program import Choice, Junction, Program
from weightspace.analysis.stitching.reassembly.proxy import naswot
from weightspace.analysis.stitching.reassembly.sizes import Size, part_sizes, stitch_size
from weightspace.analysis.stitching.reassembly.tables import tables_of
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task

SIMILARITIES = ("cka", "fit")
"""Debiased CKA, or the share of held-out variance that a linear fit explains; see `Tables`."""

SELECTIONS = ("score", "naswot", "loss", "random", "chance")
"""Which of the best solutions is taken: the first, the one with the highest NASWOT, the one with the lowest loss on the task once it is stitched,
or (a control) any one; `chance`, a control again, takes no notice of the score: blocks are drawn under the budgets alone."""


class Zoo:
    """What is measured of the networks of a zoo once, for plans under several budgets.

    Attributes:
        chains: the networks by name.
        task: the data.
        partition: blocks in sets.
        tables: similarities of all cuts.
        quality: of each network.
    """

    def __init__(
        self,
        chains: Mapping[str, Chain],
        task: Task,
        *,
        blocks: int = 4,
        similarity: str = "cka",
        samples: int = 256,
        slack: float = 0.2,
        starts: int = 20,
        quality: Mapping[str, float] | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Compare the networks and partition them; see `plan_reassembly` for the settings."""
        if similarity not in SIMILARITIES:
            raise UnknownNameError.of("similarity", similarity, SIMILARITIES)
        missing = next((name for name in chains if quality is not None and name not in quality), None)
        if missing is not None:
            raise AnalysisError(f"expected a quality for each network, found none for '{missing}'; give one, or none at all")
        self.chains, self.task = dict(chains), task
        self.tables = tables_of(chains, task, samples=samples, progress=progress)
        table = self.tables.cka if similarity == "cka" else (self.tables.fit + self.tables.fit.T) / 2
        self.partition: Partition = partition(
            chains, table, self.tables.rows, blocks=blocks, slack=slack, starts=starts, generator=generator
        )
        self.quality = dict(quality) if quality is not None else network_qualities(chains, task)
        batch = batch_like(task.batches)
        self.sizes = {name: part_sizes(chain, batch) for name, chain in chains.items()}

    def size(self, block: Block) -> Size:
        """What the parts of a block cost."""
        return sum(self.sizes[block.network][block.start + 1 : None if block.stop is None else block.stop + 1], Size())

    def program(
        self, *, weight: float = 0.1, compatibility: str = "fit", kind: str = "linear", bias: Bias = "places", **limits: Any
    ) -> Program:
        """The choice of one block for each position, under budgets; see `Program`."""
        if compatibility not in SIMILARITIES:
            raise UnknownNameError.of("similarity", compatibility, SIMILARITIES)
        positions = list(zip(*self.partition.blocks.values(), strict=True))
        table = (self.tables.fit if compatibility == "fit" else self.tables.cka).nan_to_num(-1.0).tolist()
        junctions = [self._junctions(one, other, table, stitches[kind].is_square, bias) for one, other in pairwise(positions)]
        return Program(
            positions,
            [[self.quality[block.network] for block in row] for row in positions],
            [[self.size(block) for block in row] for row in positions],
            junctions,
            weight,
            **limits,
        )

    def _junctions(
        self, before: Sequence[Block], after: Sequence[Block], table: Sequence[Sequence[float]], is_square: bool, bias: Bias
    ) -> list[Junction]:
        """All pairs that can be joined.

        Those are two blocks that follow each other in their own network, without a stitch, and a block with one equivalent to that which follows it.
        """
        out = []
        for at, one in enumerate(before):
            for to, other in enumerate(after):
                assert one.stop is not None
                if one.network == other.network and one.stop == other.start:
                    out.append(Junction(at, to, 1.0, Size()))
                elif not self.partition.follows(one, other):
                    continue
                elif (bridge := self._bridge(one, other)) is not None and not (is_square and len(set(bridge.units)) > 1):
                    place = self.tables.rows[one.network, one.stop], self.tables.rows[other.network, other.start]
                    out.append(Junction(at, to, max(table[place[0]][place[1]], -1.0), stitch_size(bridge, bias)))
        return out

    def _bridge(self, one: Block, other: Block) -> Bridge | None:
        """The bridge between the cuts of two blocks, where there can be one."""
        assert one.stop is not None
        try:
            return Bridge(self.chains[one.network].cuts[one.stop], self.chains[other.network].cuts[other.start])
        except AnalysisError:
            return None


def plan_reassembly(
    chains: Mapping[str, Chain],
    task: Task,
    *,
    blocks: int = 4,
    max_flops: int | None = None,
    max_parameters: int | None = None,
    kind: str = "linear",
    bias: Bias = "places",
    similarity: str = "cka",
    compatibility: str = "fit",
    weight: float = 0.1,
    most: int | None = None,
    selection: str = "score",
    candidates: int = 8,
    samples: int = 256,
    slack: float = 0.2,
    starts: int = 20,
    quality: Mapping[str, float] | None = None,
    time_limit: float = 60.0,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Assembly:
    """Choose a block for each position of a network to be, from the blocks of a zoo, so that they are worth most within the budgets.

    After DeRy (Yang et al., Deep Model Reassembly, NeurIPS 2022, arXiv:2210.17409): networks are compared and partitioned into blocks that are grouped in
    equivalence sets (see `partition`), and blocks are chosen under budgets by an integer program. We depart in two ways. DeRy takes a block of every set; but sets
    that are found by similarity alone may be families of networks rather than depths, and one of each would then mix families without need. Here a
    block may follow another if it is equivalent to the block that follows that one in its own network. And where DeRy leaves the choice within
    the budgets to a search by a zero-cost proxy, ours is exact: it maximises the mean quality of the networks that blocks come from plus `weight` times the mean
    compatibility of junctions (see `Program`).

    Args:
        chains: networks by name, which take the same inputs.
        task: the data; its module is not used.
        blocks: to each network, so positions; networks with fewer parts are left out.
        max_flops: of one example, two to a multiplication with addition, stitches included.
        max_parameters: stitches included.
        kind: of stitches; see `weightspace.analysis.stitching.stitches`.
        bias: of stitches, for `units` or for units at `places`; see `fit_stitches`.
        similarity: by which blocks are grouped: debiased `cka`, or linear `fit`.
        compatibility: of junctions, `fit` or `cka`, between what ends the block before and what the block behind had before it in its own network.
        weight: of compatibility against quality; found on zoos of MLPs and CNNs on MNIST-1D, where 1 takes small networks, which are easily predicted.
        most: blocks of one network; by default one fewer than blocks, since else the best network as it is would be the answer.
        selection: `score` takes the best; `naswot` the one of the best with the highest zero-cost score, `loss` the one with the lowest
            loss of what is stitched and not trained; `random` any one of these, and `chance` blocks by chance
            (controls).
        candidates: how many are the best.
        samples: examples that networks are compared on.
        slack: a block has at most `ceil(parts / blocks) (1 + slack)` parts.
        starts: random beginnings of the partition.
        quality: of each network, about 0 to 1; by default its accuracy on the task.
        time_limit: seconds for one solution.
        generator: a source of chance.
        progress: is told of every network that has been compared.

    Raises:
        AnalysisError: no assembly has so small costs, which says the smallest; too few networks, parts or examples.
        UnknownNameError: there is no such choice.
    """
    generator = generator or torch.Generator().manual_seed(0)
    zoo = Zoo(
        chains,
        task,
        blocks=blocks,
        similarity=similarity,
        samples=samples,
        slack=slack,
        starts=starts,
        quality=quality,
        generator=generator,
        progress=progress,
    )
    return choose(
        zoo,
        max_flops=max_flops,
        max_parameters=max_parameters,
        kind=kind,
        bias=bias,
        compatibility=compatibility,
        weight=weight,
        most=most,
        selection=selection,
        candidates=candidates,
        time_limit=time_limit,
        generator=generator,
    )


def choose(
    zoo: Zoo,
    *,
    max_flops: int | None = None,
    max_parameters: int | None = None,
    kind: str = "linear",
    bias: Bias = "places",
    compatibility: str = "fit",
    weight: float = 0.1,
    most: int | None = None,
    selection: str = "score",
    candidates: int = 8,
    time_limit: float = 60.0,
    generator: torch.Generator | None = None,
) -> Assembly:
    """Plan with networks that have been compared already; see `plan_reassembly`."""
    if selection not in SELECTIONS:
        raise UnknownNameError.of("selection", selection, SELECTIONS)
    expect_bias(bias)
    generator = generator or torch.Generator().manual_seed(0)
    program = zoo.program(
        weight=weight,
        compatibility=compatibility,
        kind=kind,
        bias=bias,
        max_flops=max_flops,
        max_parameters=max_parameters,
        most=len(zoo.partition.sets) - 1 if most is None else most,
        time_limit=time_limit,
    )

    def planned(choice: Choice, bound: float, proxy: float | None = None) -> Assembly:
        taken = tuple(row[at] for row, at in zip(program.positions, choice.chosen, strict=True))
        gap = (bound - choice.score) / max(abs(bound), 1e-12)
        costs = choice.size.flops, choice.size.parameters, max_flops, max_parameters
        return Assembly(taken, kind, bias, *costs, choice.score, 0.0 if gap <= 1e-9 else gap, choice.compatibility, proxy)

    if selection == "chance":
        drawn = program.drawn(lambda count: torch.rand(count, generator=generator, dtype=torch.float64).numpy())[0]
        return planned(drawn, math.nan)
    found = program.best(candidates if selection != "score" else 1)
    bound = found[0].bound
    if selection == "random":
        return planned(found[int(torch.randint(len(found), (), generator=generator))], bound)
    if selection == "score":
        return planned(found[0], bound)
    plans = [planned(one, bound) for one in found]
    scores = [_proxy(selection, assemble(plan, zoo.chains, zoo.task, generator=generator), zoo.task) for plan in plans]
    best = max(range(len(found)), key=scores.__getitem__)
    return planned(found[best], bound, scores[best])


def _proxy(selection: str, made: Patchwork, task: Task) -> float:
    """What is taken for how good an assembly that is stitched, but not trained, will be."""
    if selection == "naswot":
        return naswot(made, batch_like(task.batches, PROBED))
    return -replace(task, module=made).evaluate(made.state_dict())["loss"]


PROBED = 64
"""Examples that NASWOT looks at."""


def network_qualities(chains: Mapping[str, Chain], task: Task) -> dict[str, float]:
    """The accuracy of each network on a task; where the task has none, its losses from the highest (0) to the lowest (1)."""
    found = {name: chain.task(task).evaluate(chain.state_dict()) for name, chain in chains.items()}
    if all("accuracy" in one for one in found.values()):
        return {name: one["accuracy"] for name, one in found.items()}
    losses = {name: one["loss"] for name, one in found.items()}
    low, high = min(losses.values()), max(losses.values())
    return {name: (high - value) / (high - low) if high > low else 1.0 for name, value in losses.items()}


__all__ = ["SELECTIONS", "SIMILARITIES", "Zoo", "choose", "network_qualities", "plan_reassembly"]
