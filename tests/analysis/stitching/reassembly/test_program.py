"""The integer program against brute force."""

import math
import re
from itertools import pairwise, product

import pytest
import torch

from tests.analysis.stitching.reassembly.zoos import generator
from weightspace.analysis.stitching.reassembly import Block
from weightspace.analysis.stitching.reassembly.program import Junction, Program
from weightspace.analysis.stitching.reassembly.sizes import Size
from weightspace.errors import AnalysisError

POSITIONS = 3


def _program(seed: int, count: int = 5, **settings: object) -> Program:
    """A random choice among the blocks of some networks; about a quarter of the junctions cannot be."""
    draw = generator(seed)

    def uniform() -> float:
        return float(torch.rand((), generator=draw))

    positions = [[Block(str(which), at - 1, None if at == POSITIONS - 1 else at) for which in range(count)] for at in range(POSITIONS)]
    quality = [[uniform() for _ in row] for row in positions]
    sizes = [[Size(int(100 * uniform()), int(50 * uniform())) for _ in row] for row in positions]
    junctions = [
        [
            Junction(
                one, other, 1.0 if one == other else uniform(), Size() if one == other else Size(int(20 * uniform()), int(9 * uniform()))
            )
            for one, other in product(range(count), repeat=2)
            if one == other or uniform() < 0.75
        ]
        for _ in range(POSITIONS - 1)
    ]
    return Program(positions, quality, sizes, junctions, **settings)  # type: ignore[arg-type]


def _all(program: Program) -> list[tuple[float, tuple[int, ...], Size]]:
    """Every solution, best first."""
    out = []
    count = len(program.positions[0])
    tables = [{(one.before, one.after): one for one in row} for row in program.junctions]
    for chosen in product(range(count), repeat=POSITIONS):
        pairs = list(pairwise(chosen))
        if any(pair not in table for pair, table in zip(pairs, tables, strict=True)):
            continue
        joints = [table[pair] for pair, table in zip(pairs, tables, strict=True)]
        size = sum([row[at] for row, at in zip(program.sizes, chosen, strict=True)] + [one.size for one in joints], Size())
        if size.flops > (program.max_flops or math.inf) or size.parameters > (program.max_parameters or math.inf):
            continue
        if program.most is not None and max(map(chosen.count, chosen)) > program.most:
            continue
        score = sum(row[at] for row, at in zip(program.quality, chosen, strict=True)) / POSITIONS
        out.append((score + program.weight * sum(one.compatibility for one in joints) / len(joints), chosen, size))
    return sorted(out, reverse=True)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("settings", [{}, {"most": 1}, {"max_flops": 120, "most": 2}, {"max_flops": 150, "max_parameters": 60}])
def test_the_best_are_those_of_brute_force(seed: int, settings: dict[str, int]) -> None:
    program = _program(seed, weight=0.5, **settings)
    wanted = _all(program)
    if not wanted:
        with pytest.raises(AnalysisError):
            program.best()
        return
    found = program.best(6)
    assert [one.score for one in found] == pytest.approx([score for score, _, _ in wanted[:6]])
    assert len({one.chosen for one in found}) == len(found) == min(6, len(wanted))
    by_choice = {chosen: size for _, chosen, size in wanted}
    assert all(one.size == by_choice[one.chosen] for one in found)
    assert found[0].bound == pytest.approx(found[0].score)


def test_chance_keeps_to_the_budget_and_varies() -> None:
    program = _program(1, max_flops=150, most=2)
    possible = {chosen for _, chosen, _ in _all(program)}
    draw = generator(0)
    drawn = program.drawn(lambda count: torch.rand(count, generator=draw, dtype=torch.float64).numpy(), 12)
    assert {one.chosen for one in drawn} <= possible and len({one.chosen for one in drawn}) > 1
    assert [one.score for one in drawn] == pytest.approx([{c: s for s, c, _ in _all(program)}[one.chosen] for one in drawn])


def test_a_budget_that_is_too_small_is_told_the_smallest_cost() -> None:
    everything = _all(_program(2))
    flops, parameters = min(size.flops for *_, size in everything), min(size.parameters for *_, size in everything)
    with pytest.raises(
        AnalysisError, match=f"no assembly of 3 blocks has at most {flops - 1} flops; the smallest has {flops} flops; allow more"
    ):
        _program(2, max_flops=flops - 1).best()
    with pytest.raises(AnalysisError, match=f"the smallest has {parameters} parameters; allow more"):
        _program(2, max_parameters=parameters - 1).best()
    with pytest.raises(
        AnalysisError, match=f"at most {flops} flops and 0 parameters.*{flops} flops and {parameters} parameters, each by itself"
    ):
        _program(2, max_flops=flops, max_parameters=0).best()
    assert _program(2, max_flops=flops).best()[0].size.flops == flops
    with pytest.raises(AnalysisError, match="allow more"):
        _program(2, max_flops=flops - 1).drawn(lambda count: torch.rand(count).numpy())


def test_blocks_that_cannot_follow_each_other_are_told_as_such() -> None:
    program = _program(0)
    with pytest.raises(AnalysisError, match="no assembly of 3 blocks is possible: too few can follow each other"):
        Program(program.positions, program.quality, program.sizes, [[], []]).best()


def test_no_time_is_told_as_such() -> None:
    with pytest.raises(AnalysisError, match=re.escape("no assembly was found in 0 seconds; give more time, or fewer networks")):
        _program(3, count=12, time_limit=0.0, max_flops=200, max_parameters=60).best()
