"""Graph metanetworks: what the paper's layer does, and where ours departs from it."""

import copy

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.errors import MetanetError
from weightspace.metanets import EquivariantMetaNet, Examples, Predictor, Schedule, WeightBatch, WeightSet, build, train
from weightspace.metanets.families.gmn import GMN, Layer
from weightspace.metanets.graphs.paths import DenseGraphs
from weightspace.spec import SymmetrySpec


def gmn(spec: SymmetrySpec, **settings: int | bool) -> EquivariantMetaNet:
    """One in float64, every parameter drawn at random."""
    torch.manual_seed(0)
    net = build("gmn", spec, **settings).double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1 if parameter.ndim < 2 else (2 / parameter[0].numel()) ** 0.5)
    assert isinstance(net, EquivariantMetaNet)
    return net


def permuted(batch: WeightBatch, seed: int) -> tuple[WeightBatch, ws.Symmetry]:
    groups = {name: {"symmetry": "none"} for name in batch.spec.groups}
    element = batch.spec.with_groups(**groups).random(torch.Generator().manual_seed(seed))
    states = [{name: tensor[at] for name, tensor in batch.tensors.items()} for at in range(len(batch))]
    return WeightBatch.stack([ws.act(element, state) for state in states], batch.layout, dtype=torch.float64), element


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_features_move_as_the_weights_do(kind: str) -> None:
    batch = architecture(kind).batch(2)
    net = gmn(batch.spec, channels=4, layers=2)
    other, element = permuted(batch, 1)
    with torch.no_grad():
        before, after = net.features(batch), net.features(other)
    assert set(before) == set(batch.slots)
    for key, values in batch.slots.items():
        assert before[key].shape == (*values.shape[:-1], net.channels)
    for channel in range(net.channels):
        for at in range(len(batch)):  # one channel of the features, as if it were weights, for each cell the same
            told = {key: before[key][..., channel, None].expand_as(values) for key, values in batch.slots.items()}
            state = {name: tensor[at] for name, tensor in batch.layout.fold(told).items()}
            moved = WeightBatch.stack([ws.act(element, state)], batch.layout, dtype=torch.float64).slots
            for key, values in moved.items():
                assert torch.allclose(values[0, ..., 0], after[key][at, ..., channel], rtol=0, atol=1e-9)


def test_a_layer_is_the_one_of_the_paper_written_out() -> None:
    spec = SymmetrySpec.parse({"a.weight": "h 3", "a.bias": "h", "b.weight": "2 h'"}, sizes={"h": 4})
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(spec.shape(name), generator=generator, dtype=torch.float64) for name in spec.tensors}
    graphs = DenseGraphs(WeightBatch.stack([state], spec, dtype=torch.float64))
    torch.manual_seed(0)
    layer = Layer(6, bidirectional=True).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    nodes = torch.randn(1, graphs.wiring.num_nodes, 6, dtype=torch.float64)
    edges = [torch.randn(*values.shape[:-1], 6, dtype=torch.float64) for values in graphs.values]
    with torch.no_grad():
        found_nodes, found_edges = layer(graphs, nodes, edges)
        expected_nodes, expected_edges = written_out(
            layer, graphs.wiring.edge_index, nodes[0], torch.cat([part.reshape(-1, 6) for part in edges])
        )
    assert torch.allclose(found_nodes[0], expected_nodes)
    assert torch.allclose(torch.cat([part.reshape(-1, 6) for part in found_edges]), expected_edges)


def written_out(layer: Layer, edge_index: Tensor, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """The same edge by edge, with features joined."""
    x, e = layer.norm(nodes), layer.edge.norm(edges)
    joined = torch.cat([layer.edge.source.weight, layer.edge.target.weight, layer.edge.edge.weight], 1)
    hidden = []
    for at, (source, target) in enumerate(edge_index.T.tolist()):
        hidden.append((joined @ torch.cat([x[source], x[target], e[at]]) + layer.edge.source.bias).relu())
    heard = []
    for node in range(len(x)):
        sides = [[hidden[at] for at in (edge_index[side] == node).nonzero()[:, 0].tolist()] for side in (1, 0)]
        heard.append(torch.cat([x[node], *(torch.stack(one).mean(0) if one else torch.zeros(6) for one in sides), torch.zeros(12)]))
    update = layer.node_out(nn.functional.silu(layer.node(torch.stack(heard))))
    return nodes + update, edges + layer.edge.out(torch.stack(hidden))


def test_exchanging_inputs_changes_the_vector() -> None:
    one = architecture("mlp")
    batch = one.batch(1)
    swapped = {**batch.tensors, "fc1.weight": batch.tensors["fc1.weight"].flip(2)}
    net = gmn(one.spec)
    with torch.no_grad():
        assert (net(WeightBatch(batch.layout, swapped)) - net(batch)).norm() > 1e-6 * net(batch).norm()


def test_moving_a_head_in_some_of_its_tensors_changes_the_vector() -> None:
    one = architecture("transformer")
    batch = one.batch(1)
    values = dict(batch.slots)
    for key in ("block.self_attn.in_proj_weight+2", "block.self_attn.in_proj_bias+2"):  # values move, and what reads them
        values[key] = values[key].flip(1)
    values["block.self_attn.out_proj.weight"] = values["block.self_attn.out_proj.weight"].flip(2)
    net = gmn(one.spec)
    with torch.no_grad():
        moved = net(WeightBatch(batch.layout, batch.layout.fold(values)))
        assert (moved - net(batch)).norm() > 1e-8 * moved.norm()


def test_without_the_way_back_it_has_fewer_parameters_and_reads_as_well() -> None:
    batch = architecture("cnn").batch(2)
    both, down = gmn(batch.spec), gmn(batch.spec, bidirectional=False)
    count = [sum(parameter.numel() for parameter in net.parameters()) for net in (both, down)]
    assert count[1] == count[0] - 3 * 32 * 32  # of three layers that update nodes
    with torch.no_grad():
        assert down(batch).isfinite().all() and not torch.allclose(down(batch)[0], down(batch)[1])


def test_a_new_one_begins_with_layers_that_change_nothing() -> None:
    batch = architecture("mlp").batch(1, dtype=torch.float32)
    net = build("gmn", batch.spec)
    assert isinstance(net, GMN)
    graphs = DenseGraphs(batch)
    nodes, edges = torch.randn(1, graphs.wiring.num_nodes, 32), [torch.randn(*values.shape[:-1], 32) for values in graphs.values]
    for layer in net.layers:
        made_nodes, made_edges = layer(graphs, nodes, edges)
        assert torch.equal(made_nodes, nodes) and all(torch.equal(a, b) for a, b in zip(made_edges, edges, strict=True))


def test_one_layer_is_the_least() -> None:
    batch = architecture("mlp").batch(1)
    assert gmn(batch.spec, layers=1)(batch).isfinite().all()
    with pytest.raises(MetanetError, match="metanet 'gmn' has 0 layers; give at least 1"):
        build("gmn", batch.spec, layers=0)


def test_it_learns_what_takes_messages_along_two_layers() -> None:
    """Which of two networks is larger as a function at a point is in no tensor alone: the sum over paths of products of weights."""
    generator = torch.Generator().manual_seed(0)
    spec = SymmetrySpec.parse({"a.weight": "h 1", "b.weight": "1 h'"}, sizes={"h": 4})
    states = [{name: torch.randn(spec.shape(name), generator=generator) for name in spec.tensors} for _ in range(512)]
    batch = WeightBatch.stack(states, spec)
    paths = (batch.tensors["a.weight"][:, :, 0] * batch.tensors["b.weight"][:, 0]).sum(1)
    torch.manual_seed(0)
    net = build("gmn", spec, dim=1, channels=16, layers=3)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        (net(batch[:384])[:, 0] - paths[:384]).square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        left = (net(batch[384:])[:, 0] - paths[384:]).square().mean() / paths[384:].var()
    assert left < 0.3


def between_layers(count: int, seed: int) -> Examples:
    """Networks, and how much larger the weights of their first layer are than those of their second."""
    generator = torch.Generator().manual_seed(seed)
    spec = SymmetrySpec.parse({"fc1.weight": "h 6", "fc1.bias": "h", "fc2.weight": "4 h'", "fc2.bias": "4"}, sizes={"h": 8})
    states, told = [], []
    for _ in range(count):
        first, second = (0.5 + torch.rand(2, generator=generator)).tolist()
        drawn = {name: torch.randn(spec.shape(name), generator=generator) for name in spec.tensors}
        sizes = {"fc1.weight": first / 6**0.5, "fc2.weight": second / 8**0.5}
        states.append({name: sizes.get(name, 0.1) * tensor for name, tensor in drawn.items()})
        told.append(first - second)
    return Examples(WeightSet.of(states, spec), torch.tensor(told))


@pytest.mark.parametrize("seed", range(3))
def test_a_predictor_learns_what_its_averages_hardly_show(seed: int) -> None:
    learned, held_out = between_layers(256, 0), between_layers(64, 1)
    torch.manual_seed(seed)
    made = Predictor(build("gmn", learned.networks.batches[0].spec, dim=16, channels=12, layers=2))
    done = train(made, learned, held_out, Schedule(epochs=6, learning_rate=1e-2, seed=seed))
    assert done.history[-1]["loss"] < 0.5  # it stayed at 1, the variance of what is told, as long as vectors were taken as they are
    assert done.predictor.judge(held_out)["tau"] > 0.4


def test_a_predictor_reads_a_network_alike_alone_and_beside_others() -> None:
    learned = between_layers(40, 0)
    torch.manual_seed(0)
    made = Predictor(build("gmn", learned.networks.batches[0].spec, dim=16, channels=12, layers=2))
    done = train(made, learned, learned, Schedule(epochs=1, batch_size=39)).predictor  # the last batch has one network alone
    each = torch.cat([done.predict(learned.networks.take(torch.tensor([at]))) for at in range(3)])
    torch.testing.assert_close(done.predict(learned.networks)[:3], each)
    with_itself = copy.deepcopy(done).train()
    alone = learned.take(torch.tensor([0]))
    assert with_itself.loss(alone).isfinite()
