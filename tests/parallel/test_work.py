"""The package's own work on clusters: the same catalog, tables, matches and networks as here."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.trees import make_tree
from tests.zoo.wholeness import content_with_keys, faults
from weightspace.analysis.matching import match_pairs
from weightspace.checkpoint import Checkpoint
from weightspace.errors import UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.zoo import Added, Zoo
from weightspace.zoo.mapping import Measure
from weightspace.zoo.populations import populations


def norm(checkpoint: Checkpoint) -> dict[str, float]:
    return {"norm": float(checkpoint["w"].norm())}


def distance(a: Checkpoint, b: Checkpoint) -> dict[str, float]:
    return {"l2": float((a["w"] - b["w"]).norm())}


def largest(checkpoint: Checkpoint, tensors: Any, measures: Any) -> dict[str, dict[str, dict[str, float]]]:
    return {tensor: {measure: {"": float(checkpoint[tensor].max())} for measure in measures} for tensor in tensors}


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path / "zoo")
    made.add_many([Added({"w": torch.full((2, 2), float(value))}, f"net/{value}") for value in (1, 2, 4, 8)])
    return made


def stored(zoo: Zoo) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (zoo.catalog.home / "store").rglob("*") if path.is_file()}


def test_ingest_gives_the_same_catalog_and_bytes(cluster: str, tmp_path: Path, in_many_tasks: None) -> None:
    tree = make_tree(tmp_path / "tree", small=12, large=1, large_width=40_000)
    alone, together = Zoo(tmp_path / "alone"), Zoo(tmp_path / "together")
    here, there = alone.ingest(tree, jobs=1, copy=True), together.ingest(tree, jobs=2, backend=cluster, copy=True)
    assert here.catalogued == there.catalogued > 12 and here.bytes_read == there.bytes_read
    assert [one.reason for one in here.quarantined] == [one.reason for one in there.quarantined]
    assert faults(together) == []
    assert {key: rows for key, rows in content_with_keys(together).items()} == content_with_keys(alone)
    assert stored(together) == stored(alone)


def test_measures_are_the_same(cluster: str, zoo: Zoo) -> None:
    workers: dict[str, Any] = {"jobs": 2, "backend": cluster}
    assert zoo.map(norm, measure="n", version="2", **workers).equals(zoo.map(norm, measure="n"))
    assert zoo.map_pairs(distance, measure="d", version="2", **workers).equals(zoo.map_pairs(distance, measure="d"))
    alone, together = ([Measure("largest", version)] for version in "12")
    table = zoo.map_tensors(largest, measures=together, choose=list, backend=cluster)
    assert table.equals(zoo.map_tensors(largest, measures=alone, choose=list)) and table.num_rows == 4


def test_matches_of_pairs_are_the_same(cluster: str) -> None:
    spec = SymmetrySpec.parse({"a.weight": "h 4", "b.weight": "3 h"}, sizes={"h": 5})
    drawn = torch.Generator().manual_seed(0)
    models = [{"a.weight": torch.randn(5, 4, generator=drawn), "b.weight": torch.randn(3, 5, generator=drawn)} for _ in range(3)]
    alone, together = match_pairs(models, spec), match_pairs(models, spec, jobs=2, backend=cluster)
    assert list(alone) == list(together) == [(0, 1), (0, 2), (1, 2)]
    for pair, found in alone.items():
        assert found.objective == together[pair].objective
        assert (found.element.inverse() @ together[pair].element).is_identity


def test_populations_are_the_same_to_the_bit(cluster: str) -> None:
    settings: dict[str, Any] = {"count": 4, "data": "digits", "widths": (4,), "depths": (1, 2), "activations": ("relu",), "steps": (0, 8)}
    alone, together = (list(populations["mlps"](**settings, **more)) for more in ({"jobs": 2}, {"jobs": 2, "backend": cluster}))
    assert [one.name for one in alone] == [one.name for one in together] and len(alone) == 8
    for one, other in zip(alone, together, strict=True):
        assert one.recipe == other.recipe and one.metrics == other.metrics
        assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_an_unknown_backend_is_told_before_any_work(zoo: Zoo, tmp_path: Path) -> None:
    for work in (
        lambda: zoo.ingest(tmp_path, backend="dusk"),
        lambda: zoo.map(norm, measure="n", backend="dusk"),
        lambda: list(populations["mlps"](count=1, data="digits", backend="dusk")),
    ):
        with pytest.raises(UnknownNameError, match="no backend named 'dusk'; did you mean 'dask'"):
            work()
