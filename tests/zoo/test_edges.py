"""Inferred edges: written together, never in place of what a recipe states."""

from pathlib import Path

import pytest
import torch

from weightspace.errors import RecordError, UnknownNameError
from weightspace.zoo import Added, Edge, Zoo


@pytest.fixture
def family(tmp_path: Path) -> Zoo:
    zoo = Zoo(tmp_path)
    zoo.add_many([Added({"w": torch.full((2, 2), float(value))}, name) for value, name in enumerate("abcd")])
    zoo.add({"w": torch.zeros(3)}, "merged", recipe={"kind": "merge"}, parents=["a"])
    return zoo


def edges(zoo: Zoo) -> list[tuple[str, str, str, str, float]]:
    rows = zoo.sql(
        "select p.name, c.name as child, e.kind, evidence, confidence from edges e join models p on p.model_id = parent_id"
        " join models c on c.model_id = child_id order by all"
    ).to_pylist()
    return [tuple(row.values()) for row in rows]


def test_edges_are_found_among_the_descendants(family: Zoo) -> None:
    assert family.record_edges([Edge("a", "b", "finetune", "low rank", 0.9), Edge("b", "c", "pruned", "zeros", 1.0)]) == 2
    names = family.sql("select m.name from descendants d join models m on m.model_id = descendant_id join models a on a.model_id = d.model_id"
                       " where a.name = 'a' order by 1")["name"].to_pylist()  # fmt: skip
    assert names == ["b", "c", "merged"]


def test_a_second_finding_takes_the_place_of_the_first_and_leaves_recipes_alone(family: Zoo) -> None:
    family.record_edges([Edge("a", "b", "finetune", "low rank", 0.9), Edge("c", "d", "finetune", "low rank", 0.8)])
    assert family.record_edges([Edge("b", "a", "copy", "same", 0.7), Edge("a", "merged", "finetune", "x", 0.5)], among=["b"]) == 1
    assert edges(family) == [
        ("a", "merged", "merge", "recipe", 1.0),
        ("b", "a", "copy", "same", 0.7),
        ("c", "d", "finetune", "low rank", 0.8),
    ]
    family.record_edges([], among=["a", "b", "c", "d", "merged"])
    assert edges(family) == [("a", "merged", "merge", "recipe", 1.0)]


@pytest.mark.parametrize(
    ("edge", "error", "message"),
    [
        (Edge("a", "b", "finetune", "x", 1.5), RecordError, "confidence 1.5, expected a probability"),
        (Edge("a", "b", "finetune", "recipe", 1.0), RecordError, "which only making a model leaves"),
        (Edge("a", "nobody", "finetune", "x", 1.0), UnknownNameError, "nobody"),
    ],
)
def test_what_is_no_edge_is_refused_and_nothing_changes(family: Zoo, edge: Edge, error: type[Exception], message: str) -> None:
    before = edges(family)
    with pytest.raises(error, match=message):
        family.record_edges([Edge("c", "d", "finetune", "low rank", 0.8), edge])
    assert edges(family) == before
