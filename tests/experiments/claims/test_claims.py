"""Every claim runs, over two seeds, and finds numbers; whether they hold is the ledger's to say."""

import math

import pytest

from weightspace.experiments.claim import claims
from weightspace.experiments.ledger import Wanted, tried


@pytest.mark.slow
@pytest.mark.parametrize("name", claims)
def test_claim_runs(name: str) -> None:
    found = tried(Wanted(name, seeds=2))
    if found.refused and claims[name].needs:
        pytest.skip(found.refused)
    assert not found.refused and found.rows
    assert all(row["value"] is not None and math.isfinite(row["value"]) for row in found.rows)
