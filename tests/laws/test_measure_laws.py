"""What every measure keeps to, whichever it is: the same twice, nothing changed, no number where there is none."""

import inspect
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightspace.analysis.layers import Layer
from weightspace.analysis.measure import Taking, measures
from weightspace.analysis.spectra.spectrum import Spectrum
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, WeightSpaceError

MATRIX = [name for name, one in measures.items() if one.of == "matrix"]
MODEL = [name for name, one in measures.items() if one.of == "model"]
PAIR = [name for name, one in measures.items() if one.of == "pair"]


def spectrum(matrix: torch.Tensor) -> Spectrum:
    return Spectrum.of(Layer("fc.weight", "dense", tuple(matrix.shape)), matrix)


def alike(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(_alike(a[key], b[key], tolerance) for key in a)


def _alike(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, float | int) and isinstance(b, float | int):
        return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    return bool(a == b)


def sound(values: Mapping[str, Any]) -> bool:
    return bool(values) and all(value is None or isinstance(value, int | float | str) for value in values.values())


@pytest.mark.parametrize("name", measures)
def test_every_measure_says_what_it_is_and_has_settings_that_json_can_hold(name: str) -> None:
    one = measures[name]
    assert one.summary.endswith(".") and one.version
    assert json.loads(json.dumps(Taking(name).parameters)) == Taking(name).parameters
    assert inspect.getdoc(one.function)


@pytest.mark.parametrize("name", MATRIX)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_measure_of_a_matrix_is_the_same_twice_and_changes_nothing(name: str, rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    before = matrix.clone()
    first, second = (Taking(name)(spectrum(matrix)) for _ in range(2))
    assert sound(first) and alike(first, second) and torch.equal(matrix, before)


@pytest.mark.parametrize("name", [name for name in MATRIX if not measures[name].is_random])
@given(rows=st.integers(2, 12), columns=st.integers(2, 12), seed=st.integers(0, 99))
def test_a_measure_of_a_matrix_does_not_hang_on_the_order_of_neurons(name: str, rows: int, columns: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=chance, dtype=torch.float64)
    moved = matrix[torch.randperm(rows, generator=chance)][:, torch.randperm(columns, generator=chance)]
    assert alike(Taking(name)(spectrum(matrix)), Taking(name)(spectrum(moved)), 1e-6)


INFINITE = {"condition_number", "hyperspherical_energy"}  # by definition: of a singular matrix, of rows that point the same way

DEGENERATE = {
    "zero": torch.zeros(4, 3),
    "one row": torch.arange(1.0, 6.0)[None],
    "one column": torch.arange(1.0, 6.0)[:, None],
    "one number": torch.tensor([[2.0]]),
    "constant": torch.ones(5, 4),
    "identity": torch.eye(6),
    "tiny": torch.eye(3) * 1e-30,
    "huge": torch.eye(3) * 1e30,
    "bf16": torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16(),
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("name", MATRIX)
def test_a_degenerate_matrix_has_a_value_or_none(name: str, kind: str) -> None:
    values = Taking(name)(spectrum(DEGENERATE[kind]))
    assert sound(values)
    if name not in INFINITE:
        assert all(value != math.inf for value in values.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_never_measured(value: float) -> None:
    with pytest.raises(AnalysisError, match="NaN or infinite, expected finite ones"):
        spectrum(torch.tensor([[1.0, value]]))


def perceptron(seed: int) -> Checkpoint:
    chance = torch.Generator().manual_seed(seed)
    shapes = {"fc1.weight": (8, 5), "fc1.bias": (8,), "fc2.weight": (8, 8), "fc2.bias": (8,), "fc3.weight": (3, 8), "fc3.bias": (3,)}
    return Checkpoint.of({name: torch.randn(shape, generator=chance) for name, shape in shapes.items()})


@pytest.mark.parametrize("name", [*MODEL, *PAIR])
def test_a_measure_of_models_is_the_same_twice_and_changes_nothing(name: str) -> None:
    models = [perceptron(seed) for seed in range(2 if name in PAIR else 1)]
    before = [model.id for model in models]
    try:
        first = Taking(name)(*models)
    except WeightSpaceError as error:
        assert ";" in str(error) and measures[name].of == "model", "refused without saying what to do"
        return
    assert sound(first) and alike(first, Taking(name)(*models))
    assert [Checkpoint.of(model.state_dict()).id for model in models] == before
