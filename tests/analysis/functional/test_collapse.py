"""Neural collapse: the collapsed case, a slow reference, what training does, where features and rows are found."""

import itertools
import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tests.analysis.functional.networks import digits
from tests.pictures import expect_good
from weightspace.analysis.functional.collapse import NeuralCollapse, neural_collapse
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task

CLASSES = 4


def simplex() -> Tensor:
    """Four vectors of one length with equal angles between them."""
    return torch.eye(CLASSES) - 1 / CLASSES


def of(features: Tensor, classes: Tensor, rows: Tensor) -> tuple[Task, dict[str, Tensor]]:
    return Task.classification(nn.Linear(rows.shape[1], rows.shape[0], bias=False), features, classes, batch_size=7), {"weight": rows}


def wrapped(task: Task, weights: dict[str, Tensor]) -> tuple[Task, dict[str, Tensor]]:
    module = nn.Sequential(nn.Identity(), task.module)
    return Task(module, task.batches, task.loss), {f"1.{name}": tensor for name, tensor in weights.items()}


def test_a_collapsed_network_has_nothing_left() -> None:
    classes = torch.arange(40) % CLASSES
    found = neural_collapse(*wrapped(*of(5 * simplex()[classes] + 2, classes, 3 * simplex())))
    assert found.layer == "1" and found.counts == (10,) * 4
    for name, value in found.values().items():
        assert value == pytest.approx(0, abs=1e-6), name
    assert found.cosines[0, 1] == pytest.approx(-1 / 3, abs=1e-6)


def test_every_number_is_its_definition(generator: torch.Generator) -> None:
    classes, rows = torch.randint(CLASSES, (50,), generator=generator), torch.randn(CLASSES, 6, generator=generator)
    features = torch.randn(50, 6, generator=generator) + 3 * torch.randn(CLASSES, 6, generator=generator)[classes] + 100
    found = neural_collapse(*wrapped(*of(features, classes, rows)))
    h, y, w = features.double().numpy(), classes.numpy(), rows.double().numpy()
    means = np.stack([h[y == c].mean(0) for c in range(CLASSES)])
    centred = means - means.mean(0)
    within = sum(np.outer(x - means[c], x - means[c]) for x, c in zip(h, y, strict=True)) / 50
    between = sum(np.outer(m, m) for m in centred) / CLASSES

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    pairs = list(itertools.combinations(range(CLASSES), 2))
    variances = [float(np.mean(((h[y == c] - means[c]) ** 2).sum(1))) for c in range(CLASSES)]
    assert found.nc1 == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-8)) / CLASSES, rel=1e-6)
    assert found.nc1_traces == pytest.approx(np.trace(within) / np.trace(between), rel=1e-6)
    cdnv = np.mean([(variances[i] + variances[j]) / 2 / ((means[i] - means[j]) ** 2).sum() for i, j in pairs])
    assert found.cdnv == pytest.approx(cdnv, rel=1e-6)
    for prefix, vectors in (("", centred), ("rows_", w - w.mean(0))):
        lengths, cosines = np.linalg.norm(vectors, axis=1), [cosine(vectors[i], vectors[j]) for i, j in pairs]
        assert found.values()[f"{prefix}equinorm"] == pytest.approx(lengths.std() / lengths.mean(), rel=1e-6)
        assert found.values()[f"{prefix}equiangular"] == pytest.approx(np.std(cosines), rel=1e-6)
        assert found.values()[f"{prefix}max_angle"] == pytest.approx(np.mean([abs(c + 1 / 3) for c in cosines]), rel=1e-6)
    assert found.nc3 == pytest.approx(((w / np.linalg.norm(w) - centred / np.linalg.norm(centred)) ** 2).sum(), rel=1e-6)
    nearest = ((h[:, None] - means) ** 2).sum(2).argmin(1)
    assert found.nc4 == pytest.approx(np.mean(nearest != (h @ w.T).argmax(1)))


def test_training_collapses() -> None:
    found = digits()
    before, after = (neural_collapse(found.train, weights).values() for weights in (found.starts[0], found.networks[0]))
    assert after["nc1"] < before["nc1"] / 3 and after["cdnv"] < before["cdnv"] / 3
    assert after["nc3"] < before["nc3"] / 3 and after["nc4"] < 0.1 < before["nc4"]


def test_the_layer_is_found_or_named() -> None:
    found = digits()
    assert neural_collapse(found.task, found.networks[0]).layer == "fc3"
    other = neural_collapse(found.task, found.networks[0], layer="fc2")
    assert other.layer == "fc2" and len(other.classes) == 10
    with pytest.raises(UnknownNameError, match="no linear layer named 'fc4'; did you mean"):
        neural_collapse(found.task, found.networks[0], layer="fc4")


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        made: Tensor = self.head(self.embed(ids))
        return made


def test_sequences_and_tied_heads(generator: torch.Generator) -> None:
    module, ids = Tied(), torch.randint(5, (6, 9), generator=generator)
    targets = torch.where(ids == 4, -100, ids)
    weights = {"embed.weight": torch.randn(5, 3, generator=generator)}
    found = neural_collapse(Task.classification(module, ids, targets), weights)
    assert found.classes == (0, 1, 2, 3) and sum(found.counts) == int((ids != 4).sum())
    assert found.nc1 == pytest.approx(0, abs=1e-9) and math.isfinite(found.nc3) and math.isfinite(found.rows_equinorm)


def test_what_is_not_defined_is_nan() -> None:
    classes = torch.arange(20) % 2
    flat = neural_collapse(*wrapped(*of(torch.ones(20, 3), classes, torch.ones(2, 3))))
    assert math.isnan(flat.nc1) and math.isnan(flat.cdnv) and math.isnan(flat.equinorm) and math.isnan(flat.nc3)
    few = neural_collapse(*wrapped(*of(torch.randn(20, 3), classes + 5, torch.ones(2, 3))))  # no rows of those numbers
    assert math.isnan(few.nc3) and math.isnan(few.rows_max_angle) and math.isfinite(few.nc1)


def test_messages(generator: torch.Generator) -> None:
    classes = torch.arange(20) % 2
    task, weights = wrapped(*of(torch.randn(20, 3), classes, torch.ones(2, 3)))
    with pytest.raises(AnalysisError, match="expected examples of two or more classes, found 1; give data with several"):
        neural_collapse(*wrapped(*of(torch.randn(20, 3), classes * 0, torch.ones(2, 3))))
    with pytest.raises(AnalysisError, match="expected batches that end in a class for each of the 20 inputs of layer '1'"):
        neural_collapse(Task(task.module, [(torch.randn(20, 3), torch.randn(20))], task.loss), weights)
    with pytest.raises(AnalysisError, match="the inputs of layer '1' are not finite"):
        neural_collapse(*wrapped(*of(torch.full((20, 3), torch.nan), classes, torch.ones(2, 3))))
    lone = Task.classification(nn.Sequential(nn.Identity()), torch.randn(20, 3), classes)
    with pytest.raises(AnalysisError, match="expected a linear layer that gives the logits, module Sequential runs none"):
        neural_collapse(lone, {})


def test_a_picture() -> None:
    found = digits()
    assert isinstance(neural_collapse(found.task, found.networks[0]).plot(), Figure)


@pytest.mark.parametrize("value", [float("nan"), 0.0, 1e-3, 1.0])
def test_a_picture_of_any_numbers(value: float) -> None:
    numbers = {one.name: value for one in fields(NeuralCollapse) if one.type is float}
    expect_good(NeuralCollapse("fc", (0, 1, 2), (3, 3, 3), cosines=torch.full((3, 3), value), **numbers).plot())
