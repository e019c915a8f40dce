"""The timed questions to a catalog: their answers on a small one, against pandas over its bare tables, and their times on the large one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.benchmarks import catalog_queries as asked
from tests.benchmarks.catalog_queries import Connection, Example
from tests.benchmarks.synthetic_catalog import TENSORS, build
from weightspace.zoo import Zoo, query

MODELS = 2_000
TABLES = ("models", "files", "tensors", "model_tensors", "metrics", "tags", "architectures")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    zoo = Zoo(tmp_path_factory.mktemp("synthetic"))
    build(zoo, MODELS)
    return zoo


@pytest.fixture
def connection(zoo: Zoo) -> Iterator[Connection]:
    with zoo.reading() as connection:
        yield connection


@pytest.fixture(scope="module")
def tables(zoo: Zoo) -> dict[str, pd.DataFrame]:
    return {table: zoo.sql(f"select * from {table}").to_pandas() for table in TABLES}


@pytest.fixture(scope="module")
def example(zoo: Zoo) -> Example:
    return asked.examples(zoo, 1)[0]


@pytest.fixture(scope="module")
def wide(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a model, its four metrics as columns, the best test accuracy first."""
    metrics = tables["metrics"]
    metrics = metrics.assign(column=metrics["split"] + "_" + metrics["name"])
    columns = metrics.pivot(index="model_id", columns="column", values="value").reset_index()
    return tables["models"].merge(columns, on="model_id").sort_values("test_accuracy", ascending=False)


@pytest.fixture(scope="module")
def occurrences(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Every occurrence with its model's name and its tensor's statistics."""
    names = tables["models"][["model_id", "name"]].rename(columns={"name": "model"})
    return tables["model_tensors"].rename(columns={"name": "tensor"}).merge(names, on="model_id").merge(tables["tensors"], on="tensor_id")


def test_the_catalog_is_what_is_said_of_it(tables: dict[str, pd.DataFrame]) -> None:
    occurrences, tensors = tables["model_tensors"], tables["tensors"]
    assert len(tables["models"]) == MODELS
    assert len(occurrences) == MODELS * TENSORS
    assert 0.5 <= len(tensors) / len(occurrences) < 0.53
    assert set(occurrences["tensor_id"]) == set(tensors["tensor_id"])
    assert tensors["hash"].nunique() == len(tensors)
    assert (occurrences.groupby("model_id")["name"].nunique() == TENSORS).all()
    orders = occurrences.groupby("model_id")["name"].agg(tuple)
    assert orders.nunique() == MODELS
    single = tensors[tensors["dtype"] == "F32"]["minimum"].to_numpy()
    assert np.array_equal(single, single.astype(np.float32))


def test_two_builds_are_equal(zoo: Zoo, tmp_path: Path) -> None:
    few, again = Zoo(tmp_path / "a"), Zoo(tmp_path / "b")
    for one in (few, again):
        build(one, 40)
    for table in TABLES:
        assert few.sql(f"select * from {table}").equals(again.sql(f"select * from {table}"))


def test_filtered_page(connection: Connection, example: Example, wide: pd.DataFrame) -> None:
    expected = wide[(wide["num_params"] < example.params) & (wide["test_accuracy"] > example.accuracy)].head(asked.PAGE)
    answer = asked.filtered_page(connection, example)
    assert 0 < len(expected) == answer.num_rows
    assert answer["name"].to_pylist() == expected["name"].tolist()
    assert answer["id"].to_pylist() == [one.hex() for one in expected["id"]]
    for column in ("test_accuracy", "test_loss", "val_accuracy", "train_loss", "num_params"):
        assert answer[column].to_pylist() == expected[column].tolist()


def test_a_page_has_the_rows_of_the_whole_list(connection: Connection, example: Example) -> None:
    whole = query.models(connection, f"num_params < {example.params}", "test_accuracy desc")
    page = query.models(connection, f"num_params < {example.params}", "test_accuracy desc", asked.PAGE)
    assert page.num_rows == asked.PAGE < whole.num_rows
    assert page.equals(whole.slice(0, asked.PAGE))
    assert query.models(connection, "num_params < 0", None, asked.PAGE).schema == whole.schema


def test_best_by_tag(connection: Connection, example: Example, tables: dict[str, pd.DataFrame], wide: pd.DataFrame) -> None:
    tags = tables["tags"]
    carriers = tags[(tags["key"] == "dataset") & (tags["value"] == example.dataset)]["model_id"]
    expected = wide[wide["model_id"].isin(carriers)].head(asked.PAGE)
    assert asked.best_by_tag(connection, example)["name"].to_pylist() == expected["name"].tolist()
    assert len(expected) == asked.PAGE


def test_average_by_architecture(connection: Connection, example: Example, wide: pd.DataFrame) -> None:
    expected = wide.groupby("architecture_id")["test_accuracy"].agg(["size", "mean"]).sort_index()
    answer = asked.average_by_architecture(connection, example)
    assert answer["architecture_id"].to_pylist() == expected.index.tolist()
    assert answer["models"].to_pylist() == expected["size"].tolist()
    np.testing.assert_allclose(answer["accuracy"].to_numpy(), expected["mean"], rtol=1e-12)


def test_tensors_of_a_model(connection: Connection, example: Example, occurrences: pd.DataFrame, wide: pd.DataFrame) -> None:
    expected = occurrences[occurrences["model_id"] == example.model_id].sort_values("position")
    page = asked.tensors_of_a_model(connection, example)
    assert page.tensors["name"].to_pylist() == expected["tensor"].tolist()
    assert page.tensors["hash"].to_pylist() == [one.hex() for one in expected["hash"]]
    for column in ("dtype", "numel", "minimum", "maximum", "mean", "std", "l1", "l2", "kurtosis", "num_nan"):
        assert page.tensors[column].to_pylist() == expected[column].tolist()
    assert [*map(list, page.tensors["shape"].to_pylist())] == [*map(list, expected["shape"])]
    [row] = wide[wide["model_id"] == example.model_id].to_dict("records")
    assert (page.model["name"], page.model["test_accuracy"]) == (row["name"], row["test_accuracy"])


def test_not_finite(connection: Connection, example: Example, tables: dict[str, pd.DataFrame], occurrences: pd.DataFrame) -> None:
    broken = occurrences[occurrences["num_nan"] > 0].sort_values("position")
    counted = broken.groupby("model").agg(nan=("num_nan", "sum"), tensors=("num_nan", "size"), first=("tensor", "first"))
    expected = {
        f"{name}: {one.nan} NaN and 0 infinite elements in {one.tensors} tensors, first in {one.first}" for name, one in counted.iterrows()
    }
    answer = asked.not_finite(connection, example)
    assert len(expected) > 0
    assert set(answer["detail"].to_pylist()) == expected
    assert set(tables["models"][~tables["models"]["is_finite"]]["name"]) == set(counted.index)


def test_sharing_a_tensor(connection: Connection, example: Example, occurrences: pd.DataFrame) -> None:
    shared = int(occurrences["tensor_id"].mode()[0])
    expected = occurrences[occurrences["tensor_id"] == shared].sort_values(["model", "tensor"])
    answer = asked.sharing_a_tensor(connection, replace(example, tensor_id=shared)).to_pylist()
    assert [(row["model"], row["tensor"]) for row in answer] == [*zip(expected["model"], expected["tensor"], strict=True)]
    assert len(answer) > 10


def test_metrics_as_columns(connection: Connection, example: Example, wide: pd.DataFrame) -> None:
    answer = asked.metrics_as_columns(connection, example).to_pandas().sort_values("name", ignore_index=True)
    expected = wide[answer.columns.tolist()].sort_values("name", ignore_index=True)
    pd.testing.assert_frame_equal(answer, expected, check_exact=True, check_dtype=False, check_column_type=False)


def test_id_prefix(connection: Connection, example: Example, tables: dict[str, pd.DataFrame]) -> None:
    [expected] = [row.model_id for row in tables["models"].itertuples() if row.id.hex().startswith(example.prefix)]
    assert asked.id_prefix(connection, example) == expected


def test_outliers(connection: Connection, example: Example, occurrences: pd.DataFrame) -> None:
    expected = (
        occurrences[occurrences["kurtosis"] > 30].sort_values(["kurtosis", "model", "tensor"], ascending=[False, True, True]).head(50)
    )
    answer = asked.outliers(connection, example)
    assert 0 < len(expected) == answer.num_rows
    for column in ("model", "tensor", "kurtosis"):
        assert answer[column].to_pylist() == expected[column].tolist()


def test_dtype_census(connection: Connection, example: Example, tables: dict[str, pd.DataFrame]) -> None:
    counted = tables["tensors"].groupby("dtype").agg(tensors=("numel", "size"), elements=("numel", "sum"), bytes=("nbytes", "sum"))
    expected = pa.Table.from_pandas(counted.reset_index(), preserve_index=False)
    assert asked.dtype_census(connection, example).to_pylist() == expected.to_pylist()
    assert len(counted) == 3


def test_whole_zoo(connection: Connection, example: Example, occurrences: pd.DataFrame) -> None:
    expected = occurrences.groupby("tensor")["std"].agg(["size", "mean"]).sort_index()
    answer = asked.whole_zoo(connection, example)
    assert answer["tensor"].to_pylist() == expected.index.tolist()
    assert answer["occurrences"].to_pylist() == expected["size"].tolist()
    np.testing.assert_allclose(answer["std"].to_numpy(), expected["mean"], rtol=1e-10)


def test_a_report_says_every_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timings = asked.report(tmp_path, 200, 2, cold=True)
    lines = capsys.readouterr().out.splitlines()
    assert [*timings] == [ask.__name__ for ask in (*asked.QUESTIONS, asked.whole_zoo)]
    assert all(0 < one.median <= one.p95 and one.first > 0 for one in timings.values())
    assert any(line.startswith("sharing a tensor ") for line in lines)
    assert lines[0].startswith("200 models, ") and " 20,000 model_tensors; " in lines[0]
    assert Zoo(tmp_path).sql("select count(*) as n from models")["n"].to_pylist() == [200 + 3 * 200]


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_times_at_full_size(tmp_path: Path) -> None:
    """Two free cores are assumed; a busy machine misses the bounds for no fault of the catalog's."""
    timings = asked.report(tmp_path, 200_000, 20, cold=False)
    assert timings.pop("whole_zoo").median < 4
    assert {name: one for name, one in timings.items() if one.first > 1 or one.p95 > 0.15} == {}
    assert Zoo(tmp_path).catalog.path.stat().st_size < 1.5e9
