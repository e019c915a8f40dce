"""Numbers of low-rank updates from their factors, against those of the matrix written out."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import weightspace as ws
from weightspace.adapters import LowRank, read_adapter
from weightspace.analysis.screening import features as module
from weightspace.analysis.screening.features import ATTENTION, FEATURES, adapter_features, kurtosis, update_features
from weightspace.errors import AnalysisError, UnknownNameError


def drawn(generator: torch.Generator, rows: int = 12, columns: int = 9, rank: int = 3, name: str = "layers.0.q_proj.weight") -> LowRank:
    a, b = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)
    return LowRank(name, a, b, 0.5, (rows, columns))


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), rows=st.integers(2, 40), columns=st.integers(2, 40), rank=st.integers(1, 6))
def test_numbers_are_those_of_the_matrix(seed: int, rows: int, columns: int, rank: int) -> None:
    from scipy.stats import kurtosis as reference

    update = drawn(torch.Generator().manual_seed(seed), rows, columns, rank)
    matrix = update.matrix().double().numpy()
    values = np.linalg.svd(matrix, compute_uv=False)[:rank]
    shares = values**2 / (values**2).sum()
    found = update_features(update)
    assert found["sigma1"] == pytest.approx(values[0], rel=1e-5)
    assert found["frobenius"] == pytest.approx(np.linalg.norm(matrix), rel=1e-5)
    assert found["concentration"] == pytest.approx(shares[0], rel=1e-5)
    assert found["entropy"] == pytest.approx(-(shares[shares > 0] * np.log(shares[shares > 0])).sum(), abs=1e-4)
    assert found["kurtosis"] == pytest.approx(reference(matrix.ravel(), fisher=False), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_both_ways_to_the_kurtosis_agree(rank: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    update = drawn(generator, 300, 200, rank)
    a, b = update.a.double(), update.b.double()
    by_factors = module._moments_of_factors(a, b)
    written = [float((b @ a).pow(power).sum()) for power in (1, 2, 3, 4)]
    assert by_factors == pytest.approx(written, rel=1e-8, abs=1e-8 * written[3])
    monkeypatch.setattr(module, "BLOCK", 1000)
    entries = (b @ a).flatten()
    expected = float((entries - entries.mean()).pow(4).mean() / entries.var(correction=0) ** 2)
    assert kurtosis(a, b) == pytest.approx(expected, rel=1e-9)


def test_a_large_update_is_never_written_out(generator: torch.Generator) -> None:
    """Two hundred thousand rows and columns: the matrix would take 320 GB."""
    a, b = torch.randn(2, 200_000, generator=generator), torch.randn(200_000, 2, generator=generator)
    found = update_features(LowRank("w", a, b, 1.0, (200_000, 200_000)))
    assert found["frobenius"] == pytest.approx(math.sqrt(2) * 200_000, rel=0.02)
    assert found["kurtosis"] == pytest.approx(6, rel=0.05)  # sums of two products of normal numbers: 9 for one, 3 in the limit


def test_what_is_turned_inside_changes_nothing(generator: torch.Generator) -> None:
    update = drawn(generator)
    inner = torch.randn(3, 3, generator=generator) + 3 * torch.eye(3)
    turned = LowRank(update.target, torch.linalg.inv(inner) @ update.a, update.b @ inner, update.scale, update.shape)
    assert update_features(turned) == pytest.approx(update_features(update), rel=1e-3)


def test_degenerate_updates_have_defined_values() -> None:
    zero = update_features(LowRank("w", torch.zeros(2, 5), torch.zeros(4, 2), 1.0, (4, 5)))
    assert zero["sigma1"] == zero["frobenius"] == 0 and all(math.isnan(zero[key]) for key in ("concentration", "entropy", "kurtosis"))
    flat = update_features(LowRank("w", torch.ones(1, 5), torch.ones(4, 1), 0.1, (4, 5)))
    assert flat["concentration"] == pytest.approx(1) and flat["entropy"] == pytest.approx(0, abs=1e-9) and math.isnan(flat["kurtosis"])


def test_layers_of_one_role_are_put_together(generator: torch.Generator) -> None:
    names = [f"model.layers.{block}.self_attn.{part}_proj.weight" for block in range(3) for part in "qv"]
    updates = {name: drawn(generator, name=name) for name in [*names, "model.layers.0.mlp.up_proj.weight"]}
    single = [update_features(updates[name])["sigma1"] for name in names[::2]]
    found = adapter_features(updates)
    assert list(found) == [f"{role}/{feature}" for role in ATTENTION for feature in FEATURES] and len(found) == 20
    assert found["q/sigma1"] == pytest.approx(sum(single) / 3) and math.isnan(found["k/sigma1"])
    assert adapter_features(updates, aggregate="max")["q/sigma1"] == max(single)
    assert {key.partition("/")[0] for key in adapter_features(updates, roles=None)} == {"q", "v", "up"}


def test_real_adapters(real_checkpoints: Path) -> None:
    found = adapter_features(read_adapter(ws.open(real_checkpoints / "microsoft-lora" / "roberta_base_lora_mnli.bin"), alpha=16.0))
    assert found["q/sigma1"] > 0 and found["v/kurtosis"] > 1 and math.isnan(found["o/sigma1"])
    disney = adapter_features(read_adapter(ws.open(real_checkpoints / "cloneofsimo-lora" / "lora_disney.safetensors")), roles=None)
    assert all(math.isfinite(value) for value in disney.values()) and len(disney) >= 5


def test_messages(generator: torch.Generator) -> None:
    update = drawn(generator)
    with pytest.raises(AnalysisError, match=r"the update of 'w' is empty \(rank 0\); leave it out"):
        update_features(LowRank("w", torch.zeros(0, 5), torch.zeros(4, 0), 1.0, (4, 5)))
    with pytest.raises(AnalysisError, match="the update of 'w' has factors that are not finite"):
        update_features(LowRank("w", torch.full((1, 5), torch.inf), torch.ones(4, 1), 1.0, (4, 5)))
    with pytest.raises(AnalysisError, match="expected low-rank updates, found none"):
        adapter_features({})
    with pytest.raises(UnknownNameError, match="no way to put layers together named 'median'"):
        adapter_features({"w": update}, aggregate="median")
