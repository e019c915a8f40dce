"""The zoo as one object: adding, recording, finding, opening, exporting."""

from pathlib import Path

import numpy
import pandas
import polars
import pytest
import torch

import weightspace as ws
from weightspace.checkpoint import Checkpoint
from weightspace.errors import CatalogError, FormatError, RecordError, UnknownNameError
from weightspace.zoo import Added, Zoo
from weightspace.zoo.runs.run import Run


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path)
    run = Run(key="folder:r", name="r", source="population", seed=3, hyperparameters={"lr": 0.1})
    made.add_many(
        [
            Added({"w": torch.full((2, 3), float(step))}, f"net/{step}", run=run, step=step, metrics={"test": {"accuracy": step / 10}})
            for step in (1, 2, 3)
        ]
    )
    return made


def test_models_come_with_run_step_and_metrics_as_columns(zoo: Zoo) -> None:
    table = zoo.models("test_accuracy > 0.15", order_by="step desc")
    assert [(r["name"], r["run"], r["seed"], r["step"], r["test_accuracy"]) for r in table.to_pylist()] == [
        ("net/3", "r", 3, 3, 0.3),
        ("net/2", "r", 3, 2, 0.2),
    ]
    assert zoo.models(limit=1).num_rows == 1


def test_arrow_becomes_pandas_and_polars_in_one_call(zoo: Zoo) -> None:
    table = zoo.sql("select name, num_params from models order by name")
    assert isinstance(table.to_pandas(), pandas.DataFrame)
    assert polars.from_arrow(table).shape == (3, 2)


def test_sql_takes_parameters(zoo: Zoo) -> None:
    assert zoo.sql("select count(*) as n from files where step > ?", [1]).to_pylist() == [{"n": 2}]


def test_a_model_is_found_by_name_id_prefix_and_path(zoo: Zoo) -> None:
    row = zoo.models("name = 'net/2'").to_pylist()[0]
    for given in ("net/2", row["id"], row["id"][:6], str(zoo.folder / row["path"])):
        assert zoo.open(given)["w"][0, 0] == 2.0


def test_an_unknown_model_gets_the_closest_names(zoo: Zoo) -> None:
    with pytest.raises(UnknownNameError, match=r"no model 'net/22' in this zoo; did you mean 'net/2'\?.*'weightspace ls' lists all"):
        zoo.open("net/22")


def test_an_id_prefix_of_several_models_asks_for_more(zoo: Zoo) -> None:
    with zoo.catalog.writing() as connection:
        connection.execute("update models set id = unhex('abcd' || lpad(model_id::varchar, 60, '0'))")
    with pytest.raises(CatalogError, match="id 'abcd' fits several models: net/1, net/2, net/3; give more digits"):
        zoo.page("abcd")


def test_a_model_whose_file_is_gone_says_so(zoo: Zoo) -> None:
    path = zoo.folder / zoo.models("name = 'net/1'").to_pylist()[0]["path"]
    path.unlink()
    with pytest.raises(FormatError, match=r"model 'net/1' is catalogued, but its file is gone .* bring it back, or ingest its new place"):
        zoo.open("net/1")


def test_the_page_has_everything(zoo: Zoo) -> None:
    zoo.record("net/1", metrics={"val_loss": 2}, tags={"best": ""})
    page = zoo.page("net/1")
    assert page.tags == {"best": ""}
    assert [(m["name"], m["split"], m["value"]) for m in page.metrics.to_pylist()] == [("accuracy", "test", 0.1), ("loss", "val", 2.0)]
    [tensor] = page.tensors.to_pylist()
    assert tensor["shape"] == [2, 3] and tensor["mean"] == 1.0 and tensor["hash"] == zoo.open("net/1").tensor_hashes["w"].hex()


def test_recording_again_replaces_and_steps_stay_apart(zoo: Zoo) -> None:
    zoo.record("net/1", metrics={"loss": 3.0})
    zoo.record("net/1", metrics={"loss": 2.0})
    zoo.record("net/1", metrics={"loss": 1.0}, step=5)
    values = zoo.sql("select step, value from metrics where name = 'loss' order by step nulls first").to_pylist()
    assert values == [{"step": None, "value": 2.0}, {"step": 5, "value": 1.0}]
    assert zoo.models("name = 'net/1'").to_pylist()[0]["loss"] == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "high", None, [1]])
def test_a_metric_that_is_no_finite_number_is_refused(zoo: Zoo, value: object) -> None:
    with pytest.raises(RecordError, match=r"metric 'accuracy' is .*, expected a finite number; record text as a tag"):
        zoo.record("net/1", metrics={"accuracy": value})


def test_metric_names_cannot_break_the_view(zoo: Zoo) -> None:
    zoo.record("net/1", metrics={'a"; drop table models; --': 1.0, "it's": 2.0, "name": 3.0, "Test_Accuracy": 4.0})
    row = zoo.models("name = 'net/1'").to_pylist()[0]
    assert row['a"; drop table models; --'] == 1.0 and row["it's"] == 2.0 and row["name_"] == 3.0


def test_tags_come_and_go(zoo: Zoo) -> None:
    zoo.record("net/1", tags={"a": "1"})
    zoo.record("net/1", tags={"a": "2", "b": ""})
    assert zoo.page("net/1").tags == {"a": "2", "b": ""}
    assert zoo.untag("net/1", ["a", "c"]) == 1
    assert zoo.page("net/1").tags == {"b": ""}


def test_added_models_carry_recipe_and_parents(zoo: Zoo) -> None:
    recipe = {"kind": "merge", "method": "linear", "weights": [0.5, 0.5]}
    zoo.add({"w": torch.full((2, 3), 1.5)}, "mean", recipe=recipe, parents=["net/1", "net/2"])
    assert zoo.page("mean").parents == (("net/1", "merge"), ("net/2", "merge"))
    rows = zoo.sql("select recipe->>'$.method' as method from models join recipes using (recipe_id) where name = 'mean'").to_pylist()
    assert rows == [{"method": "linear"}]
    zoo.add({"w": torch.full((2, 3), 1.25)}, "again", parents=["mean"])
    ancestors = zoo.sql(
        "select a.name, generations from ancestors join models m using (model_id) join models a on a.model_id = ancestor_id where m.name = 'again'"
    )
    assert sorted((r["name"], r["generations"]) for r in ancestors.to_pylist()) == [("mean", 1), ("net/1", 2), ("net/2", 2)]


def test_adding_the_same_weights_twice_is_one_model(zoo: Zoo) -> None:
    before = zoo.models().num_rows
    first = zoo.add({"w": torch.full((2, 3), 1.0)}, "copy")
    assert zoo.models().num_rows == before and first == zoo.models("name = 'net/1'").to_pylist()[0]["id"]


def test_a_bad_model_among_many_adds_none(zoo: Zoo) -> None:
    before = zoo.models().num_rows
    with pytest.raises(RecordError, match="model 'empty' holds no tensors; nothing to add"):
        zoo.add_many([Added({"w": torch.ones(5)}, "good"), Added({}, "empty")])
    with pytest.raises(UnknownNameError):
        zoo.add({"w": torch.ones(6)}, "orphan", parents=["nobody"])
    assert zoo.models().num_rows == before


def test_two_contents_of_one_name_stay_apart(zoo: Zoo) -> None:
    second = zoo.add({"w": torch.zeros(1)}, "net/1")
    names = zoo.models("name like 'net/1%'").column("name").to_pylist()
    assert names == ["net/1", f"net/1@{second[:8]}"]


def test_exporting_gives_the_same_bytes_each_time(zoo: Zoo, tmp_path: Path) -> None:
    a, b = (zoo.export("net/2", tmp_path / name).read_bytes() for name in ("a.safetensors", "b.safetensors"))
    assert a == b and ws.open(tmp_path / "a.safetensors").id == zoo.models("name = 'net/2'").to_pylist()[0]["id"]


def test_exporting_to_a_folder_that_is_not_there_is_one_clear_line(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"cannot be written .* check the folder"):
        zoo.export("net/2", tmp_path / "nowhere/x.safetensors")


def test_ws_open_knows_the_zoo_of_the_working_folder(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    (zoo.folder / "below").mkdir()
    monkeypatch.chdir(zoo.folder / "below")
    assert ws.open("net/3")["w"].sum() == 18
    with pytest.raises(FormatError, match="nothing: does not exist"):
        ws.open("nothing")


def test_a_zoo_is_found_as_git_finds_a_repository(zoo: Zoo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/er")
    assert Zoo().folder == zoo.folder
    monkeypatch.setenv("WEIGHTSPACE_ZOO", str(tmp_path / "other"))
    assert Zoo().folder == tmp_path / "other"
    assert Zoo(tmp_path / "third/.weightspace").folder == tmp_path / "third"


def test_a_file_is_no_zoo(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="is a file, expected the folder of a zoo"):
        Zoo(tmp_path / "file")


def test_repr_answers_the_next_question(zoo: Zoo, tmp_path: Path) -> None:
    assert repr(zoo) == f"<Zoo {tmp_path}: 3 models, 18 parameters>"
    assert repr(Zoo(tmp_path / "new")) == f"<Zoo {tmp_path / 'new'} (does not exist yet)>"


def test_shared_tensors_and_what_storing_them_once_would_save(zoo: Zoo) -> None:
    zoo.add({"w": torch.full((2, 3), 1.0), "head": torch.ones(2)}, "finetune")
    [row] = zoo.duplicates(tensors=True).to_pylist()
    assert row["models"] == 2 and row["wasted_bytes"] == 24 and row["shape"] == [2, 3]


def test_one_content_of_two_runs_is_one_file_of_the_store(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "fresh")
    runs = [Run(key=f"folder:{name}", name=name, source="population") for name in "ab"]
    zoo.add_many([Added({"w": torch.ones(2)}, "start", run=run, step=0) for run in runs])
    assert zoo.sql("select count(*) as n from files").to_pylist() == [{"n": 1}]
    assert zoo.duplicates().num_rows == 0


def test_a_file_that_was_written_over_is_not_opened_under_the_old_id(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    path = ws.save({"w": torch.ones(3)}, tmp_path / "m.safetensors")
    zoo.ingest(path, jobs=1)
    ws.save({"w": torch.zeros(4)}, path)
    with pytest.raises(FormatError, match=r"its file is gone or has changed since .*; bring it back, or ingest its new place"):
        zoo.open("m")
    with pytest.raises(CatalogError, match=r"has changed since it was catalogued; ingest it again"):
        zoo.record(str(path), metrics={"loss": 1.0})


@pytest.mark.parametrize(("column", "what"), [("id", "an id"), ("kind", "a kind")])
def test_a_model_whose_row_is_damaged_is_not_opened(tmp_path: Path, column: str, what: str) -> None:
    zoo = Zoo(tmp_path / "zoo")
    zoo.ingest(ws.save({"w": torch.ones(3)}, tmp_path / "m.safetensors"), jobs=1)
    with zoo.catalog.writing() as connection:
        connection.execute(f"update models set {column} = null")
    with pytest.raises(
        FormatError, match=f"model 'm' is catalogued without {what}, .*; mend the catalog with 'weightspace check --repair'"
    ):
        zoo.open("m")


def test_a_folder_stands_for_the_one_model_in_it(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    (tmp_path / "in/run").mkdir(parents=True)
    ws.save({"w": torch.ones(3)}, tmp_path / "in/run/model.safetensors")
    zoo.ingest(tmp_path / "in", jobs=1)
    assert zoo.page(str(tmp_path / "in/run")).model["name"] == "run"


def test_questions_are_asked_one_by_one(zoo: Zoo) -> None:
    with pytest.raises(CatalogError, match="sql: expected one statement; ask them one by one"):
        zoo.sql("select 1; select 2")
    with pytest.raises(CatalogError, match="expected one statement"):
        zoo.models(order_by="name; select 1")
    assert zoo.models("true -- a comment", limit=1).num_rows == 1


def test_steps_and_numbers_of_other_kinds(zoo: Zoo) -> None:
    zoo.record("net/1", metrics={"half": torch.tensor(0.5), "single": numpy.float32(0.25), "count": numpy.int64(3)})
    row = zoo.models("name = 'net/1'").to_pylist()[0]
    assert (row["half"], row["single"], row["count"]) == (0.5, 0.25, 3.0)
    with pytest.raises(RecordError, match=r"step is .*, expected a whole number"):
        zoo.record("net/1", metrics={"loss": 1.0}, step=2**70)


@pytest.mark.parametrize("state_dict", [{"w": 1}, {"w": None}, {"a": {"b": torch.ones(1)}}, {1: torch.ones(1)}])
def test_a_state_dict_of_other_things_is_one_clear_line(tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    with pytest.raises(FormatError, match=r"a state dict maps names to tensors, found .*; flatten it, or convert the value"):
        Checkpoint.of(state_dict)


def test_a_link_is_written_through_and_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "target.safetensors")
    ws.save({"w": torch.ones(3)}, tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink() and (tmp_path / "target.safetensors").is_file()
    for place in ("/dev/null", "."):
        with pytest.raises(FormatError, match="cannot be written, it is no regular file"):
            ws.save({"w": torch.ones(3)}, place)
