"""NASWOT against a slow reference."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.analysis.stitching.reassembly.zoos import INPUTS, generator, mlp, task
from weightspace.analysis.stitching.patchwork import batch_like
from weightspace.analysis.stitching.reassembly.proxy import naswot
from weightspace.errors import AnalysisError


def test_it_is_the_log_determinant_of_how_many_units_agree() -> None:
    chain, (inputs, _) = mlp(5, 7), batch_like(task().batches, 6)
    first = chain.parts[0](inputs)
    codes = (torch.cat([first, chain.parts[1](first)], 1) > 0).numpy()
    agree = np.array([[sum(a == b for a, b in zip(one, other, strict=True)) for other in codes] for one in codes])
    wanted = math.log(np.linalg.det(agree + 0.5 * np.eye(6)))
    assert naswot(chain, (inputs, inputs), ridge=0.5) == pytest.approx(wanted)


def test_only_rectifiers_are_read() -> None:
    inputs = torch.randn(5, INPUTS, generator=generator())
    layer = nn.Linear(INPUTS, 4)
    alone = naswot(nn.Sequential(layer, nn.ReLU()), inputs)
    assert naswot(nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 9), nn.Dropout(), nn.Softmax(1)), inputs) == alone
    assert naswot(nn.Sequential(layer, nn.GELU()), inputs) == alone
    assert naswot(nn.Sequential(layer, nn.ReLU(inplace=True)), inputs) == alone


def test_examples_with_one_code_are_finite_with_a_ridge_and_not_without() -> None:
    inputs = torch.ones(3, INPUTS)
    module = nn.Sequential(nn.Linear(INPUTS, 4), nn.ReLU())
    assert math.isfinite(naswot(module, inputs))
    assert naswot(module, inputs, ridge=0.0) == -math.inf
    assert naswot(module, torch.randn(3, INPUTS, generator=generator())) > naswot(module, inputs)


def test_the_module_keeps_its_mode() -> None:
    module = nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.ReLU()).train()
    naswot(module, torch.randn(5, INPUTS))
    assert module.training and int(module[1].num_batches_tracked) == 0  # type: ignore[arg-type]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(AnalysisError, match="expected a network with rectifiers such as ReLU or GELU, found none that ran"):
        naswot(nn.Linear(INPUTS, 4), torch.randn(5, INPUTS))
    with pytest.raises(AnalysisError, match="expected two examples or more to tell apart, found 1"):
        naswot(mlp(4), torch.randn(1, INPUTS))
