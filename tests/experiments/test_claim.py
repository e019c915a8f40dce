"""Findings are judged by bars and intervals, and verdicts follow from findings alone."""

import pytest

from weightspace.experiments.claim import Finding, above, at_least, at_most, below, claim, claims, verdict
from weightspace.experiments.tables import Estimate


def finding(held: bool) -> Finding:
    return Finding("x", Estimate(0.0, 0.0), None, "", "", held)


def test_means_are_held_against_bars() -> None:
    assert at_most("x", [0.9, 1.1], 1.0).held and not at_most("x", [0.9, 1.2], 1.0).held
    assert at_least("x", [0.9, 1.1], 1.0).held and not at_least("x", [0.8, 1.1], 1.0).held
    assert at_most("x", [1.0, 1.0], 2.5).bar == "at most 2.5"


def test_baselines_are_paired_seed_by_seed() -> None:
    baseline = [1.0, 5.0, 9.0]
    assert above("x", [1.2, 5.15, 9.2], baseline, "chance").held, "each is a little above its own baseline, however far those lie apart"
    assert not above("x", [9.2, 5.15, 1.2], baseline, "chance").held
    assert below("x", [0.8, 4.85, 8.8], baseline, "chance").held and not below("x", [1.2, 5.15, 9.2], baseline, "chance").held


def test_equal_values_are_neither_above_nor_below() -> None:
    assert not above("x", [1.0, 2.0], [1.0, 2.0], "itself").held and not below("x", [1.0, 2.0], [1.0, 2.0], "itself").held


def test_one_seed_shows_no_difference() -> None:
    assert not above("x", [2.0], [1.0], "chance").held


@pytest.mark.parametrize(
    ("held", "said"), [([True, True], "held"), ([True, False], "held in part"), ([False, False], "did not hold"), ([], "did not hold")]
)
def test_the_verdict_follows_from_the_findings(held: list[bool], said: str) -> None:
    assert verdict([finding(one) for one in held]) == said


def test_a_topic_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(ValueError, match="'toy' has topic 'cooking'"):
        claim("toy", statement="", source="", topic="cooking")


def test_every_claim_says_what_and_whose_it_is() -> None:
    assert len(claims) >= 25
    for one in claims.values():
        assert one.statement.endswith(".") and "\n" not in one.statement and one.source and one.run.__doc__, one.name
        assert one.name == one.name.lower() and " " not in one.name and one.seeds >= 1
