"""Pictures of metanets."""

import numpy as np
import pytest

from tests.pictures import NAMES, expect_good, png
from weightspace.errors import MetanetError
from weightspace.metanets.plotting import learning_curves, predicted_against_true


@pytest.mark.parametrize("count", [1, 2, 300, 20_000])
@pytest.mark.parametrize("half", [None, 0.0, 0.1, float("inf")])
def test_predictions_against_the_truth(count: int, half: float | None) -> None:
    chance = np.random.default_rng(0)
    true = chance.uniform(size=count)
    expect_good(
        predicted_against_true(true.tolist(), (true + chance.normal(0, 0.05, count)).tolist(), half=half, level=0.9, label=NAMES[0])
    )


def test_the_picture_says_how_many_lie_inside() -> None:
    figure = predicted_against_true([0.0, 1.0, 2.0, float("nan")], [0.05, 1.5, 2.0, 1.0], half=0.1, level=0.9)
    [axes] = figure.axes
    assert axes.get_title(loc="left") == "3 models, mean error 0.183, 67% inside"
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["90% interval", "as it is", "outside"]
    png(figure)  # lays it out
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0  # covers no model


def test_predictions_that_cannot_be_drawn_are_one_clear_line() -> None:
    with pytest.raises(MetanetError, match="as many predictions as true values, found 1 and 2"):
        predicted_against_true([1.0, 2.0], [1.0])
    with pytest.raises(MetanetError, match="no model has a finite prediction and a finite true value"):
        predicted_against_true([float("nan")], [1.0])


@pytest.mark.parametrize("epochs", [1, 25, 2_000])
def test_a_training_has_curves(epochs: int) -> None:
    history = [
        {"training_loss": 5 * 0.99**at, "validation_loss": 5 * 0.99**at + 0.1, "r2": 1 - 0.9**at, NAMES[0]: float("nan") if at else 0.5}
        for at in range(epochs)
    ]
    figure = learning_curves(history, best=epochs)
    expect_good(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "metric"]
    assert figure.axes[0].get_title(loc="left").startswith("1 epoch," if epochs == 1 else f"{epochs:,} epochs,")
    assert all(tick == round(tick) for tick in figure.axes[1].get_xticks())  # no epoch 0.96


def test_a_training_of_no_epoch_has_none() -> None:
    with pytest.raises(MetanetError, match="without epochs has no curve; train for one or more"):
        learning_curves([])
