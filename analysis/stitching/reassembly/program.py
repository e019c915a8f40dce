"""The integer program: one block for each position, worth most together under budgets, solved exactly."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from weightspace.analysis.stitching.reassembly.assembly import Block
from weightspace.analysis.stitching.reassembly.sizes import Size
from weightspace.errors import AnalysisError

RESOURCES = ("flops", "parameters")


@dataclass(frozen=True)
class Junction:
    """What it means that one block follows another.

    Attributes:
        before: index of the block before among those of its position.
        after: index of the block behind among those of its position.
        compatibility: how well what the block before gives can be made what the block behind had in its own network.
        size: of the stitch.
    """

    before: int
    after: int
    compatibility: float
    size: Size


@dataclass(frozen=True)
class Choice:
    """A solution.

    Attributes:
        chosen: index of the block at each position.
        score: what was maximised.
        bound: no solution scores more.
        size: of blocks and stitches.
        compatibility: of each junction.
    """

    chosen: tuple[int, ...]
    score: float
    bound: float
    size: Size
    compatibility: tuple[float, ...]


@dataclass(frozen=True)
class Program:
    """A choice to be made.

    `max 1/K sum q_b x_b + w/(K - 1) sum c_ab z_ab`, where x says which block stands at each position and z which pairs follow each other. Products
    of two x are linear by way of z: of the pairs that begin with block a as many are taken as of a itself, and so for those that end with b. Of one
    network at most `most` blocks are taken, else the best network as it is would be the answer.

    Attributes:
        positions: the blocks that can stand at each.
        quality: of each block.
        sizes: of each block.
        junctions: for each two positions that follow each other, the pairs that can be joined.
        weight: w, of compatibility against quality.
        max_flops: budget.
        max_parameters: budget.
        most: blocks of one network.
        time_limit: seconds that one solution may take.
    """

    positions: Sequence[Sequence[Block]]
    quality: Sequence[Sequence[float]]
    sizes: Sequence[Sequence[Size]]
    junctions: Sequence[Sequence[Junction]]
    weight: float = 0.1
    max_flops: int | None = None
    max_parameters: int | None = None
    most: int | None = None
    time_limit: float = 60.0

    def best(self, count: int = 1) -> list[Choice]:
        """The best solutions, best first, or as many as there are; each new one is asked to differ from all before.

        Raises:
            AnalysisError: there is none, said with the smallest costs that are possible; or none was found in time.
        """
        model = _Model(self)
        found: list[Choice] = []
        while len(found) < count:
            status, choice = model.solved(model.worth(), excluded=[one.chosen for one in found])
            if choice is None and not found:
                raise self._unsolved(model, status)
            if choice is None:
                break
            found.append(choice)
        return found

    def drawn(self, draw: Callable[[int], np.ndarray], count: int = 1) -> list[Choice]:
        """Solutions of the same budgets for random worths of blocks and junctions: the control; scores are those of the program.

        Args:
            draw: gives so many numbers from 0 to 1.
            count: of solutions, which may be the same.

        Raises:
            AnalysisError: see `best`.
        """
        model = _Model(self)
        out = []
        for _ in range(count):
            status, choice = model.solved(draw(model.width))
            if choice is None:
                raise self._unsolved(model, status)
            out.append(choice)
        return out

    def _unsolved(self, model: "_Model", status: int) -> AnalysisError:
        if status == _OUT_OF_TIME:
            return AnalysisError(f"no assembly was found in {self.time_limit:g} seconds; give more time, or fewer networks")
        limits = {"flops": self.max_flops, "parameters": self.max_parameters}
        told = " and ".join(f"{limit:,} {name}" for name, limit in limits.items() if limit is not None)
        smallest = {name: model.smallest(name) for name in RESOURCES}
        if not told or any(value is None for value in smallest.values()):
            return AnalysisError(
                f"no assembly of {len(self.positions)} blocks is possible: too few can follow each other; give more networks, or ask for fewer blocks"
            )
        least = " and ".join(f"{smallest[name]:,} {name}" for name, limit in limits.items() if limit is not None)
        both = ", each by itself" if all(limit is not None for limit in limits.values()) else ""
        return AnalysisError(f"no assembly of {len(self.positions)} blocks has at most {told}; the smallest has {least}{both}; allow more")


_OPTIMAL, _OUT_OF_TIME = 0, 1


class _Model:
    """The program as matrices: first the blocks of all positions, then the pairs of all junctions."""

    def __init__(self, program: Program) -> None:
        self.program = program
        counts = [len(blocks) for blocks in program.positions]
        self.first = np.cumsum([0, *counts])[:-1]
        self.blocks = int(sum(counts))
        self.pairs = [(at, one) for at, row in enumerate(program.junctions) for one in row]
        self.width = self.blocks + len(self.pairs)
        sizes = [size for row in program.sizes for size in row] + [one.size for _, one in self.pairs]
        self.costs = {name: np.array([getattr(size, name) for size in sizes], dtype=float) for name in RESOURCES}
        self.rows, self.lower, self.upper = self._structure()

    def worth(self) -> np.ndarray:
        """What each variable adds to the score."""
        joints = max(1, len(self.program.junctions))
        quality = [value / len(self.program.positions) for row in self.program.quality for value in row]
        return np.array(quality + [self.program.weight * one.compatibility / joints for _, one in self.pairs])

    def solved(self, worth: np.ndarray, excluded: Sequence[Sequence[int]] = (), limits: bool = True) -> tuple[int, Choice | None]:
        """The best solution for some worths, under the budgets or without them."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        program = self.program
        budgets = {"flops": program.max_flops, "parameters": program.max_parameters} if limits else {}
        constraints = [LinearConstraint(self.rows, self.lower, self.upper)]
        for name, limit in budgets.items():
            if limit is not None:
                scale = max(float(limit), 1.0)  # numbers near one, which is what the solver's tolerances are made for
                constraints.append(LinearConstraint(self.costs[name][None] / scale, -np.inf, limit / scale))
        for chosen in excluded:
            row = np.zeros(self.width)
            row[self.first + np.array(chosen)] = 1
            constraints.append(LinearConstraint(row[None], -np.inf, len(chosen) - 1))
        integral = np.r_[np.ones(self.blocks), np.zeros(len(self.pairs))]
        found = milp(
            -worth,
            constraints=constraints,
            integrality=integral,
            bounds=Bounds(0, 1),
            options={"time_limit": program.time_limit, "mip_rel_gap": 0.0},
        )
        if found.x is None:
            return int(found.status), None
        return int(found.status), self._choice(found.x, -float(found.mip_dual_bound))

    def smallest(self, name: str) -> int | None:
        """The least of a resource that any solution takes."""
        _, choice = self.solved(-self.costs[name] / max(1.0, self.costs[name].max()), limits=False)
        return None if choice is None else int(getattr(choice.size, name))

    def _choice(self, x: np.ndarray, bound: float) -> Choice:
        stops = [*self.first[1:], self.blocks]
        chosen = tuple(int(x[start:stop].argmax()) for start, stop in zip(self.first, stops, strict=True))
        taken = {(at, pair) for at, pair in enumerate(pairwise(chosen))}
        joints = [one for at, one in self.pairs if (at, (one.before, one.after)) in taken]
        program = self.program
        blocks = [row[at] for row, at in zip(program.sizes, chosen, strict=True)]
        size = sum((one.size for one in joints), sum(blocks, Size()))
        quality = [row[at] for row, at in zip(program.quality, chosen, strict=True)]
        fits = tuple(one.compatibility for one in joints)
        score = sum(quality) / len(quality) + program.weight * (sum(fits) / len(fits) if fits else 0.0)
        return Choice(chosen, score, max(bound, score), size, fits)

    def _structure(self) -> tuple[object, np.ndarray, np.ndarray]:
        """One block at each position, pairs that agree with them, and not too many blocks of one network."""
        from scipy.sparse import coo_array

        entries: list[tuple[int, int, float]] = []
        lower: list[float] = []
        upper: list[float] = []

        def row(columns: Sequence[tuple[int, float]], least: float, most: float) -> None:
            entries.extend((len(lower), column, value) for column, value in columns)
            lower.append(least)
            upper.append(most)

        for start, blocks in zip(self.first, self.program.positions, strict=True):
            row([(int(start) + at, 1.0) for at in range(len(blocks))], 1.0, 1.0)
        ends: dict[tuple[int, int, str], list[tuple[int, float]]] = {}
        for column, (at, one) in enumerate(self.pairs, self.blocks):
            ends.setdefault((at, one.before, "before"), []).append((column, 1.0))
            ends.setdefault((at + 1, one.after, "after"), []).append((column, 1.0))
        last = len(self.program.positions) - 1
        for at, blocks in enumerate(self.program.positions):
            for which in range(len(blocks)):
                here = (int(self.first[at]) + which, -1.0)
                if at < last:
                    row([*ends.get((at, which, "before"), []), here], 0.0, 0.0)
                if at > 0:
                    row([*ends.get((at, which, "after"), []), here], 0.0, 0.0)
        if self.program.most is not None:
            members: dict[str, list[tuple[int, float]]] = {}
            for start, blocks in zip(self.first, self.program.positions, strict=True):
                for which, block in enumerate(blocks):
                    members.setdefault(block.network, []).append((int(start) + which, 1.0))
            for columns in members.values():
                row(columns, -math.inf, float(self.program.most))
        rows, columns_of, values = zip(*entries, strict=True)
        return coo_array((values, (rows, columns_of)), shape=(len(lower), self.width)).tocsr(), np.array(lower), np.array(upper)


__all__ = ["Choice", "Junction", "Program"]
