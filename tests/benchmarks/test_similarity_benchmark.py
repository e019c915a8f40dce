"""The benchmark of similarities: its truth, its own tools, and that ours is right wherever something is defined."""

import math

import pytest

from tests.benchmarks.similarity import TOOLS, cases, truth


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("tool", ["weightspace", "weightspace, batches"])
def test_ours_is_right_or_nan(name: str, tool: str) -> None:
    x, y = cases()[name]
    assert TOOLS[tool](x, y) == pytest.approx(truth(x, y), abs=1e-9, nan_ok=True)


def test_the_plain_way_is_the_truth_where_nothing_is_wrong() -> None:
    x, y = cases()["plain"]
    assert TOOLS["numpy Gram"](x, y) == pytest.approx(truth(x, y), abs=1e-10) and math.isnan(truth(x[:3], y[:3]))
