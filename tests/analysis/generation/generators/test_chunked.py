"""The chunked hypernetwork: what a chunk is, and that it is small."""

import math

import pytest
import torch

from tests.analysis.generation.materials import module, task
from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.generators.chunked import ChunkedHypernetwork
from weightspace.analysis.generation.hypernetworks.initialisation import means, spreads
from weightspace.errors import GenerationError

LARGE = Target({"fc1.weight": (64, 64), "fc1.bias": (64,), "fc2.weight": (10, 64), "fc2.bias": (10,)})


@pytest.mark.parametrize("chunk", [7, 256, 4810, 10_000])
def test_chunks_laid_in_a_row_are_the_parameters(chunk: int) -> None:
    torch.manual_seed(0)
    made = make("chunked", LARGE, (3,), {"chunk": chunk})
    assert isinstance(made, ChunkedHypernetwork)
    assert len(made.chunks) == math.ceil(LARGE.numel / chunk)
    condition = torch.randn(3)
    [embedded] = made.code(condition[None])
    row = torch.cat([made.body(torch.cat([embedded, one])) for one in made.chunks])[: LARGE.numel]
    torch.testing.assert_close(LARGE.flat(made.weights(condition)), means(LARGE) + spreads(LARGE) * row)


def test_it_has_far_fewer_parameters_than_a_perceptron_for_all() -> None:
    small, large = (sum(map(torch.numel, make(name, LARGE, (3,), {"hidden": 32}).parameters())) for name in ("chunked", "mlp"))
    assert small < 12_000 < large


def test_classifiers_of_several_tasks_are_learned() -> None:
    tasks = [task(seed) for seed in range(2)]
    flipped = type(tasks[1]).classification(tasks[1].module, *[torch.cat(part) for part in zip(*tasks[1].batches, strict=True)])
    flipped = type(flipped)(flipped.module, [(x, 2 - y) for x, y in flipped.batches], flipped.loss, flipped.metrics)
    material = Material(Target.of_module(module()), tasks=[tasks[0], flipped], conditions=torch.tensor([0, 1]))
    made = fit("chunked", material, steps=150, learning_rate=1e-2, chunk=16)
    drawn = sample(made, 2, Wish(condition=torch.tensor([0, 1])))
    first, second = ({name: tensor[at] for name, tensor in drawn.items()} for at in range(2))
    assert tasks[0].evaluate(first)["accuracy"] > 0.9 and flipped.evaluate(second)["accuracy"] > 0.9
    assert tasks[0].evaluate(second)["accuracy"] < 0.6


def test_chunks_of_nothing_are_refused() -> None:
    with pytest.raises(GenerationError, match="setting 'chunk' of generator 'chunked' is 0; expected a whole number from 1 to"):
        make("chunked", LARGE, None, {"chunk": 0})
