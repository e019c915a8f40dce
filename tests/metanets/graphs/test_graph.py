"""Networks as graphs: nodes and edges where they belong, and back without losing a bit."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.errors import MetanetError, WeightSpaceError
from weightspace.metanets import Layout, WeightBatch, WeightSet, build
from weightspace.metanets.graphs.codes import KINDS, NODES, SIDES, SYMMETRIES
from weightspace.metanets.graphs.graph import batches, collate, from_graph, to_graph, to_graphs
from weightspace.metanets.graphs.wiring import Wiring
from weightspace.spec import NeuronGroup, SymmetrySpec

LARGEST = 5_000_000
"""Parameters of the largest network whose graph is made here."""


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def drawn(spec: SymmetrySpec, *, seed: int = 0) -> WeightBatch:
    generator = torch.Generator().manual_seed(seed)
    return WeightBatch.stack([{name: torch.randn(spec.shape(name), generator=generator) for name in spec.tensors}], spec)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_graph_is_turned_back_without_loss(kind: str) -> None:
    batch = architecture(kind).batch(2)
    graph = to_graph(batch, 1)
    cells = graph.slot_cells.prod(1)
    assert int(cells[graph.edge_slot].sum()) == batch.num_params
    assert graph.num_edges == sum(values[0, ..., 0].numel() for values in batch.slots.values())
    assert int(graph.edge_index.max()) < graph.num_nodes == len(graph.node_code) and graph.validate()
    back = from_graph(graph, batch.layout)
    assert set(back) == set(batch.tensors) and all(same_bits(back[name], tensor[1]) for name, tensor in batch.tensors.items())


def test_each_tensor_keeps_its_dtype_and_every_kind_of_number() -> None:
    spec = SymmetrySpec.parse({"a.weight": "h 2 3", "a.bias": "h", "b.weight": "2 h'"}, sizes={"h": 2})
    batch = drawn(spec)
    odd = torch.tensor([[-0.0, torch.inf]]), torch.tensor([[[torch.nan, 1e-45], [-torch.inf, 0.0]]])
    tensors = {"a.weight": batch.tensors["a.weight"].half(), "a.bias": odd[0].bfloat16(), "b.weight": odd[1]}
    mixed = WeightBatch(batch.layout, tensors)
    back = from_graph(to_graph(mixed, 0), batch.layout)
    assert all(same_bits(back[name], tensors[name][0]) for name in tensors)


@pytest.mark.parametrize("most", [1, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "folder",
    [
        "acasxu",
        "akamaster",
        "cloneofsimo-lora",
        "distiller",
        "drfrankenstein",
        "inr_orbit",
        "microsoft-lora",
        "mtcnn",
        "nnsplit",
        "outlier-exposure",
        "rwkv8",
        "silero",
        "textgenrnn",
    ],
)
def test_real_checkpoints_are_turned_back_without_loss(real_checkpoints: Path, folder: str, most: int | None) -> None:
    refused, read = [], 0
    for path in [path for path in sorted((real_checkpoints / folder).iterdir()) if path.suffix not in ("", ".md")][:most]:
        try:
            checkpoint = ws.open(path)
            spec = ws.spec_for(checkpoint)
        except WeightSpaceError as error:
            refused.append(f"{path.name}: {error}")
            continue
        state = {name: tensor for name, tensor in checkpoint.state_dict().items() if tensor.is_floating_point()}
        if sum(tensor.numel() for tensor in state.values()) > LARGEST:
            refused.append(f"{path.name}: too large")
            continue
        batch = WeightBatch.stack([state], spec, dtype=next(iter(state.values())).dtype)
        back = from_graph(to_graph(batch, 0), batch.layout)
        assert set(back) == set(state) and all(same_bits(back[name], state[name]) for name in state)
        read += 1
    if not read:
        pytest.skip("; ".join(line.partition(" (families")[0] for line in refused))


def test_the_graph_of_a_siren_has_the_size_that_others_count() -> None:
    names = ["in", "a", "b", "out"]
    tensors = {f"{at}.weight": f"{made} {read}" for at, (read, made) in enumerate(pairwise(names))}
    tensors |= {f"{at}.bias": made for at, made in enumerate(names[1:])}
    groups = {name: NeuronGroup(name, size, kind="fixed") for name, size in (("in", 2), ("out", 1))}
    graph = to_graph(drawn(SymmetrySpec.parse(tensors, sizes={"a": 32, "b": 32}, groups=groups)), 0)
    assert (graph.num_nodes, graph.num_edges) == (70, 1185)  # as Lim et al. (arXiv:2312.04501) have it


def test_edges_run_from_what_a_layer_reads_to_what_it_makes() -> None:
    batch = architecture("mlp").batch(1)
    graph, wiring = to_graph(batch, 0), Wiring.of(batch.layout)
    start = {place.group: place.start for place in wiring.places}
    weight, bias = batch.tensors["fc2.weight"][0], batch.tensors["fc2.bias"][0]
    found = {(int(s), int(t)): float(v) for s, t, v in zip(*graph.edge_index, graph.edge_value[:, 0], strict=True)}
    for out in range(4):
        for read in range(5):
            assert found[start["fc1"] + read, start["fc2"] + out] == weight[out, read]
    ends = graph.edge_index[:, graph.edge_slot == 3]
    assert ends[1].tolist() == [start["fc2"] + out for out in range(4)] and len(set(ends[0].tolist())) == 1
    assert NODES[graph.node_code[ends[0, 0], 0]] == "parameter"
    assert graph.edge_value[graph.edge_slot == 3, 0].tolist() == bias.tolist()


def test_nodes_tell_inputs_and_outputs_apart_and_which_is_which() -> None:
    batch = architecture("siren").batch(1)
    graph, wiring = to_graph(batch, 0), Wiring.of(batch.layout)
    found = {place.group: graph.node_code[place.start].tolist() for place in wiring.places if place.group}
    assert [SIDES[found[group][2]] for group in ("in", "fc1", "fc2", "fc3.out")] == ["read", "both", "both", "made"]
    assert [SYMMETRIES[found[group][1]] for group in ("in", "fc1")] == ["none", "sign"]
    order = {place.group: graph.node_order[place.start : place.start + place.size].tolist() for place in wiring.places if place.group}
    assert order["in"] == [0, 1] and order["fc1"] == [-1] * 6
    depth = {place.group: place.depth for place in wiring.places if place.group}
    assert depth == {"in": 0, "fc1": 1, "fc2": 2, "fc3.out": 3}


def test_several_slots_on_one_neuron_keep_their_kinds() -> None:
    batch = architecture("cnn").batch(1)
    graph, wiring = to_graph(batch, 0), Wiring.of(batch.layout)
    kinds = {wire.slot.key: KINDS[int(code[0])] for wire, code in zip(wiring.wires, graph.slot_code, strict=True)}
    assert [kinds[f"bn1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")] == ["gain", "shift", "mean", "variance"]
    assert kinds["conv1.bias"] == "bias"
    cells = {wire.slot.key: wire.cells for wire in wiring.wires}
    assert cells["conv1.weight"] == (1, 3, 3) and cells["fc.weight"] == (1, 1, 4) and cells["fc.bias"] == (1, 1, 1)


def test_channels_are_linked_to_their_heads_and_queries_are_no_keys() -> None:
    batch = architecture("transformer").batch(1)
    graph, wiring = to_graph(batch, 0), Wiring.of(batch.layout)
    start = {place.group: place.start for place in wiring.places}
    head, key = start["block.self_attn.head"], start["block.self_attn.key"]
    links = set(zip(*graph.parent_index.tolist(), strict=True))
    assert {(key + channel, head + channel // 4) for channel in range(8)} < links and len(links) == 16
    codes = {wire.slot.key: tuple(code.tolist()) for wire, code in zip(wiring.wires, graph.slot_code, strict=True)}
    assert len({codes[f"block.self_attn.in_proj_weight{part}"] for part in ("", "+1", "+2")}) == 3


def test_exchanging_queries_and_keys_gives_another_vector() -> None:
    one = architecture("transformer")
    state = one.networks(1)[0]
    swapped = dict(state)
    for name in ("block.self_attn.in_proj_weight", "block.self_attn.in_proj_bias"):
        q, k, v = state[name].chunk(3)
        swapped[name] = torch.cat([k, q, v])
    torch.manual_seed(0)
    net = build("gmn", one.spec).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        a, b = net(WeightBatch.stack([state, swapped], one.spec, dtype=torch.float64))
    assert (a - b).norm() > 1e-6 * a.norm()


@pytest.mark.parametrize(
    ("axes", "kinds"),
    [
        ("a b' c'", ["neuron", "neuron", "neuron", "joint"]),
        ("a b c'", ["neuron", "neuron", "neuron", "joint"]),
        ("a b' c' d'", ["neuron"] * 4 + ["joint"]),
        ("2 5", ["neuron", "neuron"]),
        ("", ["parameter", "network"]),
        ("a", ["neuron", "parameter"]),
    ],
)
def test_any_number_of_dimensions_is_turned_back(axes: str, kinds: list[str]) -> None:
    spec = SymmetrySpec.parse(
        {"t.weight": axes}, sizes={name: size for name, size in zip("abcd", (2, 3, 4, 5), strict=True) if name in axes}
    )
    batch = drawn(spec)
    graph, wiring = to_graph(batch, 0), Wiring.of(batch.layout)
    assert [place.kind for place in wiring.places] == kinds
    assert same_bits(from_graph(graph, batch.layout)["t.weight"], batch.tensors["t.weight"][0])
    assert graph.num_edges == batch.num_params and len(set(map(tuple, graph.edge_index.T.tolist()))) == graph.num_edges
    if "joint" in kinds:  # each pair is linked to both of its members
        joint = wiring.places[kinds.index("joint")]
        child = graph.parent_index[0]
        members = len(joint.shape)
        assert (torch.bincount(child, minlength=graph.num_nodes)[joint.start :] == members).all()


def test_tied_tensors_have_one_set_of_edges_and_all_their_names() -> None:
    spec = SymmetrySpec.parse({"emb.weight": "7 h"}, sizes={"h": 3}, aliases={"head.weight": "emb.weight"})
    batch = drawn(spec)
    graph = to_graph(batch, 0)
    back = from_graph(graph, batch.layout)
    assert graph.num_edges == 21 and set(back) == {"emb.weight", "head.weight"}
    assert torch.equal(back["head.weight"], batch.tensors["emb.weight"][0])


def test_graphs_of_a_set_come_in_its_order_and_join() -> None:
    kinds = [architecture(kind) for kind in ("cnn", "mlp", "cnn", "lstm")]
    states = [kind.networks(1, seed=at)[0] for at, kind in enumerate(kinds)]
    networks = WeightSet.of(states, [kind.spec for kind in kinds], dtype=torch.float64)
    graphs = to_graphs(networks)
    assert [graph.edge_value.shape[1] for graph in graphs] == [9] * 4
    joined = collate(graphs).to_data_list()
    for at, kind in enumerate(kinds):
        back = from_graph(joined[at], Layout.of(kind.spec))
        assert set(back) == set(kind.spec.tensors) - {"bn1.num_batches_tracked"}
        assert all(same_bits(tensor, states[at][name]) for name, tensor in back.items())


def test_graphs_are_joined_up_to_a_budget_of_edges() -> None:
    graphs = [to_graph(architecture(kind).batch(1), 0) for kind in ("mlp", "cnn", "mlp", "siren", "mlp")]
    edges = [graph.num_edges for graph in graphs]
    budget = sum(edges[:3])
    made = list(batches(iter(graphs), budget))
    assert [batch.num_graphs for batch in made] == [3, 2] and all(batch.num_edges <= budget for batch in made)
    assert [batch.edge_value.shape[1] for batch in made] == [9, 1]
    assert graphs[0].edge_value.shape[1] == 1  # what was given is left alone
    assert torch.cat([batch.edge_value[:, 0] for batch in made]).equal(torch.cat([graph.edge_value[:, 0] for graph in graphs]))


def test_graphs_come_with_the_package_and_torch_geometric_only_with_graphs() -> None:
    said = "import sys, weightspace.metanets as m; m.to_graph, m.from_graph, m.batches; sys.exit('torch_geometric' in sys.modules)"
    subprocess.run([sys.executable, "-c", said], check=True)


def test_what_cannot_be_joined_or_turned_back_is_said() -> None:
    graph = to_graph(architecture("mlp").batch(1), 0)
    with pytest.raises(MetanetError, match="graph 1 has 54 edges, more than max_edges=53"):
        list(batches([to_graph(architecture("wide mlp").batch(1), 0), graph], 53))
    with pytest.raises(MetanetError, match="no graphs to join"):
        collate([])
    with pytest.raises(MetanetError, match=r"a graph of 54 edges is not of this layout, which has 38"):
        from_graph(graph, Layout.of(architecture("wide mlp").spec))
    with pytest.raises(MetanetError, match=r"one graph \(of a Batch: to_data_list"):
        from_graph(collate([graph, graph]), Layout.of(architecture("mlp").spec))
