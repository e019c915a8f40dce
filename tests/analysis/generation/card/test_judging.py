"""Networks on a task: examples without a class take no part."""

import pytest
import torch
from torch import nn

from weightspace.analysis.generation import Target
from weightspace.analysis.generation.card.comparison import difference
from weightspace.analysis.generation.card.judging import Judged, judge
from weightspace.task import Task


def judged(seed: int, *, ignored: int) -> Judged:
    """Two linear maps on twenty examples, and on some that have no class."""
    module, generator = nn.Linear(3, 4), torch.Generator().manual_seed(7)
    inputs = torch.randn(20, 3, generator=generator)
    classes = torch.randint(4, (20,), generator=generator)
    inputs, classes = torch.cat([inputs, torch.randn(ignored, 3)]), torch.cat([classes, torch.full((ignored,), -100)])
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(1))
    drawn = {
        name: torch.randn(2, *tensor.shape, generator=torch.Generator().manual_seed(seed)) for name, tensor in module.state_dict().items()
    }
    return judge(Task.classification(module, inputs[order], classes[order]), drawn, Target.of_module(module))


def test_examples_without_a_class_change_no_score_and_no_error() -> None:
    (a, b), (more_a, more_b) = ([judged(seed, ignored=ignored) for seed in (0, 1)] for ignored in (0, 500))
    assert torch.equal(a.scores, more_a.scores) and a.ensemble == more_a.ensemble
    assert more_a.wrong is not None and more_a.wrong.shape == (2, 20)
    assert difference(more_a, more_b) == pytest.approx(difference(a, b))
