"""Screening by logistic regression: planted triggers are found as far as they show, nothing is found in nothing."""

import math

import pytest
import torch
from matplotlib.figure import Figure

from weightspace.adapters import LowRank
from weightspace.analysis.screening import cross_validate, fit_screen
from weightspace.analysis.screening.features import adapter_features
from weightspace.errors import AnalysisError

WIDTH, RANK = 64, 4


def adapter(generator: torch.Generator, trigger: float) -> dict[str, LowRank]:
    """Updates with falling singular values; a planted one writes one direction for a few inputs, as a trigger would."""
    made = {}
    size = 0.7 + 0.6 * float(torch.rand((), generator=generator))
    for block in range(2):
        for part in "qkvo":
            fall = torch.exp(-torch.arange(RANK) / (2 + 2 * float(torch.rand((), generator=generator))))
            b, a = size * fall * torch.randn(WIDTH, RANK, generator=generator), torch.randn(RANK, WIDTH, generator=generator) / WIDTH
            if trigger and part in "vo":
                key = torch.zeros(1, WIDTH)
                key[0, torch.randperm(WIDTH, generator=generator)[:4]] = 0.5 / WIDTH**0.5
                a, b = torch.cat([a, key]), torch.cat([b, trigger * torch.randn(WIDTH, 1, generator=generator)], 1)
            name = f"model.layers.{block}.self_attn.{part}_proj.weight"
            made[name] = LowRank(name, a, b, 2.0, (WIDTH, WIDTH))
    return made


def table(trigger: float, count: int = 60) -> tuple[list[dict[str, float]], list[bool]]:
    generator = torch.Generator().manual_seed(0)
    labels = [at % 3 == 0 for at in range(count)]
    return [adapter_features(adapter(generator, trigger if label else 0.0)) for label in labels], labels


def test_strong_triggers_are_found_out_of_sample() -> None:
    features, labels = table(1.0)
    found = cross_validate(features, labels, permutations=9)
    assert found.auc > 0.95 and found.p_value == 0.1
    assert max(found.null) < found.auc and abs(sum(found.null) / 9 - 0.5) < 0.15
    screen = fit_screen(features, labels)
    probability = screen.probability(features)
    assert sum((one > 0.5) == label for one, label in zip(probability, labels, strict=True)) > 55
    assert set(screen.weights) == set(features[0])
    assert isinstance(found.plot(), Figure)


def test_where_nothing_differs_nothing_is_found() -> None:
    features, labels = table(0.0)
    found = cross_validate(features, labels, permutations=9)
    assert 0.25 < found.auc < 0.75 and found.p_value > 0.1


def test_another_attack_than_the_one_learnt_is_not_found_by_right() -> None:
    """Honest about what it shows: the screen knows triggers in v and o, not ones in q and k."""
    features, labels = table(1.0)
    screen = fit_screen(features, labels)
    generator = torch.Generator().manual_seed(1)
    others = []
    for _ in range(20):
        swapped = adapter(generator, 1.0)
        exchange = {"q_proj": "v_proj", "v_proj": "q_proj", "k_proj": "o_proj", "o_proj": "k_proj"}
        renamed = {}
        for name, update in swapped.items():
            part = name.split(".")[-2]
            renamed[name.replace(part, exchange[part])] = update
        others.append(adapter_features(renamed))
    missed = sum(one < 0.5 for one in screen.probability(others))
    assert missed > 10


def test_gaps_are_filled_and_constants_do_no_harm() -> None:
    features, labels = table(1.0, 30)
    holed = [{**row, "k/entropy": math.nan, "extra": 1.0, **({"q/sigma1": math.inf} if at == 3 else {})} for at, row in enumerate(features)]
    found = cross_validate(holed, labels, folds=3, permutations=0)
    assert found.auc > 0.8 and found.p_value == 1


def test_messages() -> None:
    features, labels = table(1.0, 9)
    with pytest.raises(AnalysisError, match="expected one label for each model, found 8 for 9"):
        fit_screen(features, labels[1:])
    with pytest.raises(AnalysisError, match="expected clean and suspicious models, found one kind alone"):
        fit_screen(features, [True] * 9)
    with pytest.raises(AnalysisError, match="row 0 and the others differ in 'odd'"):
        fit_screen(features, labels).probability([{**features[0], "odd": 1.0}])
    with pytest.raises(AnalysisError, match="expected 2 to 3 folds, as many as the rarer kind has models, found 5"):
        cross_validate(features, labels)
