"""The ledger keeps what was found, and its page shows it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from weightspace.errors import AnalysisError
from weightspace.experiments import ledger
from weightspace.experiments.claim import Claim, Finding, at_most, claims
from weightspace.experiments.ledger import Wanted, page, summary, tried
from weightspace.zoo import Zoo


def test_what_is_found_is_kept_in_the_catalog(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.create()
    found = tried(Wanted("relu-scaling", seeds=2))
    zoo.record_claims(found.rows)
    zoo.record_claims(found.rows)  # tried again: in place of the first time
    rows = zoo.claims().to_pylist()
    assert [row["quantity"] for row in rows] == [row["quantity"] for row in found.rows] and rows[0]["held"] and rows[0]["seeds"] == 2
    assert zoo.sql("select distinct verdict from claims").to_pylist() == [{"verdict": "held"}]


def test_the_same_seeds_find_the_same() -> None:
    first, second = (tried(Wanted("relu-scaling", seeds=2)).rows for _ in range(2))
    assert [{**row, "seconds": 0, "tried": None} for row in first] == [{**row, "seconds": 0, "tried": None} for row in second]


def test_it_leaves_threads_and_chance_as_they_were() -> None:
    torch.manual_seed(7)
    expected, threads = torch.get_rng_state(), torch.get_num_threads()
    tried(Wanted("relu-scaling", seeds=2))
    assert torch.equal(torch.get_rng_state(), expected) and torch.get_num_threads() == threads


def test_a_claim_without_its_data_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(seeds: Sequence[int]) -> Iterator[Finding]:
        if seeds:
            raise AnalysisError("no real checkpoints here")
        yield at_most("x", [0.0], 1.0)

    monkeypatch.setattr(ledger, "claims", {"toy": Claim("toy", "It is.", "Doe", "weights", run)})
    found = tried(Wanted("toy"))
    assert found.rows == () and found.refused == "no real checkpoints here"


def test_the_summary_and_the_page_name_every_claim() -> None:
    rows = tried(Wanted("relu-scaling", seeds=2)).rows
    listed = list(summary(rows))
    assert [row["claim"] for row in listed] == list(claims)
    assert {row["claim"]: row["verdict"] for row in listed}["relu-scaling"] == "held"
    written = page(rows)
    assert set(re.findall(r"^\*\*([\w-]+)\*\*", written, re.M)) == set(claims)
    assert "1 tried: 1 held, 0 held in part, 0 did not hold." in written and "**relu-scaling**: held." in written
