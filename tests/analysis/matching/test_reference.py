"""The published coordinate descent beside ours: it finds what is planted where there is one group, and ours is not worse anywhere."""

import statistics

import pytest
import torch

from tests.analysis.matching.networks import ARCHITECTURES, chain, draw
from tests.analysis.matching.reference import objective, published_coordinate_descent
from weightspace.analysis.matching import match
from weightspace.symmetry import act


def test_the_reference_recovers_planted_elements_of_one_hidden_layer() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        spec = chain(depth=1)
        a = draw(spec, generator)
        planted = spec.random(generator)
        element, height = published_coordinate_descent(a, act(planted, a), spec, generator)
        assert (element @ planted).is_identity
        assert height == pytest.approx(objective(a, a, spec))


@pytest.mark.parametrize("name", [name for name, spec in ARCHITECTURES.items() if all(g.symmetry != "sign" for g in spec.movable)])
def test_our_objective_is_at_least_the_published_one(name: str) -> None:
    spec = ARCHITECTURES[name]
    ours, published = [], []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        a, b = draw(spec, generator), draw(spec, generator)
        element, height = published_coordinate_descent(a, b, spec, generator)
        assert height == pytest.approx(objective(a, act(element, b), spec))
        published.append(height)
        ours.append(objective(a, act(match(a, b, spec, generator=generator).element, b), spec))
    assert statistics.median(ours) >= statistics.median(published)
