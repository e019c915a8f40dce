"""Suggestions: which networks to evaluate next."""

import pytest
import torch

from weightspace.errors import MetanetError
from weightspace.metanets.suggesting import suggest


def landscape(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors, mostly of two directions, and a smooth value of those."""
    vectors = torch.randn(120, 6, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1, 1, 0.2, 0.2, 0.2, 0.2])
    return vectors, -(vectors[:, :2] - 1).square().sum(1)


@pytest.mark.parametrize("maximize", [True, False])
def test_it_finds_the_best_sooner_than_chance(maximize: bool) -> None:
    ranks = []
    for seed in range(3):
        vectors, values = landscape(seed)
        values = values if maximize else -values
        known = torch.full((120,), torch.nan)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(15):
            [at] = suggest(vectors, known, maximize=maximize, generator=generator)
            known[at] = values[at]
        found = known[~known.isnan()]
        ranks.append(int((values > found.max()).sum() if maximize else (values < found.min()).sum()))
    assert sum(ranks) / 3 < 3.5  # fifteen drawn by chance leave seven better ones among 120, in mean


def test_several_at_once_are_different_and_not_known_ones() -> None:
    vectors, values = landscape(0)
    known = torch.where(torch.arange(120) < 20, values, torch.nan)
    chosen = suggest(vectors, known, 10)
    assert len(set(chosen)) == 10 and min(chosen) >= 20
    assert set(suggest(vectors, known, 3, allowed=range(50, 60))) <= set(range(50, 60))


def test_too_many_are_refused() -> None:
    with pytest.raises(MetanetError, match="5 networks are to be chosen, but of only 2 the value is not known"):
        suggest(torch.randn(3, 2), torch.tensor([1.0, torch.nan, torch.nan]), 5)


def test_infinite_values_are_known_but_teach_nothing() -> None:
    vectors, values = landscape(0)
    known = torch.where(torch.arange(120) < 20, values, torch.nan)
    known[:2] = torch.tensor([torch.inf, -torch.inf])
    assert min(suggest(vectors, known, 5)) >= 20
    assert suggest(vectors, torch.full((120,), torch.inf).index_fill(0, torch.tensor([7]), torch.nan)) == [7]


def test_vectors_that_are_not_finite_are_refused() -> None:
    vectors, values = landscape(0)
    vectors[3, 1] = torch.nan
    with pytest.raises(MetanetError, match="1 of 120 vectors are not finite"):
        suggest(vectors, values)
