"""Pictures of a zoo."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tests.pictures import NAMES, expect_good
from weightspace.errors import AnalysisError, CatalogError, UnknownNameError
from weightspace.zoo.plotting import against, embedding_map, histogram, lineage, principal_axes


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
    "values",
    [
        None,
        [0.1, None, 0.3, 0.9],
        [float("nan")] * 4,
        ["cnn", "mlp", None, "cnn"],
        [True, False, True, None],
        [f"k{at}$" for at in range(4)],
        [*NAMES[:3], "W" * 300],
    ],
)
def test_every_kind_of_column_colours_a_map(values: list[float | str | bool | None] | None) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3))
    expect_good(embedding_map(vectors, values, label=NAMES[0], title=NAMES[7], marked=2), ink=0.003)


def test_a_large_map() -> None:
    chance = np.random.default_rng(0)
    expect_good(embedding_map(chance.normal(size=(5_000, 16)), [f"{at % 40}" for at in range(5_000)], label="run"), ink=0.02)


def population(count: int) -> pa.Table:
    chance = np.random.default_rng(0)
    return pa.table(
        {
            "name": [f"m{at}" for at in range(count)],
            "num_params": np.exp(chance.normal(9, 2, count)).astype(int),
            "seed": chance.integers(0, 5, count),
            "architecture": chance.choice(["mlp", "cnn"], count),
            "$odd$ <b>": chance.choice([name[:300] for name in NAMES], count),
            "none": pa.array([None] * count, pa.float64()),
            "test_accuracy": pa.array(
                [None if at % 7 == 3 else float(one) for at, one in enumerate(chance.beta(5, 2, count))], pa.float64()
            ),
        }
    )


@pytest.mark.parametrize("count", [2, 60, 5_000])
@pytest.mark.parametrize("column", ["num_params", "seed", "test_accuracy", "architecture", "$odd$ <b>", "name"])
def test_any_column_has_a_histogram(count: int, column: str) -> None:
    expect_good(histogram(population(count), column))


def heights(axes: Axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]


def test_a_histogram_counts_every_value() -> None:
    table = population(200)
    for column in ("num_params", "seed", "test_accuracy"):
        [axes] = histogram(table, column).axes
        assert sum(heights(axes)) == 200 - table[column].null_count
    [axes] = histogram(pa.table({"x": [3.0, 3.0, float("nan"), float("inf")]}), "x").axes
    assert heights(axes) == [2]
    assert axes.get_title(loc="left") == "2 rows, 2 without a value"
    [axes] = histogram(population(60), "name").axes
    assert axes.get_title(loc="left") == "60 rows; 30 rarer values are not shown"


@pytest.mark.parametrize("count", [3, 60, 5_000])
def test_columns_are_drawn_against_a_metric(count: int) -> None:
    figure = against(population(count), "test_accuracy")
    expect_good(figure)
    assert "none" not in [axes.get_xlabel() for axes in figure.axes] and "num_params" in [axes.get_xlabel() for axes in figure.axes]
    expect_good(against(population(count), "test_accuracy", ["$odd$ <b>"]))


def test_nothing_to_count_or_compare_is_one_clear_line() -> None:
    table = population(5)
    with pytest.raises(CatalogError, match=r"no row has a finite 'none' to count; ask for other rows or another column"):
        histogram(table, "none")
    with pytest.raises(UnknownNameError, match="seed"):
        histogram(table, "sead")
    with pytest.raises(CatalogError, match=r"'architecture' holds no finite number in these rows; draw against a metric"):
        against(table, "architecture")
    with pytest.raises(CatalogError, match=r"no column differs between these rows; ask for more rows, or name columns"):
        against(table.slice(0, 1), "test_accuracy")


def test_a_lineage_from_the_catalog() -> None:
    edges = pa.table({"parent": ["a", "a"], "child": ["b", NAMES[0]], "kind": ["finetune", "merge"], "confidence": [0.5, None]})
    expect_good(lineage(edges), ink=0.002)
    with pytest.raises(UnknownNameError, match="kind"):
        lineage(edges.drop_columns(["kind"]))
