"""The map of embeddings."""

from pathlib import Path

import numpy as np
import pytest

from weightspace.analysis.embedding_map import embedding_map, principal_axes
from weightspace.analysis.plotting import save
from weightspace.errors import AnalysisError


def test_axes_are_those_of_the_covariance() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1] + 7
    points, shares = principal_axes(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum(), rtol=1e-10)
    expected = (vectors - vectors.mean(0)) @ directions[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-10)
    assert all(axis[np.abs(axis).argmax()] > 0 for axis in points.T)


def test_one_number_each_lies_on_a_line() -> None:
    points, shares = principal_axes(np.array([[1.0], [2.0], [4.0]]))
    assert not points[:, 1].any() and shares.tolist() == [1, 0]


@pytest.mark.parametrize("vectors", [np.ones((1, 3)), np.ones((4, 3))])
def test_nothing_to_draw_is_one_clear_line(vectors: np.ndarray) -> None:
    with pytest.raises(AnalysisError, match=r"two embeddings or more|all embeddings are the same"):
        principal_axes(vectors)


@pytest.mark.parametrize(
    "values", [None, [0.1, None, 0.3, 0.9], ["cnn", "mlp", None, "cnn"], [True, False, True, None], [f"k{at}$" for at in range(4)]]
)
def test_every_kind_of_column_can_be_drawn(tmp_path: Path, values: list[float | str | bool | None] | None) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3))
    save(embedding_map(vectors, values, label="what", title="four", marked=2), tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000
