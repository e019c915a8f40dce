"""What strangers ask for is stopped before it is made."""

import pytest
import torch

from weightspace.analysis.budget import Budget
from weightspace.errors import AnalysisError


def test_values_are_counted_where_nothing_is_allocated() -> None:
    with pytest.raises(AnalysisError, match="too large"), Budget(10**9, AnalysisError("too large")), torch.device("meta"):
        torch.nn.Linear(10**5, 10**5)


def test_calls_count_too() -> None:
    with pytest.raises(AnalysisError, match="too many"), Budget(100, AnalysisError("too many"), call=30):
        for _ in range(5):
            torch.zeros(1)


def test_what_is_within_the_budget_is_made() -> None:
    with Budget(100, AnalysisError("never")):
        assert torch.ones(50).sum() == 50
