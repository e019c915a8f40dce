"""What one catalog knows comes to another through tables, once, and keyed by content alone."""

import re
import shutil
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pytest
import torch

import weightspace as ws
from weightspace.errors import CatalogError, FormatError
from weightspace.zoo import Zoo
from weightspace.zoo.edges import Edge
from weightspace.zoo.exchange import TABLES, export_tables, export_zoo, import_tables, import_zoo, is_parquet, read_parquet, write_parquet
from weightspace.zoo.exchange.checking import check_tables
from weightspace.zoo.metrics import Metric
from weightspace.zoo.runs.run import Run
from weightspace.zoo.zoo import Added


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo that has something in every table."""
    made = Zoo(tmp_path_factory.mktemp("built") / "here")
    base = {"w": torch.arange(6.0).reshape(2, 3), "tied": torch.zeros(2)}
    run = Run("population:0", "run 0", "population", 0, {"lr": 0.1}, metrics=(Metric("loss", 0.5, "train", 1),))
    made.add_many(
        [Added(base, "a", run=run, step=1, metrics={"test": {"accuracy": 0.5}}, tags={"k": "v"}), Added({"w": base["w"] + 1}, "b")]
    )
    made.add({"w": base["w"] + 2}, "c", recipe={"kind": "merge"}, parents=["a"])
    made.record_edges([Edge("a", "b", "finetune", "low rank", 0.8)])
    made.record_pair(made.open("a"), made.open("b"), {"l2": 2.0}, measure="distance")
    made.record_embeddings("net", "1", {made.models("name = 'a'")["id"][0].as_py(): [1.0, 2.0]})
    with made.catalog.writing() as connection:
        connection.execute("insert into measurements select model_id, null, 'm', '1', '{}', '', 3.5, null from models where name = 'b'")
        connection.execute("insert into measurements select null, tensor_id, 'm', '1', '{}', 'k', null, 'text' from tensors limit 1")
    return made.folder


@pytest.fixture
def zoo(built: Path, tmp_path: Path) -> Zoo:
    """A copy of it."""
    return Zoo(shutil.copytree(built, tmp_path / "here"))


def tables(zoo: Zoo) -> dict[str, pa.Table]:
    with zoo.catalog.reading() as connection:
        return dict(export_tables(connection))


def known(zoo: Zoo) -> dict[str, list[dict[str, object]]]:
    """Everything, but for the time at which a model came in."""
    return {name: [{k: v for k, v in row.items() if k != "catalogued"} for row in table.to_pylist()] for name, table in tables(zoo).items()}


def test_every_table_comes_whole_and_once(zoo: Zoo, tmp_path: Path) -> None:
    assert all(table.num_rows for table in tables(zoo).values()), "the fixture lacks a table"
    export_zoo(zoo, tmp_path / "tables")
    there = Zoo(tmp_path / "there")
    assert import_zoo(there, tmp_path / "tables") == 3
    assert known(there) == known(zoo)
    assert import_zoo(there, tmp_path / "tables") == 0 and known(there) == known(zoo)


def test_surrogate_keys_need_not_agree(zoo: Zoo, tmp_path: Path) -> None:
    there = Zoo(tmp_path / "there")
    there.add_many([Added({"w": torch.full((2, 3), float(at))}, f"mine {at}", metrics={"loss": at}) for at in range(4)])
    before = known(there)
    export_zoo(zoo, tmp_path / "tables")
    import_zoo(there, tmp_path / "tables")
    after = known(there)
    for name, rows in known(zoo).items():
        assert all(row in after[name] for row in rows + before[name]) and len(after[name]) == len(rows) + len(before[name])


def test_a_name_that_is_taken_gets_digits_of_the_id(zoo: Zoo, tmp_path: Path) -> None:
    there = Zoo(tmp_path / "there")
    there.add({"other": torch.ones(1)}, "a")
    export_zoo(zoo, tmp_path / "tables")
    import_zoo(there, tmp_path / "tables")
    id = zoo.models("name = 'a'")["id"][0].as_py()
    assert sorted(there.models()["name"].to_pylist()) == ["a", f"a@{id[:8]}", "b", "c"]


def test_some_models_come_without_what_is_about_others(zoo: Zoo, tmp_path: Path) -> None:
    export_zoo(zoo, tmp_path / "tables", "name = 'b'")
    found = read_parquet(tmp_path / "tables")
    assert found["models"]["name"].to_pylist() == ["b"] and found["model_tensors"].num_rows == 1
    assert {name for name, table in found.items() if table.num_rows} == {"models", "tensors", "model_tensors", "files", "measurements"}


def test_large_tables_are_partitioned_and_others_read_them(zoo: Zoo, tmp_path: Path) -> None:
    write_parquet(tables(zoo).items(), tmp_path / "tables", large=1)
    folders = sorted(path.name for path in (tmp_path / "tables" / "models").iterdir())
    assert folders and all(re.fullmatch("shard=h[0-9a-f]{2}", name) for name in folders)
    found = tmp_path / "tables" / "models" / "**" / "*.parquet"
    assert duckdb.read_parquet(str(found), hive_partitioning=True).shape[0] == 3
    assert polars.scan_parquet(found, hive_partitioning=True).select("name").collect().height == 3
    there = Zoo(tmp_path / "there")
    assert import_zoo(there, tmp_path / "tables") == 3 and known(there) == known(zoo)


def test_a_large_table_comes_in_parts_that_are_the_whole(zoo: Zoo, tmp_path: Path) -> None:
    with zoo.catalog.reading() as connection:
        parts = list(export_tables(connection, part_rows=1))
    assert len(parts) > len(TABLES)
    for name, whole in tables(zoo).items():
        together = pa.concat_tables([table for one, table in parts if one == name])
        assert sorted(map(str, together.to_pylist())) == sorted(map(str, whole.to_pylist()))
    write_parquet(parts, tmp_path / "tables")
    there = Zoo(tmp_path / "there")
    assert import_zoo(there, tmp_path / "tables") == 3 and known(there) == known(zoo)


def test_polars_reads_every_table(zoo: Zoo, tmp_path: Path) -> None:
    write_parquet(tables(zoo).items(), tmp_path / "tables", large=1)
    for name, table in tables(zoo).items():
        found = polars.scan_parquet(tmp_path / "tables" / name / "**" / "*.parquet", hive_partitioning=True).collect()
        assert found.height == table.num_rows and set(table.column_names) <= set(found.columns)
    models, occurrences = (polars.read_parquet(tmp_path / "tables" / name / "**" / "*.parquet") for name in ("models", "model_tensors"))
    assert occurrences.join(models, left_on="model", right_on="id").height == occurrences.height


class TestRefusals:
    def test_a_folder_that_is_not_empty(self, zoo: Zoo, tmp_path: Path) -> None:
        with pytest.raises(CatalogError, match="is not empty; name a new folder"):
            export_zoo(zoo, tmp_path)

    def test_nothing_fits(self, zoo: Zoo, tmp_path: Path) -> None:
        with pytest.raises(CatalogError, match="no model fits false"):
            export_zoo(zoo, tmp_path / "x", "false")
        empty = Zoo(tmp_path / "empty")
        empty.create()
        with pytest.raises(CatalogError, match="the zoo holds no models"):
            export_zoo(empty, tmp_path / "x")

    def test_no_tables(self, tmp_path: Path) -> None:
        assert not is_parquet(tmp_path)
        with pytest.raises(CatalogError, match="holds no tables of a zoo"):
            read_parquet(tmp_path)

    def test_damaged_tables_leave_the_catalog_as_it_is(self, zoo: Zoo, tmp_path: Path) -> None:
        export_zoo(zoo, tmp_path / "tables")
        [file] = (tmp_path / "tables" / "tensors").iterdir()
        file.write_bytes(file.read_bytes()[:100])
        there = Zoo(tmp_path / "there")
        with pytest.raises(CatalogError, match="tensors: cannot be read"):
            import_zoo(there, tmp_path / "tables")

    @pytest.mark.parametrize("name", list(TABLES))
    def test_a_column_that_is_missing(self, zoo: Zoo, tmp_path: Path, name: str) -> None:
        found = tables(zoo)
        found[name] = pa.table({"nonsense": ["x"]})
        there = Zoo(tmp_path / "there")
        there.create()
        with pytest.raises(CatalogError, match=f"table '{name}' does not fit"), there.catalog.writing() as connection:
            import_tables(connection, found)
        assert there.models().num_rows == 0

    @pytest.mark.parametrize(
        ("name", "column", "value", "said"),
        [
            ("models", "id", "../../../victim", "'../../../victim' in column 'id' is no hash of 64 digits"),
            ("models", "id", "ab", "'ab' in column 'id' is no hash of 64 digits"),
            ("models", "id", "00" * 32, "something in column 'id' stands there twice"),
            ("models", "id", 7, "no kernel"),
            ("models", "name", None, "column 'name' has gaps"),
            ("tensors", "hash", "F" * 64, "is no hash of 64 digits"),
            ("tensors", "shape", [-1], "a shape has gaps or negative sizes"),
            ("tensors", "shape", [None], "a shape has gaps or negative sizes"),
            ("metrics", "name", None, "column 'name' has gaps"),
            ("models", "num_params", -1, "a model has fewer than no parameters, bytes or tensors"),
            ("tensors", "nbytes", -1, "a tensor has fewer than no elements or bytes"),
            ("tensors", "numel", 2**60, "a tensor has another number of elements than its shape"),
            ("tensors", "shape", [2**40, 2**40], "a tensor has another number of elements than its shape"),
            ("tensors", "num_nan", 2**40, "more zeros, NaN or infinities than elements"),
            ("tensors", "mean", float("nan"), "a statistic is not finite"),
            ("tensors", "std", -1.0, "a spread or norm below zero"),
            ("files", "size", -1, "a file has a size or number below zero"),
            ("metrics", "value", float("inf"), "a metric is not finite"),
            ("measurements", "value", float("nan"), "a measurement is not finite"),
            ("pair_measurements", "value", float("-inf"), "a measurement is not finite"),
            ("edges", "confidence", 1.5, "a confidence is no probability"),
            ("edges", "confidence", float("nan"), "a confidence is no probability"),
            ("embeddings", "vector", [], "a vector is empty"),
            ("embeddings", "vector", [1.0, float("nan")], "a vector is not finite"),
            ("embeddings", "vector", [1.0, None], "a vector is not finite"),
            ("files", "path", "/etc/passwd", "'/etc/passwd' is no file of the store, nor one that was seen"),
            ("files", "path", "../elsewhere.safetensors", "is no file of the store"),
            ("files", "path", "file:///etc/passwd", "is no file of the store"),
        ],
    )
    def test_what_cannot_be(self, zoo: Zoo, tmp_path: Path, name: str, column: str, value: object, said: str) -> None:
        found = tables(zoo)
        at = found[name].schema.get_field_index(column)
        kind = None if value == 7 else found[name].schema.field(at).type
        found[name] = found[name].set_column(at, column, pa.array([value] * found[name].num_rows, kind))
        there = Zoo(tmp_path / "there")
        there.create()
        with pytest.raises(CatalogError, match=f"table '{name}' does not fit .*{re.escape(said)}"), there.catalog.writing() as connection:
            import_tables(connection, found)
        assert there.models().num_rows == 0

    def test_a_position_below_zero(self, zoo: Zoo) -> None:
        found = tables(zoo)["model_tensors"].select(["model", "name", "tensor", "alias_of"])
        with pytest.raises(CatalogError, match="a position is below zero"):
            check_tables({"model_tensors": found.append_column("position", pa.array(range(-found.num_rows, 0), pa.int32()))})

    def test_a_file_elsewhere_stays_known_by_name_size_and_time(self, zoo: Zoo, tmp_path: Path) -> None:
        ws.save({"w": torch.full((2, 2), 7.0)}, tmp_path / "outside.safetensors")
        zoo.ingest(tmp_path / "outside.safetensors")
        export_zoo(zoo, tmp_path / "tables")
        there = Zoo(tmp_path / "there")
        import_zoo(there, tmp_path / "tables")
        assert there.open("outside").id == zoo.open("outside").id
        ws.save({"w": torch.zeros(3, 3)}, tmp_path / "outside.safetensors")
        with pytest.raises(FormatError, match="gone or has changed since"):
            there.open("outside")

    def test_a_folder_that_cannot_be_written(self, zoo: Zoo, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(CatalogError, match="cannot be written"):
            export_zoo(zoo, tmp_path / "file" / "tables")


def test_tables_hold_no_surrogate_keys(zoo: Zoo) -> None:
    for table in tables(zoo).values():
        assert not [name for name in table.column_names if name.endswith("_id") and name not in ("weights_id",)]
