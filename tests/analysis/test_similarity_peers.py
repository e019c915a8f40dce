"""Debiased and biased CKA beside the package ckatorch, where that is installed."""

import math

import pytest
import torch

from tests.benchmarks.similarity import cases, truth
from weightspace.analysis.similarity import linear_cka

peer = pytest.importorskip("ckatorch", reason="the package ckatorch is not installed")
SOUND = ("plain", "half the features dead", "200 unrelated, 2,000 features")


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("debiased", [False, True])
def test_the_value_is_the_peers(name: str, debiased: bool) -> None:
    x, y = cases()[name]
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(float(peer.cka_base(x, y, unbiased=debiased)), abs=1e-10)


def test_of_one_batch_it_is_the_peers_for_batches() -> None:
    x, y = cases()["plain"]
    assert linear_cka(x, y, debiased=True) == pytest.approx(float(peer.cka_batch(x[None], y[None])), abs=1e-10)


@pytest.mark.parametrize("name", cases())
def test_it_is_the_truth_where_the_peer_is_far_from_it(name: str) -> None:
    x, y = cases()[name]
    assert linear_cka(x, y, debiased=True) == pytest.approx(truth(x, y), abs=1e-9, nan_ok=True)
    assert name not in ("all constant", "n = 3") or math.isfinite(float(peer.cka_base(x, y, unbiased=True)))


def test_kernels_of_few_samples(generator: torch.Generator) -> None:
    x, y = torch.randn(2, 5, 9, generator=generator)
    assert linear_cka(x, y, debiased=True) == pytest.approx(float(peer.cka_base(x, y, unbiased=True)), abs=1e-10)
