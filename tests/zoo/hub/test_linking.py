"""Bases that cards declare become edges, in whichever order the models come."""

import itertools
import json

import numpy as np
import pytest

from tests.remote.hubs import Hub
from tests.remote.test_remote import hasty
from weightspace.zoo import Zoo
from weightspace.zoo.hub import ingest_hub, pull_model
from weightspace.zoo.hub.linking import bases_of

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
__all__ = ["hasty"]

EDGES = """select p.name as parent, c.name as child, e.kind, evidence from edges e join models p on p.model_id = parent_id
    join models c on c.model_id = child_id order by all"""


@pytest.fixture
def zoo(tmp_path: object) -> Zoo:
    return Zoo(f"{tmp_path}/zoo")


def edges(zoo: Zoo) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in zoo.sql(EDGES).to_pylist()]


@pytest.mark.parametrize("order", list(itertools.permutations(["lab/base", "lab/child", "lab/mixed"])))
def test_in_whichever_order(hub: Hub, zoo: Zoo, order: tuple[str, ...]) -> None:
    hub.model("lab/base", 0)
    hub.model("lab/child", 1, card="base_model: Lab/Base")
    hub.model("lab/mixed", 2, card="base_model: [lab/base, lab/child, lab/absent]")
    counts = [ingest_hub(zoo.catalog, [name]).edges for name in order]
    assert sum(counts) == 3 and ingest_hub(zoo.catalog, order).edges == 0
    assert edges(zoo) == [
        ("lab/base", "lab/child", "finetune", "card"),
        ("lab/base", "lab/mixed", "merge", "card"),
        ("lab/child", "lab/mixed", "merge", "card"),
    ]


@pytest.mark.parametrize("kind", ["finetune", "adapter", "merge", "quantized"])
def test_of_the_kind_that_is_declared(hub: Hub, zoo: Zoo, kind: str) -> None:
    hub.model("lab/base", 0)
    hub.model("lab/child", 1, card=f"base_model: lab/base\nbase_model_relation: {kind}")
    ingest_hub(zoo.catalog, ["lab/child", "lab/base"])
    assert edges(zoo) == [("lab/base", "lab/child", kind, "card")]


def test_an_adapter_says_it_in_its_configuration(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/base", 0)
    factors = {"lora_A.weight": np.ones((2, 4), np.float32), "lora_B.weight": np.ones((8, 2), np.float32)}
    folder = hub.model("lab/tuned", files={"adapter_model.safetensors": factors})
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({"r": 2, "lora_alpha": 4, "base_model_name_or_path": "lab/base"}))
    hub.api.upload_file(path_or_fileobj=config, path_in_repo=config.name, repo_id="lab/tuned")
    ingest_hub(zoo.catalog, ["lab/tuned", "lab/base"])
    assert edges(zoo) == [("lab/base", "lab/tuned", "adapter", "card")]
    opened = zoo.open("lab/tuned")
    assert opened.kind == "adapter" and opened.metadata["adapter_config"]["lora_alpha"] == 4


def test_a_card_that_says_otherwise_is_believed_and_what_a_recipe_says_stays(hub: Hub, zoo: Zoo) -> None:
    for at, name in enumerate(("lab/a", "lab/b")):
        hub.model(name, at)
    hub.model("lab/child", 5, card="base_model: lab/a")
    ingest_hub(zoo.catalog, ["lab/a", "lab/b", "lab/child"])
    hub.model("lab/child", 5, card="base_model: lab/b")
    assert ingest_hub(zoo.catalog, ["lab/child"]).edges == 1
    assert edges(zoo) == [("lab/b", "lab/child", "finetune", "card")]
    assert zoo.record_edges([], among=["lab/b", "lab/child"]) == 0 and len(edges(zoo)) == 1


def test_nothing_descends_from_itself(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/a", 0, card="base_model: lab/b")
    hub.model("lab/b", 1, card="base_model: [lab/a, lab/b]")
    ingest_hub(zoo.catalog, ["lab/a", "lab/b"])
    assert len(edges(zoo)) == 1 and ingest_hub(zoo.catalog, ["lab/a", "lab/b"]).edges == 0


def test_a_model_that_was_pulled_is_a_base_as_well(hub: Hub, zoo: Zoo) -> None:
    hub.model("lab/base", 0)
    hub.model("lab/child", 1, card="base_model: lab/base")
    pull_model(zoo, "lab/base")
    ingest_hub(zoo.catalog, ["lab/child"])
    assert edges(zoo) == [("lab/base", "lab/child", "finetune", "card")]


@pytest.mark.parametrize(
    ("card", "adapter", "tags", "found"),
    [
        ({}, {}, [], []),
        ({"base_model": {"x": 1}}, {"base_model_name_or_path": 5}, [None], []),
        ({"base_model": " lab/a "}, {}, ["base_model:quantized:lab/a", "base_model:lab/a"], [{"name": "lab/a", "kind": "quantized"}]),
        ({"base_model": ["lab/a", 3, "", "lab/a"], "base_model_relation": "cousin"}, {}, [], [{"name": "lab/a", "kind": "merge"}]),
        ({}, {"base_model_name_or_path": "lab/a"}, [], [{"name": "lab/a", "kind": "adapter"}]),
    ],
)
def test_what_is_said_in_other_ways(card: dict[str, object], adapter: dict[str, object], tags: list[str], found: list[object]) -> None:
    assert bases_of(card, adapter, tags, False) == found
