"""Greedy soups, on scores that can be worked out by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.analysis.merging.soups import greedy_soup
from weightspace.errors import MergeError
from weightspace.symmetry import StateDict

State = dict[str, Tensor]


def candidate(*values: float) -> State:
    return {"w": torch.tensor(values), "steps": torch.tensor(10 * values[0]).nan_to_num().long()}


def nearness(state_dict: StateDict) -> float:
    """How near to 1 all values are: minus the largest distance."""
    return -float((state_dict["w"] - 1).abs().max())


def test_takes_what_does_not_hurt_in_order_of_score() -> None:
    found = greedy_soup([candidate(3.0, 1.0), candidate(0.5, 1.0), candidate(1.4, 1.0), candidate(1.4, 1.0)], nearness)
    # The best (2) first; its twin (3) changes nothing and is taken; then 0.5 helps: mean 1.1; then 3.0 would give 1.575.
    assert [step.candidate for step in found.steps] == [2, 3, 1, 0]
    assert [step.taken for step in found.steps] == [True, True, True, False]
    assert found.taken == (2, 3, 1)
    assert [round(step.score, 4) for step in found.steps] == [-0.4, -0.4, -0.1, -0.575]
    assert [round(step.alone, 4) for step in found.steps] == [-0.4, -0.4, -0.5, -2.0]
    assert found.score == found.steps[2].score
    torch.testing.assert_close(found.state_dict["w"], torch.tensor([1.1, 1.0]))
    assert found.state_dict["steps"] == 14


def test_never_scores_below_the_best_candidate() -> None:
    generator = torch.Generator().manual_seed(0)
    candidates = [{"w": 1 + torch.randn(5, generator=generator)} for _ in range(12)]
    found = greedy_soup(candidates, nearness)
    assert found.score >= max(map(nearness, candidates)) and 1 < len(found.taken) < 12
    expected = torch.stack([candidates[at]["w"] for at in found.taken]).double().mean(0).float()
    assert torch.equal(found.state_dict["w"], expected)
    assert nearness(found.state_dict) == found.score


def test_scores_by_name_and_losses() -> None:
    candidates = [candidate(3.0), candidate(0.0), candidate(1.5)]
    found = greedy_soup(candidates, lambda one: {"loss": -nearness(one), "accuracy": 0.0}, metric="loss", maximize=False)
    assert found.taken == (2, 1) and found.score == 0.25


def test_a_candidate_that_cannot_be_scored_is_never_taken() -> None:
    found = greedy_soup([candidate(math.nan), candidate(2.0)], nearness)
    assert found.taken == (1,) and math.isnan(found.steps[1].score)


def test_takes_checkpoints_and_keeps_their_dtype(tmp_path: Path) -> None:
    for at, value in enumerate((0.5, 1.5)):
        ws.save({"w": torch.full((3,), value, dtype=torch.bfloat16)}, tmp_path / f"{at}.safetensors")
    found = greedy_soup([ws.open(tmp_path / f"{at}.safetensors") for at in range(2)], nearness)
    assert torch.equal(found.state_dict["w"], torch.ones(3, dtype=torch.bfloat16)) and found.taken == (0, 1)


def test_says_what_is_wrong() -> None:
    with pytest.raises(MergeError, match="a soup needs at least one candidate, found none; give some"):
        greedy_soup([], nearness)
    with pytest.raises(MergeError, match=r"the evaluation has no metric 'accuracy' \(it has loss\); name one of them as metric"):
        greedy_soup([candidate(1.0)], lambda one: {"loss": 0.0})
    with pytest.raises(MergeError, match="the score of all 1 candidates is nan; expected numbers, look at the models or the evaluation"):
        greedy_soup([candidate(math.nan)], nearness)
    other = {**candidate(1.0), "extra": torch.zeros(1)}
    with pytest.raises(MergeError, match="tensor 'extra' is missing or of another shape in candidate 1; give models of one architecture"):
        greedy_soup([candidate(1.0), other], nearness)
    with pytest.raises(MergeError, match="tensor 'w' is missing or of another shape in candidate 1"):
        greedy_soup([candidate(1.0), candidate(2.0, 2.0)], nearness)
