"""Measures of tensors over a query: each content once, whatever models it stands in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from weightspace.checkpoint import Checkpoint
from weightspace.errors import RecordError, ShapeMismatchError
from weightspace.zoo import Added, Zoo
from weightspace.zoo.mapping import Measure

MEASURES = [Measure("size"), Measure("ends", parameters={"k": 1})]


def said(checkpoint: Checkpoint, tensors: Sequence[str], measures: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    every: dict[str, dict[str, dict[str, Any]]] = {
        name: {"size": {"": checkpoint[name].sum()}, "ends": {"first": checkpoint[name][0], "note": "fine"}} for name in tensors
    }
    return {name: {measure: every[name][measure] for measure in measures} for name in tensors}


class Counting:
    """Counts what it is asked, and ends the run as Ctrl-C does at one of the calls."""

    def __init__(self, last: int = 1000) -> None:
        self.asked: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self.last = last

    def __call__(self, checkpoint: Checkpoint, tensors: Sequence[str], measures: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
        self.asked.append((tuple(tensors), tuple(measures)))
        if len(self.asked) == self.last:
            raise KeyboardInterrupt
        return said(checkpoint, tensors, measures)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path)
    shared = torch.tensor([1.0, 2.0])
    made.add_many(
        [Added({"base": shared, "own": torch.full((3,), float(value)), "step": torch.tensor([1])}, f"net/{value}") for value in (1, 2)]
    )
    return made


def floats(checkpoint: Checkpoint) -> list[str]:
    return [name for name, info in checkpoint.info.items() if info.is_parameter]


def test_a_shared_content_is_measured_once_and_stands_in_every_row(zoo: Zoo) -> None:
    count = Counting()
    table = zoo.map_tensors(count, measures=MEASURES, choose=floats)
    assert count.asked == [(("base", "own"), ("size", "ends")), (("own",), ("size", "ends"))]
    assert table.to_pylist() == [
        {"model": "net/1", "tensor": "base", "size": 3.0, "ends.first": 1.0, "ends.note": "fine"},
        {"model": "net/1", "tensor": "own", "size": 3.0, "ends.first": 1.0, "ends.note": "fine"},
        {"model": "net/2", "tensor": "base", "size": 3.0, "ends.first": 1.0, "ends.note": "fine"},
        {"model": "net/2", "tensor": "own", "size": 6.0, "ends.first": 2.0, "ends.note": "fine"},
    ]
    kept = zoo.sql("select count(*) as n, count(distinct tensor_id) as tensors, count(model_id) as models from measurements").to_pylist()
    assert kept == [{"n": 9, "tensors": 3, "models": 0}]


def test_only_what_is_missing_is_asked_for(zoo: Zoo) -> None:
    zoo.map_tensors(said, measures=MEASURES[:1], choose=floats)
    count = Counting()
    zoo.map_tensors(count, "name = 'net/1'", measures=MEASURES, choose=floats)
    assert count.asked == [(("base", "own"), ("ends",))]
    zoo.map_tensors(count, "name = 'net/1'", measures=[Measure("size", version="2")], choose=lambda _: ["own"])
    assert count.asked[1:] == [(("own",), ("size",))]


def test_an_ended_run_keeps_what_was_done(zoo: Zoo) -> None:
    with pytest.raises(KeyboardInterrupt):
        zoo.map_tensors(Counting(last=2), measures=MEASURES, choose=floats)
    count = Counting()
    assert zoo.map_tensors(count, measures=MEASURES, choose=floats).num_rows == 4
    assert count.asked == [(("own",), ("size", "ends"))]


def test_measures_of_models_and_of_tensors_do_not_mix(zoo: Zoo) -> None:
    zoo.map(lambda checkpoint: {"": len(checkpoint)}, measure="size")
    assert zoo.map_tensors(said, measures=MEASURES[:1], choose=floats)["size"].to_pylist() == [3.0, 3.0, 3.0, 6.0]
    assert zoo.map(lambda checkpoint: {"": 0}, measure="size").num_rows == 2


def unwilling(checkpoint: Checkpoint, tensors: Sequence[str], measures: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    raise ShapeMismatchError("nothing fits; give others")


def wordless(checkpoint: Checkpoint, tensors: Sequence[str], measures: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: {measure: {} for measure in measures} for name in tensors}


@pytest.mark.parametrize(
    ("function", "message"),
    [(unwilling, "measuring 'net/1': nothing fits"), (wordless, "measure 'size' of tensor 'base' of 'net/1' is {}, expected a mapping")],
)
def test_what_a_function_cannot_do_says_of_which_model(zoo: Zoo, function: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        zoo.map_tensors(function, measures=MEASURES, choose=floats)


def test_variants_of_one_content_are_told_apart(zoo: Zoo) -> None:
    count = Counting()

    def lying(checkpoint: Checkpoint) -> dict[str, str]:
        return {"base": "transposed" if float(checkpoint["own"][0]) == 2 else ""}

    zoo.map_tensors(count, measures=MEASURES[:1], choose=lying)
    assert len(count.asked) == 2
    with zoo.catalog.writing() as connection:
        connection.execute("update measurements set value = 77 where parameters like '%transposed%'")
    assert zoo.map_tensors(count, measures=MEASURES[:1], choose=lying)["size"].to_pylist() == [3.0, 77.0]
    assert len(count.asked) == 2
    kept = zoo.sql("select distinct parameters from measurements order by 1").to_pylist()
    assert kept == [{"parameters": '{"variant":"transposed"}'}, {"parameters": "{}"}]


def test_a_model_of_which_nothing_can_be_chosen_is_left_out(zoo: Zoo) -> None:
    def choosy(checkpoint: Checkpoint) -> list[str]:
        if float(checkpoint["own"][0]) == 1:
            raise ShapeMismatchError("no layer; give others")
        return ["own"]

    told: list[tuple[str, str]] = []
    table = zoo.map_tensors(said, measures=MEASURES, choose=choosy, skip=lambda name, error: told.append((name, str(error))))
    assert table["model"].to_pylist() == ["net/2"] and told == [("net/1", "no layer; give others")]
    with pytest.raises(ShapeMismatchError, match="no layer; give others"):
        zoo.map_tensors(said, measures=MEASURES, choose=choosy)
