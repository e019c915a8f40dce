"""Laws of plans as plain values."""

import json
import math

import pytest

from weightspace.analysis.stitching.reassembly import Assembly, Block
from weightspace.errors import AnalysisError

BLOCKS = (Block("a", -1, 0), Block("b", 0, 1), Block("b", 1, 2), Block("a", 2, None))


def test_a_plan_survives_json() -> None:
    plan = Assembly(BLOCKS, "orthogonal", "units", 120, 30, 200, None, 1.5, 0.25, (0.5, 1.0, 0.75), -2.0)
    assert Assembly.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False))) == plan


def test_numbers_that_are_not_finite_survive_json() -> None:
    plan = Assembly.from_dict(json.loads(json.dumps(Assembly(BLOCKS, gap=math.nan).to_dict(), allow_nan=False)))
    assert math.isnan(plan.gap) and math.isnan(plan.score) and plan.proxy is None


def test_blocks_that_follow_each_other_in_their_network_are_one_piece() -> None:
    plan = Assembly(BLOCKS)
    assert plan.pieces == (Block("a", -1, 0), Block("b", 0, 2), Block("a", 2, None))
    assert plan.networks == ("a", "b")
    assert str(plan.pieces[1]) == "b[0:2]" and str(plan.pieces[2]) == "a[2:end]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks": [{"start": -1, "stop": None}]}, "no 'network'"),
        ({"blocks": 3}, "'int' object is not iterable"),
        ({"blocks": [{"network": "a", "start": "x", "stop": None}]}, "'x' where a whole number is wanted"),
        ({"bias": "place"}, "a bias .place., which is none of units, places"),
        ({"flops": 1.5}, "1.5 where a whole number is wanted"),
        ({"flops": True}, "True where a whole number is wanted"),
        ({"score": "high"}, "could not convert"),
    ],
)
def test_what_is_no_plan_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(AnalysisError, match=f"expected a plan of blocks.*{said}"):
        Assembly.from_dict(Assembly(BLOCKS).to_dict() | change)


def test_a_plan_without_blocks_is_refused() -> None:
    with pytest.raises(AnalysisError, match="found no 'blocks'"):
        Assembly.from_dict({})


@pytest.mark.parametrize("blocks", [(), BLOCKS[1:], BLOCKS[:-1]])
def test_a_plan_that_does_not_run_from_input_to_output_is_refused(blocks: tuple[Block, ...]) -> None:
    with pytest.raises(AnalysisError, match="whose first block begins at -1"):
        Assembly.from_dict(Assembly(blocks).to_dict())
