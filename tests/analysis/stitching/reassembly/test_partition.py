"""The partition against brute force, and its laws."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from tests.analysis.stitching.reassembly.zoos import generator, mlp
from weightspace.analysis.stitching import Chain
from weightspace.analysis.stitching.reassembly import Block
from weightspace.analysis.stitching.reassembly.partition import Partition, partition
from weightspace.errors import AnalysisError

Rows = dict[tuple[str, int], int]


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    return {"a": mlp(4, 4, 4), "b": mlp(4, 4, 4, 4, 4), "c": mlp(4, 4, 4, 4), "d": mlp(4, 4, 4, 4, 4, 4)}


def _table(chains: dict[str, Chain], seed: int = 0) -> tuple[Tensor, Rows]:
    rows = {(name, at): 0 for name, chain in chains.items() for at in range(len(chain.cuts))}
    rows = {place: at for at, place in enumerate(rows)}
    drawn = torch.rand(len(rows), len(rows), generator=generator(seed))
    return (drawn + drawn.T) / 2, rows


def _similarity(table: Tensor, rows: Rows, one: Block, other: Block) -> float:
    values = []
    if -1 not in (one.start, other.start):
        values.append(float(table[rows[one.network, one.start], rows[other.network, other.start]]))
    if one.stop is not None and other.stop is not None:
        values.append(float(table[rows[one.network, one.stop], rows[other.network, other.stop]]))
    return sum(values) / len(values)


def test_blocks_are_consecutive_and_none_is_too_long(chains: dict[str, Chain]) -> None:
    table, rows = _table(chains)
    found = partition(chains, table, rows, blocks=3, starts=5)
    assert found.left_out == () and list(found.blocks) == list(chains)
    for name, blocks in found.blocks.items():
        assert len(blocks) == 3 and blocks[0].start == -1 and blocks[-1].stop is None
        assert all(one.stop == other.start for one, other in pairwise(blocks))
        parts = len(chains[name].parts)
        lengths = [(parts - 1 if one.stop is None else one.stop) - one.start for one in blocks]
        assert sum(lengths) == parts and 1 <= min(lengths) and max(lengths) <= -(-parts // 3) * 1.2


def test_every_block_is_in_one_set_and_ends_stand_apart(chains: dict[str, Chain]) -> None:
    table, rows = _table(chains)
    found = partition(chains, table, rows, blocks=4)
    assert sorted(map(str, (one for members in found.sets for one in members))) == sorted(
        str(one) for row in found.blocks.values() for one in row
    )
    assert set(found.sets[0]) == {row[0] for row in found.blocks.values()}
    assert set(found.sets[-1]) == {row[-1] for row in found.blocks.values()}


def test_no_boundaries_serve_the_centres_better(chains: dict[str, Chain]) -> None:
    table, rows = _table(chains, seed=3)
    found = partition(chains, table, rows, blocks=4, starts=3)

    def worth(blocks: tuple[Block, ...]) -> float:
        middle = [max(_similarity(table, rows, one, centre) for centre in found.centres[1:-1]) for one in blocks[1:-1]]
        ends = (_similarity(table, rows, blocks[at], found.centres[at]) for at in (0, -1))
        return sum(middle) + sum(ends)

    total = 0.0
    for name, chosen in found.blocks.items():
        parts = len(chains[name].parts)
        longest = int(-(-parts // 4) * 1.2)
        best = -1.0
        for inner in combinations(range(1, parts), 3):
            stops = (0, *inner, parts)
            if all(other - one <= longest for one, other in pairwise(stops)):
                blocks = tuple(Block(name, one - 1, None if other == parts else other - 1) for one, other in pairwise(stops))
                best = max(best, worth(blocks))
        assert worth(chosen) == pytest.approx(best, abs=1e-6)
        total += best
    assert found.similarity == pytest.approx(total, abs=1e-6)


def test_more_starts_are_never_worse(chains: dict[str, Chain]) -> None:
    table, rows = _table(chains, seed=5)
    few, many = (partition(chains, table, rows, starts=starts, generator=generator(1)).similarity for starts in (1, 10))
    assert many >= few


def test_families_that_are_not_alike_are_sets_of_their_own() -> None:
    """Two families of three networks, whose inner cuts are alike within the family alone."""
    chains = {name: mlp(4, 4, 4) for name in ("a0", "a1", "a2", "b0", "b1", "b2")}
    rows = {place: at for at, place in enumerate((name, cut) for name in chains for cut in range(3))}
    family = torch.tensor([place[0] == "b" for name in chains for place in [name] * 3])
    found = partition(chains, (family[:, None] == family).float(), rows, blocks=4)
    assert {frozenset(one.network[0] for one in members) for members in found.sets[1:-1]} == {frozenset("a"), frozenset("b")}
    a, b = found.blocks["a0"], found.blocks["b0"]
    assert found.follows(a[0], a[1]) and found.follows(a[0], found.blocks["a1"][1]) and not found.follows(a[0], b[1])
    assert found.follows(a[2], b[3])


def test_what_is_not_defined_counts_as_unlike(chains: dict[str, Chain]) -> None:
    table, rows = _table(chains)
    assert partition(chains, torch.full_like(table, torch.nan), rows, starts=2).similarity == 0


def test_networks_with_too_few_parts_are_left_out(chains: dict[str, Chain]) -> None:
    table, rows = _table(chains)
    found: Partition = partition(chains, table, rows, blocks=5, starts=2)
    assert found.left_out == ("a",) and "a" not in found.blocks


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"blocks": 1}, "expected two blocks or more to a network, found 1"),
        ({"blocks": 7}, r"at least 7 parts, found 1 \(the most parts are 7\)"),
        ({"slack": -0.5}, "expected a slack of 0 or more, found -0.5"),
    ],
)
def test_what_cannot_be_partitioned_is_refused(chains: dict[str, Chain], settings: dict[str, float], said: str) -> None:
    table, rows = _table(chains)
    with pytest.raises(AnalysisError, match=said):
        partition(chains, table, rows, **settings)  # type: ignore[arg-type]
