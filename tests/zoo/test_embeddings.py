"""Embeddings of models in the catalog, and nearest neighbours by cosine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weightspace.errors import CatalogError, RecordError, UnknownNameError
from weightspace.zoo import Added, Zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path)
    made.add_many([Added({"w": torch.full((2,), float(at))}, f"m{at}", metrics={"test": {"accuracy": at / 10}}) for at in range(6)])
    return made


def cosine(x: Any, y: Any) -> float:
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def test_neighbours_are_those_that_numpy_finds(zoo: Zoo) -> None:
    vectors = {f"m{at}": np.random.default_rng(at).normal(size=7) for at in range(6)}
    assert zoo.record_embeddings("net", "1", vectors) == 6
    found = zoo.similar("m2", limit=3)
    assert found.column_names == ["name", "similarity", "test_accuracy"]
    expected = sorted(((cosine(vectors["m2"], vector), name) for name, vector in vectors.items() if name != "m2"), reverse=True)[:3]
    assert [row["name"] for row in found.to_pylist()] == [name for _, name in expected]
    np.testing.assert_allclose(found["similarity"].to_numpy(), [value for value, _ in expected], rtol=1e-6)
    assert found["test_accuracy"].to_pylist() == [int(name[1]) / 10 for _, name in expected]


def test_a_vector_may_be_asked_for_and_models_chosen(zoo: Zoo) -> None:
    zoo.record_embeddings("net", "1", {f"m{at}": [1.0, float(at)] for at in range(6)})
    found = zoo.similar(torch.tensor([0.0, 1.0], requires_grad=True), where="test_accuracy < 0.25 -- the worst")
    assert found["name"].to_pylist() == ["m2", "m1", "m0"]
    assert zoo.similar([0, 1], limit=1)["name"].to_pylist() == ["m5"]


def test_embeddings_come_back_by_model_and_replace_each_other(zoo: Zoo) -> None:
    zoo.record_embeddings("net", "1", {"m0": [1, 2], "m1": [3, 4]})
    zoo.record_embeddings("net", "1", {"m1": np.array([5, 6]), zoo.page("m2").model["id"][:12]: torch.tensor([7.0, 8.0])})
    table = zoo.embeddings("net")
    assert table.column_names == ["model", "vector"]
    assert table.to_pylist() == [{"model": "m0", "vector": [1, 2]}, {"model": "m1", "vector": [5, 6]}, {"model": "m2", "vector": [7, 8]}]


def test_versions_may_have_other_lengths_and_the_last_one_counts(zoo: Zoo) -> None:
    zoo.record_embeddings("net", "10", {"m0": [1, 2]})
    zoo.record_embeddings("net", "9", {"m0": [1, 2, 3], "m1": [3, 2, 1]})
    assert zoo.embeddings("net").num_rows == 2 and zoo.embeddings("net", version="10").num_rows == 1
    zoo.record_embeddings("net", "10", {"m1": [2, 1]})
    assert zoo.similar("m0")["similarity"].to_pylist() == [pytest.approx(0.8)]


def test_zeros_are_similar_to_nothing(zoo: Zoo) -> None:
    zoo.record_embeddings("net", "1", {"m0": [0, 0], "m1": [1, 0], "m2": [1, 1]})
    assert zoo.similar("m1")["name"].to_pylist() == ["m2"]
    with pytest.raises(RecordError, match="all zeros"):
        zoo.similar("m0")


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_neither_tiny_nor_huge_numbers_change_a_cosine(zoo: Zoo, scale: float) -> None:
    zoo.record_embeddings("net", "1", {"m0": [scale, scale], "m1": [scale, 0], "m2": [-scale, -scale]})
    assert zoo.similar("m0")["similarity"].to_pylist() == [pytest.approx(np.sqrt(0.5)), pytest.approx(-1)]


def test_rows_that_others_damaged_are_left_out(zoo: Zoo) -> None:
    zoo.record_embeddings("net", "1", {"m0": [1, 0], "m1": [1, 1], "m2": [2, 1], "m3": [1, 3]})
    with zoo.catalog.writing() as connection:
        connection.execute("update embeddings set vector = ['nan'::float, 1] where model_id = 2")
        connection.execute("update embeddings set vector = [1] where model_id = 3")
    assert zoo.similar("m0")["name"].to_pylist() == ["m3"]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"m0": [1, 2], "m1": [float("nan"), 1]}, "embedding of 'm1' has 1 numbers that are not finite"),
    "beyond float32": ({"m0": [1e300]}, "has 1 numbers that are not finite"),
    "other lengths": ({"m0": [1, 2], "m1": [1]}, "embedding of 'm0' has 2 numbers and that of 'm1' 1"),
    "a matrix": ({"m0": [[1, 2]]}, r"has shape \[1, 2\], expected 1 to 65536 numbers in a row"),
    "nothing": ({"m0": []}, r"has shape \[0\]"),
    "text": ({"m0": "high"}, "is str, expected numbers"),
    "another length than before": ({"m0": [1, 2, 3]}, "have 2 numbers, these have 3; record them under another version"),
}


@pytest.mark.parametrize(("vectors", "message"), BAD.values(), ids=BAD)
def test_what_is_no_embedding_is_one_clear_line_and_changes_nothing(zoo: Zoo, vectors: dict[str, Any], message: str) -> None:
    zoo.record_embeddings("net", "1", {"m0": [1, 2], "m5": [3, 4]})
    before = zoo.embeddings("net")
    with pytest.raises(RecordError, match=message):
        zoo.record_embeddings("net", "1", vectors)
    assert zoo.embeddings("net") == before


def test_an_unknown_model_keeps_all_from_being_written(zoo: Zoo) -> None:
    with pytest.raises(UnknownNameError, match="no model 'm9' in this zoo"):
        zoo.record_embeddings("net", "1", {"m0": [1], "m9": [1]})
    with pytest.raises(RecordError, match="needs the name of its metanet and its version"):
        zoo.record_embeddings("net", "", {"m0": [1]})
    with pytest.raises(CatalogError, match="this zoo has no embeddings yet; run 'weightspace embed' to make some"):
        zoo.embeddings()
    assert zoo.record_embeddings("net", "1", {}) == 0


def test_what_is_asked_for_in_vain_is_one_clear_line(zoo: Zoo) -> None:
    zoo.record_embeddings("gmn", "1", {"m0": [1, 2], "m1": [2, 1]})
    with pytest.raises(CatalogError, match="model 'm3' has no embedding of 'gmn', which 2 others have; run 'weightspace embed'"):
        zoo.similar("m3")
    with pytest.raises(UnknownNameError, match="no metanet with embeddings named 'gnm'; did you mean 'gmn'"):
        zoo.similar("m0", "gnm")
    with pytest.raises(UnknownNameError, match="no version of 'gmn' named '2'"):
        zoo.embeddings("gmn", version="2")
    with pytest.raises(RecordError, match="the query has 3 numbers, embeddings of 'gmn' have 2"):
        zoo.similar([1, 2, 3])
    with pytest.raises(CatalogError, match='"accurcy" not found'):
        zoo.similar("m0", where="accurcy > 1")
    zoo.record_embeddings("dws", "1", {"m0": [1]})
    with pytest.raises(CatalogError, match=r"embeddings of 2 metanets \(gmn, dws\); name one with --metanet"):
        zoo.similar("m0")
