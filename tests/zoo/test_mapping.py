"""A function of models or of pairs of models over a query: computed once, kept, and continued where it stopped."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from weightspace.checkpoint import Checkpoint
from weightspace.errors import RecordError, ShapeMismatchError
from weightspace.zoo import Added, Zoo


def total(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"sum": checkpoint["w"].sum(), "rows": len(checkpoint["w"]), "dtype": checkpoint.info["w"].dtype}


def distance(a: Checkpoint, b: Checkpoint) -> dict[str, float]:
    return {"l2": float((a["w"] - b["w"]).norm()), "signed": float((a["w"] - b["w"]).sum())}


def unwilling(a: Checkpoint, b: Checkpoint) -> dict[str, float]:
    raise ShapeMismatchError("nothing fits; give others")


class Counting:
    """A function of a pair that counts its calls, and ends the run as Ctrl-C does at one of them."""

    def __init__(self, last: int = 1000) -> None:
        self.calls, self.last = 0, last

    def __call__(self, a: Checkpoint, b: Checkpoint) -> dict[str, float]:
        self.calls += 1
        if self.calls == self.last:
            raise KeyboardInterrupt
        return distance(a, b)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path)
    made.add_many([Added({"w": torch.full((2, 2), float(value))}, f"net/{value}") for value in (1, 2, 4, 8)])
    return made


def test_a_function_of_models_becomes_columns_and_measurements(zoo: Zoo) -> None:
    table = zoo.map(total, measure="total", parameters={"b": 1, "a": [2]})
    assert table.to_pylist()[1] == {"model": "net/2", "sum": 8.0, "rows": 2.0, "dtype": "F32"}
    kept = zoo.sql("select distinct measure, version, parameters from measurements").to_pylist()
    assert kept == [{"measure": "total", "version": "1", "parameters": '{"a":[2],"b":1}'}]
    assert zoo.sql("select text from measurements where key = 'dtype' limit 1").to_pylist() == [{"text": "F32"}]


def test_a_function_of_pairs_is_applied_to_each_pair_of_the_query_once(zoo: Zoo) -> None:
    table = zoo.map_pairs(distance, "name != 'net/1'", measure="distance")
    assert [(r["a"], r["b"], r["l2"], r["signed"]) for r in table.to_pylist()] == [
        ("net/2", "net/4", 4.0, -8.0),
        ("net/2", "net/8", 12.0, -24.0),
        ("net/4", "net/8", 8.0, -16.0),
    ]


def test_what_is_known_is_not_computed_again(zoo: Zoo) -> None:
    first, second, third = Counting(), Counting(), Counting()
    zoo.map_pairs(first, "name != 'net/8'", measure="d")
    grown = zoo.map_pairs(second, measure="d")
    assert (first.calls, second.calls, grown.num_rows) == (3, 3, 6)
    zoo.map_pairs(third, measure="d", version="2")
    assert third.calls == 6
    assert zoo.map_pairs(third, measure="d", parameters={"k": 1}).num_rows == 6 and third.calls == 12
    assert zoo.map_pairs(third, measure="d").num_rows == 6 and third.calls == 12


def test_an_ended_run_keeps_what_was_done_and_goes_on_from_there(zoo: Zoo) -> None:
    stopped = Counting(last=3)
    with pytest.raises(KeyboardInterrupt):
        zoo.map_pairs(stopped, measure="d")
    assert zoo.sql("select count(distinct (a_id, b_id)) as pairs from pair_measurements").to_pylist() == [{"pairs": 2}]
    rest = Counting()
    assert zoo.map_pairs(rest, measure="d").num_rows == 6
    assert rest.calls == 4


def test_several_processes_give_the_same_table(zoo: Zoo) -> None:
    alone, together = zoo.map_pairs(distance, measure="d"), zoo.map_pairs(distance, measure="d", version="2", jobs=2)
    assert together.equals(alone)


def test_progress_counts_what_is_new(zoo: Zoo) -> None:
    seen: list[tuple[int, int]] = []
    zoo.map(total, "name = 'net/1'", measure="t")
    zoo.map(total, measure="t", progress=lambda p: seen.append((p.done, p.total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_numbers_that_are_not_finite_are_null(zoo: Zoo) -> None:
    table = zoo.map(lambda _: {"nan": np.float32("nan"), "inf": math.inf, "none": None, "one": torch.tensor(1.0)}, measure="odd")
    assert table.to_pylist()[0] == {"model": "net/1", "nan": None, "inf": None, "none": None, "one": 1.0}


def test_an_empty_query_gives_an_empty_table(zoo: Zoo) -> None:
    assert zoo.map_pairs(distance, "name = 'nobody'", measure="d").num_rows == 0


def test_a_function_that_gives_something_else_is_told_of_which_pair(zoo: Zoo) -> None:
    wrong: list[tuple[Callable[..., Any], str]] = [
        (lambda a, b: {}, r"measure 'd' of 'net/1' and 'net/2' is \{\}, expected a mapping from keys to numbers, not empty"),
        (lambda a, b: 3.0, r"measure 'd' of 'net/1' and 'net/2' is 3.0, expected a mapping"),
        (lambda a, b: {"k": "high"}, r"measure 'd' of 'net/1' and 'net/2' has 'high' for 'k', expected a number"),
        (lambda a, b: {"k": torch.ones(2)}, r"has tensor\(\[1., 1.\]\) for 'k', expected a number"),
        (lambda a, b: {1: 1.0}, r"has the key 1, expected text"),
        (unwilling, r"measure 'd' of 'net/1' and 'net/2': nothing fits; give others"),
    ]
    for function, message in wrong:
        with pytest.raises(RecordError, match=message):
            zoo.map_pairs(function, measure="d")
    assert zoo.sql("select count(*) as n from pair_measurements").to_pylist() == [{"n": 0}]


def test_parameters_must_be_json(zoo: Zoo) -> None:
    with pytest.raises(RecordError, match=r"parameters of measure 'd' are no JSON .*; give numbers, text, lists and mappings"):
        zoo.map(total, measure="d", parameters={"f": total})


def test_ordered_pairs_are_taken_both_ways_and_what_is_known_of_one_is_kept(zoo: Zoo) -> None:
    count = Counting()
    zoo.map_pairs(count, "name in ('net/1', 'net/8')", measure="d")
    table = zoo.map_pairs(count, "name in ('net/1', 'net/8')", measure="d", ordered=True)
    assert [(row["a"], row["b"], row["signed"]) for row in table.to_pylist()] == [("net/1", "net/8", -28.0), ("net/8", "net/1", 28.0)]
    assert count.calls == 2


def reluctant(*models: Checkpoint) -> dict[str, float]:
    if any(float(one["w"][0, 0]) == 2 for one in models):
        raise ShapeMismatchError("nothing fits; give others")
    return {"n": len(models)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_does_not_fit_is_left_out_and_asked_again(zoo: Zoo, jobs: int) -> None:
    told: list[tuple[str, str]] = []

    def skip(name: str, error: Exception) -> None:
        told.append((name, str(error)))

    assert zoo.map(reluctant, measure="n", skip=skip, jobs=jobs)["model"].to_pylist() == ["net/1", "net/4", "net/8"]
    assert told == [("net/2", "nothing fits; give others")]
    zoo.map(reluctant, measure="n", skip=skip)
    assert len(told) == 2, "nothing is stored of it"
    assert zoo.map_pairs(reluctant, measure="n", skip=skip).num_rows == 3
    assert [name for name, _ in told[2:]] == ["net/1 and net/2", "net/2 and net/4", "net/2 and net/8"]
    with pytest.raises(RecordError, match="measure 'n' of 'net/2': nothing fits"):
        zoo.map(reluctant, measure="n")


def test_a_model_whose_file_is_gone_is_left_out(tmp_path: Path) -> None:
    for value in (1, 2):
        save_file({"w": torch.full((2, 2), float(value))}, tmp_path / f"{value}.safetensors")
    zoo = Zoo(tmp_path)
    zoo.ingest([tmp_path])
    (tmp_path / "2.safetensors").unlink()
    told: list[str] = []
    assert zoo.map(total, measure="t", skip=lambda name, error: told.append(name))["model"].to_pylist() == ["1"]
    assert told == ["2"]
