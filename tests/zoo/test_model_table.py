"""Columns of metrics in the view `model_table`: whose name they bear, and that they keep it."""

from datetime import datetime
from pathlib import Path

import duckdb
import torch

from weightspace.zoo.model_table import _named
from weightspace.zoo.zoo import Zoo

OLD, NEW = datetime(2024, 1, 1), datetime(2025, 1, 1)


def test_the_metric_that_came_first_has_the_name() -> None:
    assert _named([("val", "F1", NEW), ("val", "f1", OLD)], set()) == {("val", "f1"): "val_f1", ("val", "F1"): "val_F1_"}
    assert _named([("val", "F1", OLD), ("val", "f1", NEW)], set()) == {("val", "F1"): "val_F1", ("val", "f1"): "val_f1_"}
    assert _named([(None, "a_b", NEW), ("a", "b", OLD)], set()) == {("a", "b"): "a_b", (None, "a_b"): "a_b_"}
    assert _named([(None, "name", NEW), (None, "name_", OLD)], set()) == {(None, "name_"): "name_", (None, "name"): "name__"}


def test_a_name_that_stands_in_the_view_stays_though_its_values_came_again() -> None:
    assert _named([("val", "F1", OLD), ("val", "f1", NEW)], {"val_f1", "val_F1_"}) == {("val", "f1"): "val_f1", ("val", "F1"): "val_F1_"}


def test_times_that_nobody_knows_count_as_early() -> None:
    assert _named([("val", "f1", OLD), ("val", "F1", None)], set())["val", "F1"] == "val_F1"


def test_a_catalog_that_forgets_the_view_names_columns_as_before(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.add({"w": torch.ones(1)}, name="one", metrics={"val": {"f1": 0.5}})
    zoo.record("one", metrics={"val": {"F1": 0.9}})
    with duckdb.connect(str(zoo.catalog.path)) as connection:
        connection.execute("create or replace view model_table as select 1 as nothing")
    zoo.record("one", metrics={"val": {"loss": 0.1}})
    assert zoo.sql("select val_f1, val_F1_ from model_table").to_pylist() == [{"val_f1": 0.5, "val_F1_": 0.9}]
