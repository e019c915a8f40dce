"""Graphs of architectures: what is read off a module, and what is computed of the graph."""

from collections.abc import Callable

import networkx
import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.generation.graphs.graph import PRIMITIVES, ArchitectureGraph, channel_sizes, sizes_of, virtual_weights
from weightspace.analysis.generation.graphs.reading import read
from weightspace.errors import GenerationError


class Branching(nn.Module):
    """A convolution, a norm and an encoding of places; a skip, a sum, a concatenation, a gate and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.places = nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.Parameter(torch.zeros(8, 6))
        self.grouped, self.wide = nn.Conv1d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv1d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.head, self.unread = nn.Linear(16, 3), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu() + self.places
        y = x + self.grouped(x)
        z = torch.cat([y, self.wide(y)], 1)
        z = nn.functional.max_pool1d(z * z.sigmoid(), 2).mean(-1)
        logits: Tensor = self.head(z)
        return logits


def told(graph: ArchitectureGraph) -> list[tuple[str, list[int]]]:
    """Each node's primitive with the nodes that it reads."""
    return [(one, [source for source, target in graph.edges if target == at]) for at, one in enumerate(graph.primitives)]


def test_a_module_is_read_as_its_primitives_joined_by_the_flow_of_data() -> None:
    graph = read(Branching(), torch.randn(2, 1, 6))
    assert told(graph) == [
        ("input", []),
        ("conv", [0]),
        ("bias", [1]),
        ("bn", [2]),
        ("pos_enc", [3]),
        ("sep_conv", [4]),
        ("sum", [4, 5]),
        ("dil_conv", [6]),
        ("concat", [6, 7]),
        ("cse", [8]),
        ("max_pool", [9]),
        ("glob_avg", [10]),
        ("class_layer", [11]),
        ("class_bias", [12]),
        ("bias", []),  # what nothing reads
    ]
    assert graph.sizes[1] == (8, 1, 1, 3) and graph.sizes[3] == (8, 0, 0, 0) and graph.sizes[6] == (0, 0, 0, 0)
    assert graph.tensors == {
        "first.weight": (1, "matrix"),
        "first.bias": (2, "shift"),
        "norm.weight": (3, "scale"),
        "norm.bias": (3, "shift"),
        "places": (4, "position"),
        "grouped.weight": (5, "matrix"),
        "wide.weight": (7, "matrix"),
        "head.weight": (12, "matrix"),
        "head.bias": (13, "shift"),
        "unread": (14, "shift"),
    }


class Scaled(nn.Module):
    """A vector that multiplies, one that is subtracted, and a table that is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gain, self.shift, self.out = (
            nn.Embedding(5, 4),
            nn.Parameter(torch.ones(4)),
            nn.Parameter(torch.zeros(4)),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.table(x) * self.gain - self.shift)
        return logits


def test_bare_parameters_are_scales_and_shifts_and_tables_are_positions() -> None:
    graph = read(Scaled(), torch.zeros(2, 3, dtype=torch.long))
    assert [role for _, role in graph.tensors.values()] == ["position", "scale", "shift", "matrix", "shift"]


def test_a_parameter_that_serves_twice_is_made_by_the_first_node() -> None:
    shared = nn.Linear(4, 4, bias=False)
    graph = read(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 4))
    assert told(graph) == [("input", []), ("conv", [0]), ("class_layer", [1])]
    assert graph.tensors == {"0.weight": (1, "matrix")}


def test_attention_and_layer_norms_are_read() -> None:
    graph = read(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8))
    assert [graph.primitives.count(one) for one in ("msa", "ln", "sum", "class_layer")] == [1, 2, 2, 1]
    assert set(graph.tensors) == {name for name, _ in nn.TransformerEncoderLayer(8, 2, 16).named_parameters()}


class Deciding(nn.Module):
    """A path that depends on data."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if bool(x.sum() > 0) else x


def test_a_module_that_cannot_be_read_is_named() -> None:
    with pytest.raises(GenerationError, match=r"the graph of module Deciding cannot be read: .*depends on the data"):
        read(Deciding(), torch.randn(2, 4))


def test_paths_and_depths_are_those_of_the_graph() -> None:
    graph = read(Branching(), torch.randn(2, 1, 6))
    expected = networkx.DiGraph(graph.edges)
    lengths = dict(networkx.all_pairs_shortest_path_length(expected))
    for source in range(len(graph)):
        for target in range(len(graph)):
            assert int(graph.distances[source, target]) == lengths.get(source, {}).get(target, 0)
    layers = {node: depth for depth, nodes in enumerate(networkx.topological_generations(expected)) for node in nodes}
    assert graph.depths == tuple(layers.get(node, 0) for node in range(len(graph)))


def test_virtual_edges_weigh_one_over_the_path() -> None:
    distances = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert virtual_weights(distances, 50).tolist() == [[0, 0, 0.5, pytest.approx(1 / 3)], [0, 0, 0, 0.5], [0] * 4, [0] * 4]
    assert virtual_weights(distances, 2)[0].tolist() == [0, 0, 0.5, 0]
    assert not virtual_weights(distances, 1).any()


def test_a_graph_comes_back_from_its_tensors() -> None:
    graph = read(Branching(), torch.randn(2, 1, 6))
    names = sorted(graph.tensors)
    again = ArchitectureGraph.of(names, graph.described(names))
    assert (again.primitives, again.sizes, again.edges, dict(again.tensors)) == (
        graph.primitives,
        graph.sizes,
        graph.edges,
        dict(graph.tensors),
    )


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((), (1, 0, 0, 0)),
        ((3,), (3, 0, 0, 0)),
        ((3, 2), (3, 2, 1, 1)),
        ((3, 2, 5), (3, 2, 1, 5)),
        ((3, 2, 4, 5), (3, 2, 4, 5)),
        ((3, 2, 2, 4, 5), (3, 2, 8, 5)),
    ],
)
def test_shapes_are_channels_and_kernels(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert sizes_of(shape) == sizes


def test_the_vocabularies_hold_what_was_published() -> None:
    published = {"max_pool", "avg_pool", "sep_conv", "dil_conv", "conv", "msa", "cse", "sum", "concat", "input", "bias", "bn", "ln"}
    assert published | {"pos_enc", "glob_avg"} < set(PRIMITIVES)
    channels: Callable[[], tuple[int, ...]] = channel_sizes
    assert {1, 3, 8, 64, 80, 4096, 4128, 8192} < set(channels()) and 72 not in channels()
    assert list(channels()) == sorted(set(channels()))
