"""Pictures of a zoo."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tests.pictures import NAMES, expect_good, png
from weightspace.errors import AnalysisError, CatalogError, UnknownNameError
from weightspace.zoo.plotting import against, embedding_map, histogram, histograms, lineage, principal_axes


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


def test_several_columns_have_a_panel_each() -> None:
    table = population(60)
    figure = histograms(table, [*table.column_names, "seed"])  # words, and what has no number, are left out; once is enough
    expect_good(figure)
    assert [axes.get_xlabel() for axes in figure.axes] == ["num_params", "seed", "test_accuracy"]
    assert [sum(heights(axes)) for axes in figure.axes] == [60, 60, 60 - table["test_accuracy"].null_count]
    wide = pa.table({f"{NAMES[0]} {at}": [1.0, at] for at in range(12)})
    expect_good(figure := histograms(wide, wide.column_names))
    assert len(figure.axes) == 9
    with pytest.raises(CatalogError, match="no column that is shown holds a finite number to draw"):
        histograms(table, ["name", "none"])
    with pytest.raises(UnknownNameError, match="seed"):
        histograms(table, ["sead"])


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([0, 1], ["0", "1"]),  # no half seeds
        ([1_234_567] * 3, ["1,234,567"]),
        ([1e-7] * 3, ["1e-07"]),
        ([3_000_000, 4_000_000], ["3M", "3.2M", "3.4M", "3.6M", "3.8M", "4M"]),
        ([4_000_000, 4_000_059], ["4,000,000", "4,000,025", "4,000,050"]),
    ],
)
def test_numbers_at_a_histogram_can_be_read(values: list[float], written: list[str]) -> None:
    figure = histogram(pa.table({"x": values}), "x")
    expect_good(figure)
    low, high = figure.axes[0].get_xlim()
    shown = zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True)
    assert [label.get_text() for at, label in shown if low <= at <= high] == written


def test_a_map_without_a_known_number_has_no_scale() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3))
    assert len(embedding_map(vectors, [float("nan"), None, float("inf"), 1.0], label="x").axes) == 2
    figure = embedding_map(vectors, [float("nan"), None, float("nan"), None], label="x")
    assert len(figure.axes) == 1 and not figure.legends


def test_the_title_of_a_map_keeps_off_its_legend() -> None:
    figure = embedding_map(np.random.default_rng(0).normal(size=(4, 3)), [*"abab"], label=NAMES[0], title=NAMES[7])
    png(figure)  # lays it out
    [legend] = figure.legends
    title = figure.axes[0].title, figure.axes[0]._left_title  # type: ignore[attr-defined]
    assert max(one.get_window_extent().x1 for one in title if one.get_text()) < legend.get_window_extent().x0


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
