"""Layers that read graphs, and the decoder: against plain computations of their definitions."""

import math

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.generation.graphs.decoder import Decoder, Order, orders_of
from weightspace.analysis.generation.graphs.features import NodeFeatures
from weightspace.analysis.generation.graphs.gated import GatedGNN
from weightspace.analysis.generation.graphs.graph import ArchitectureGraph
from weightspace.analysis.generation.graphs.normalisation import normalised
from weightspace.analysis.generation.graphs.transformer import GraphTransformer
from weightspace.analysis.generation.target import Target

HIDDEN = 8


def graph(edges: tuple[tuple[int, int], ...], count: int) -> ArchitectureGraph:
    return ArchitectureGraph(("conv",) * count, ((4, 4, 1, 1),) * count, edges, {})


DIAMOND = graph(((0, 1), (0, 2), (1, 4), (2, 3), (3, 4), (4, 5), (0, 5)), 6)
CHAIN = graph(((0, 1), (1, 2), (2, 3)), 4)


def one_by_one(layers: GatedGNN, nodes: Tensor, one: ArchitectureGraph, order: list[int]) -> Tensor:
    """The published update, node by node."""
    states = list(nodes)
    for reverse in (False, True):
        lengths = one.distances.T if not reverse else one.distances  # rows are what a node hears
        for node in reversed(order) if reverse else order:
            message = torch.zeros(HIDDEN)
            for other in range(len(one)):
                length = int(lengths[node, other])
                if length == 1:
                    message = message + layers.near(states[other])
                elif 1 < length <= layers.farthest:
                    message = message + layers.far(states[other]) / length
            states[node] = layers.cell(message[None], states[node][None])[0]
    return torch.stack(states)


@pytest.mark.parametrize("farthest", [1, 2, 50])
def test_the_gated_network_updates_nodes_in_their_order_there_and_back(farthest: int) -> None:
    torch.manual_seed(0)
    layers, nodes = GatedGNN(HIDDEN, rounds=1, farthest=farthest), torch.randn(10, HIDDEN)
    expected = torch.cat([one_by_one(layers, nodes[:6], DIAMOND, list(range(6))), one_by_one(layers, nodes[6:], CHAIN, list(range(4)))])
    torch.testing.assert_close(layers(nodes, [DIAMOND, CHAIN]), expected)


def test_virtual_edges_let_the_end_of_a_branch_hear_past_its_neighbours() -> None:
    torch.manual_seed(0)
    nodes = torch.randn(4, HIDDEN)
    layers = GatedGNN(HIDDEN, rounds=1, farthest=50)
    without = GatedGNN(HIDDEN, rounds=1, farthest=1)
    without.load_state_dict(layers.state_dict())
    assert not torch.allclose(layers(nodes, [CHAIN]), without(nodes, [CHAIN]))


@pytest.mark.parametrize("farthest", [1, 50])
def test_the_transformer_sees_each_graph_alone(farthest: int) -> None:
    torch.manual_seed(0)
    layers, nodes = GraphTransformer(HIDDEN, layers=2, heads=2, farthest=farthest), torch.randn(10, HIDDEN)
    together = layers(nodes, [DIAMOND, CHAIN])
    torch.testing.assert_close(together, torch.cat([layers(nodes[:6], [DIAMOND]), layers(nodes[6:], [CHAIN])]))
    assert not torch.allclose(together[6:], layers(nodes[6:], [graph(((0, 1), (1, 2), (0, 3)), 4)]))


def test_the_transformers_bias_tells_the_directions_and_lengths_of_paths() -> None:
    torch.manual_seed(0)
    layers = GraphTransformer(HIDDEN, layers=1, heads=2, farthest=50)
    bias = layers._biases(CHAIN.distances[None], torch.ones(1, 4, dtype=torch.bool))[0, 0].detach()
    torch.testing.assert_close(bias[0, 1], bias[2, 3])
    torch.testing.assert_close(bias[0, 0], bias[1, 1])
    assert len({round(float(bias[at]), 5) for at in ((0, 0), (0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (3, 0))}) == 7
    near = GraphTransformer(HIDDEN, layers=1, heads=2, farthest=1)._biases(CHAIN.distances[None], torch.ones(1, 4, dtype=torch.bool))[0, 0]
    torch.testing.assert_close(near[0, 2], near[0, 0])


def test_layers_follow_the_numbers_of_the_nodes() -> None:
    torch.manual_seed(0)
    swap = [0, 2, 1, 3, 4, 5]
    swapped = graph(tuple((swap[source], swap[target]) for source, target in DIAMOND.edges), 6)
    nodes = torch.randn(6, HIDDEN)
    for layers in (GatedGNN(HIDDEN, rounds=2, farthest=50), GraphTransformer(HIDDEN, layers=2, heads=2, farthest=50)):
        torch.testing.assert_close(layers(nodes[swap], [swapped]), layers(nodes, [DIAMOND])[swap])


def test_features_take_unknown_sizes_for_the_nearest() -> None:
    torch.manual_seed(0)
    features = NodeFeatures(HIDDEN)

    def of(*sizes: int) -> Tensor:
        out, into, rows, columns = sizes
        made: Tensor = features([ArchitectureGraph(("conv",), ((out, into, rows, columns),), (), {})])
        return made[0]

    assert torch.equal(of(9000, 62, 1, 20), of(8192, 64, 1, 11))
    assert not torch.equal(of(15, 1, 1, 1), of(16, 1, 1, 1))
    assert not torch.equal(of(0, 0, 0, 0), of(1, 1, 0, 0))


@pytest.mark.parametrize(
    ("shape", "is_grouped", "expected"),
    [
        ((6, 8), False, 2 / 8),
        ((6, 4, 3, 5), False, 2 / 60),
        ((6, 1, 3), False, 2 / 3),
        ((6, 1, 3), True, 1 / 3),
        ((6, 4, 3), True, 2 / 12),
        ((6, 4, 1, 7), False, 1 / 28),
        ((6, 4, 1, 1), False, 2 / 4),
    ],
)
def test_matrices_are_scaled_by_their_fan_in(shape: tuple[int, ...], is_grouped: bool, expected: float) -> None:
    torch.testing.assert_close(
        normalised(torch.ones(shape), "matrix", shape, is_grouped=is_grouped), torch.full(shape, math.sqrt(expected))
    )


def test_scales_are_about_one_and_shifts_about_zero() -> None:
    values = torch.tensor([-3.0, 0.0, 1.0])
    torch.testing.assert_close(normalised(values, "scale", (3,)), 2 / (1 + torch.exp(-values / 2)))
    torch.testing.assert_close(normalised(values, "shift", (3,)), torch.tanh(values / 5))
    assert torch.equal(normalised(values, "position", (3,)), values)


def decoder(normalise: bool = True, max_channels: int = 6) -> Decoder:
    torch.manual_seed(0)
    return Decoder(HIDDEN, width=8, max_channels=max_channels, max_kernel=3, normalise=normalise)


def test_channels_are_cut_or_repeated_outputs_first() -> None:
    made, nodes = decoder(normalise=False), torch.randn(2, HIDDEN)
    whole, small, large = made(nodes, [Order(0, "matrix", shape, "conv") for shape in ((6, 6), (4, 2), (8, 13))])
    assert torch.equal(small, whole[:4, :2])
    assert torch.equal(large, torch.cat([whole, whole], 0)[:8].repeat(1, 3)[:, :13])
    narrow, wide = made(nodes, [Order(1, "shift", (4,), "bias"), Order(1, "shift", (8,), "bias")])
    assert torch.equal(wide, torch.cat([wide[:6], wide[:2]])) and torch.equal(narrow, wide[:4])


def test_kernels_are_the_middle_of_the_largest_and_larger_ones_are_interpolated() -> None:
    made, nodes = decoder(normalise=False), torch.randn(1, HIDDEN)
    shapes = ((6, 6, 3, 3), (6, 6), (6, 6, 3), (6, 6, 5, 5))
    whole, point, row, large = made(nodes, [Order(0, "matrix", shape, "conv") for shape in shapes])
    torch.testing.assert_close(point, whole[:, :, 1, 1])
    torch.testing.assert_close(row, whole[:, :, 1])
    torch.testing.assert_close(large, nn.functional.interpolate(whole, (5, 5), mode="bilinear"))


def test_a_norms_scale_and_shift_differ_and_the_class_layer_is_mixed() -> None:
    made, nodes = decoder(normalise=False), torch.randn(1, HIDDEN)
    scale, shift, bias, class_bias = made(
        nodes, [Order(0, "scale", (6,), "bn"), Order(0, "shift", (6,), "bn"), Order(0, "shift", (6,), "bias"), Order(0, "shift", (6,), "class_bias")]
    )  # fmt: skip
    assert torch.equal(shift, bias) and not torch.allclose(scale, shift)
    torch.testing.assert_close(class_bias, made.class_biases(shift.relu()))
    plain, last = made(nodes, [Order(0, "matrix", (6, 6), "conv"), Order(0, "matrix", (3, 6), "class_layer")])
    torch.testing.assert_close(last, (made.classes.weight @ plain.relu() + made.classes.bias[:, None])[:3])


def test_position_encodings_and_bare_numbers_are_made_in_their_shapes() -> None:
    orders = [Order(0, "position", shape, "pos_enc") for shape in ((5, 7), (1, 5, 7))] + [Order(0, "scale", (), "ln")]
    assert [tensor.shape for tensor in decoder()(torch.randn(1, HIDDEN), orders)] == [(5, 7), (1, 5, 7), ()]


def test_what_is_decoded_first_has_about_kaimings_variance() -> None:
    torch.manual_seed(0)
    nodes = nn.functional.layer_norm(torch.randn(40, HIDDEN), (HIDDEN,))
    made = Decoder(HIDDEN, width=64, max_channels=16, max_kernel=3, normalise=True)(
        nodes, [Order(at, "matrix", (16, 16, 3), "conv") for at in range(40)]
    )
    assert float(torch.stack(made).detach().square().mean()) == pytest.approx(2 / 48, rel=0.4)


def test_orders_count_on_from_earlier_graphs() -> None:
    one = ArchitectureGraph(("input", "conv"), ((0, 0, 0, 0), (3, 2, 1, 1)), ((0, 1),), {"weight": (1, "matrix")})
    assert orders_of(one, Target({"weight": (3, 2)}), 5) == [Order(6, "matrix", (3, 2), "conv")]
