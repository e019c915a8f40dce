"""Dense and sparse: the steps of both forms of graphs agree, and so do the two paths of every family that reads graphs."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.errors import MetanetError
from weightspace.metanets import MetaNet, WeightBatch, WeightSet, build, metanets
from weightspace.metanets.graphs.graph import collate, to_graphs
from weightspace.metanets.graphs.net import BUDGET, GraphMetaNet
from weightspace.metanets.graphs.paths import DenseGraphs, Edges, Graphs, Reduction, SparseGraphs
from weightspace.spec import SymmetrySpec

REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "max", "min")
JOINED = SymmetrySpec.parse({"t.weight": "a b' c'", "t.scale": "", "s.weight": "b a'", "s.bias": "b"}, sizes={"a": 2, "b": 3, "c": 4})
"""Pairs, and a number that stands for itself."""


FAMILIES = [name for name, family in metanets.items() if isinstance(family.make, type) and issubclass(family.make, GraphMetaNet)]


def reader(name: str, *specs: SymmetrySpec) -> GraphMetaNet:
    """A small one in float64, every parameter drawn at random; skips what the family says that it does not read."""
    torch.manual_seed(0)
    try:
        net = build(name, specs).double().eval()
    except MetanetError as error:
        pytest.skip(str(error))
    assert isinstance(net, GraphMetaNet)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim < 2 else (2 / max(1, parameter[0].numel())) ** 0.5)
    return net


def drawn(count: int) -> WeightBatch:
    generator = torch.Generator().manual_seed(0)
    states = [{name: torch.randn(JOINED.shape(name), generator=generator) for name in JOINED.tensors} for _ in range(count)]
    return WeightBatch.stack(states, JOINED, dtype=torch.float64)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / (1e-12 + expected.norm()))


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "joined"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_sparse_path_of_a_family_equals_the_dense_one(name: str, kind: str) -> None:
    batch = drawn(3) if kind == "joined" else architecture(kind).batch(3)
    net = reader(name, batch.spec)
    with torch.no_grad():
        assert difference(net.embed_graphs(collate(to_graphs(batch))), net(batch)) < 1e-9


@pytest.mark.parametrize("budget", [1, 300, BUDGET])
@pytest.mark.parametrize("name", FAMILIES)
def test_few_networks_of_many_architectures_are_read_as_graphs_with_the_same_result(
    name: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [drawn(2), *(architecture(kind).batch(2) for kind in ARCHITECTURES)]
    net = reader(name, *(batch.spec for batch in batches))
    order = torch.randperm(2 * len(batches), generator=torch.Generator().manual_seed(0))
    mixed = WeightSet.grouped(batches).take(order)
    with torch.no_grad():
        expected = MetaNet.forward(net, mixed)
        assert difference(net.embed_graphs(collate(to_graphs(mixed))), expected) < 1e-9
        monkeypatch.setattr("weightspace.metanets.graphs.net.BUDGET", budget)
        monkeypatch.setattr(net, "embed", None)  # the dense path
        assert difference(net(mixed), expected) < 1e-9


def test_many_networks_of_few_architectures_and_a_batch_are_read_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [architecture(kind).batch(4) for kind in ("mlp", "wide mlp")]
    net = reader("gmn", *(batch.spec for batch in batches))
    monkeypatch.setattr(net, "embed_graphs", None)
    with torch.no_grad():
        assert torch.equal(net(WeightSet.grouped(batches)), torch.cat([net(batch) for batch in batches]))
        assert torch.equal(net(WeightSet.grouped([batches[0][:1]])), net(batches[0][:1]))


@pytest.mark.parametrize("name", FAMILIES)
def test_both_paths_have_the_same_gradients(name: str) -> None:
    batch = architecture("transformer").batch(2)
    net = reader(name, batch.spec)
    graphs, found = collate(to_graphs(batch)), []
    for is_sparse in (False, True):
        net.zero_grad()
        (net.embed_graphs(graphs) if is_sparse else net(batch)).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None])
    assert found[0] and all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "joined"])
def test_both_forms_of_graphs_take_the_same_steps(kind: str) -> None:
    batch = drawn(2) if kind == "joined" else architecture(kind).batch(2)
    dense, sparse = DenseGraphs(batch), SparseGraphs(collate(to_graphs(batch)))
    nodes = torch.randn(2, dense.wiring.num_nodes, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forms: tuple[tuple[Graphs, Tensor], ...] = (dense, nodes), (sparse, nodes.flatten(0, 1))

    def same(step: Callable[[Graphs, Tensor], Tensor]) -> None:
        one, other = (step(graphs, states) for graphs, states in forms)
        assert one.isfinite().all() and torch.allclose(one.flatten(0, -2), other, rtol=0, atol=1e-12)

    def along(graphs: Graphs, ends: Edges) -> Edges:
        return [value.sum(-1, keepdim=True) * end for value, end in zip(graphs.values, ends, strict=True)]

    for how in REDUCTIONS:
        same(partial(lambda how, graphs, states: graphs.to_targets(along(graphs, graphs.from_sources(states)), how), how))
        same(partial(lambda how, graphs, states: graphs.to_sources(along(graphs, graphs.from_sources(states)), how), how))
        same(partial(lambda how, graphs, states: graphs.to_targets(along(graphs, graphs.from_targets(states)), how), how))
        same(partial(lambda how, graphs, states: graphs.to_sources(along(graphs, graphs.from_targets(states)), how), how))
    same(lambda graphs, states: graphs.mean_of_edges(along(graphs, graphs.from_sources(states))))
    same(lambda graphs, states: graphs.mean_of_nodes(states))
    same(lambda graphs, states: graphs.to_parents(states))
    same(lambda graphs, states: graphs.to_children(states))
    assert dense.has_links == sparse.has_links == (kind in ("grouped", "transformer", "joined"))


def test_nodes_hear_the_mean_over_all_edges_whatever_slot_they_are_of() -> None:
    spec = SymmetrySpec.parse({"a.weight": "h 3", "b.weight": "h 1"}, sizes={"h": 2})
    batch = WeightBatch.stack([{"a.weight": torch.ones(2, 3), "b.weight": 5 * torch.ones(2, 1)}], spec)
    graphs = DenseGraphs(batch)
    start = next(place.start for place in graphs.wiring.places if place.group == "h")
    assert graphs.to_targets(graphs.values)[0, start : start + 2, 0].tolist() == [2.0, 2.0]  # (1 + 1 + 1 + 5) / 4
