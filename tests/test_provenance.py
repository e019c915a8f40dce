"""Provenance: recipe and parents come back from files, are catalogued, and what a hostile file claims is ignored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weightspace as ws
from weightspace.analysis.merging import merge
from weightspace.provenance import MAX_PARENTS, stated, told
from weightspace.zoo import Zoo

ID = "ab" * 32


def test_what_is_stated_is_told() -> None:
    recipe = {"kind": "merge", "models": [{"model": "ä", "t": [0, 0.5, True, None]}]}
    assert told(stated(recipe, [ID, "0" * 64])) == (recipe, (ID, "0" * 64))
    assert told({}) == (None, ())


HOSTILE: dict[str, Any] = {
    "not JSON": "{",
    "no text": 3,
    "another type": '["a"]',
    "a number": "1",
    "deep": '{"a":' * 500 + "1" + "}" * 500,
    "very deep": "[" * 100_000,
    "not a number": '{"a": NaN}',
    "infinite": '{"a": 1e999}',
    "half a character": '{"a": "\\ud800"}',
    "digits without end": '{"a": ' + "9" * 5000 + "}",
    "endless": json.dumps({"a": "x" * (1 << 20)}),
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_recipes_are_ignored(kind: str) -> None:
    assert told({"weightspace.recipe": HOSTILE[kind], "weightspace.parents": HOSTILE[kind]}) == (None, ())


@pytest.mark.parametrize(
    "parents", ["{}", '"' + ID + '"', "[1, null, [], {}]", '["xyz"]', json.dumps([ID.upper()]), json.dumps([ID + "0"])]
)
def test_parents_that_are_no_ids_are_ignored(parents: str) -> None:
    assert told({"weightspace.parents": parents})[1] == ()


def test_parents_are_counted() -> None:
    assert len(told(stated({}, [ID] * (MAX_PARENTS + 1)))[1]) == MAX_PARENTS


@pytest.mark.parametrize("out", ["out", "out.safetensors", "shards"])
def test_a_merge_says_how_it_was_made_and_is_catalogued_with_its_parents(out: str, tmp_path: Path) -> None:
    paths = [ws.save({"w": torch.full((4, 4), value), "v": torch.ones(2)}, tmp_path / f"{value}.safetensors") for value in (1.0, 3.0)]
    recipe = {"merge_method": "linear", "models": [str(path) for path in paths], "parameters": {"weight": 1}}
    made = merge(recipe, tmp_path / out, shard_bytes=1 if out == "shards" else 1 << 30)
    opened = ws.open(tmp_path / out)
    parents = tuple(ws.open(path).id for path in paths)
    assert opened.parents == made.parents == parents
    assert opened.recipe == made.recipe == {"kind": "merge", **recipe, "models": [{"model": str(path)} for path in paths]}
    zoo = Zoo(tmp_path)
    zoo.ingest(tmp_path)
    edges = zoo.sql(
        "select lower(hex(p.id)) as parent, edges.kind as kind from edges join models p on p.model_id = edges.parent_id"
    ).to_pylist()
    assert {(edge["parent"], edge["kind"]) for edge in edges} == {(parent, "merge") for parent in parents}
    (kept,) = zoo.sql("select recipe from recipes").to_pylist()
    assert json.loads(kept["recipe"]) == opened.recipe


def test_files_that_lie_are_catalogued_without_their_lies(tmp_path: Path) -> None:
    for at, (_, text) in enumerate((kind, text) for kind, text in HOSTILE.items() if isinstance(text, str)):
        tensors = {"w": torch.full((2,), float(at))}
        save_file(tensors, tmp_path / f"{at}.safetensors", {"weightspace.recipe": text, "weightspace.parents": text})
    own = {"w": torch.full((3,), 5.0)}
    save_file(own, tmp_path / "own.safetensors", stated({"kind": {"odd": []}}, [ws.Checkpoint.of(own).id]))
    zoo = Zoo(tmp_path)
    zoo.ingest(tmp_path)
    assert zoo.sql("select count(*) as n from models").to_pylist() == [{"n": len(HOSTILE)}]
    assert zoo.sql("select count(*) as n from edges").to_pylist() == [{"n": 0}]
    assert not zoo.quarantined().num_rows
