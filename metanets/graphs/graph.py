"""Networks as graphs: a node for each neuron, an edge for each of its weights, made from weights and turned back without loss."""

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.graphs.codes import Codes
from weightspace.metanets.graphs.wiring import Wiring
from weightspace.metanets.layout import Layout

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def to_graph(batch: WeightBatch, at: int, *, cells: int | None = None) -> "Data":
    """Make the graph of one network.

    Every value of a slot lies on one edge, so the cells of all edges together are the parameters. A slot with two tips has an edge
    from each node that its layer reads to each that it makes. A slot with one tip (bias, gain, running mean) has a *parameter node*
    and an edge from there to each of its neurons (Lim et al., arXiv:2312.04501): any number of such slots may sit on one neuron,
    each keeps its type, and to a scale or sign it is what a bias is, a weight from something that never changes. (As a self loop it
    would seem to scale twice.) A slot without dimensions is an edge from its parameter node to a node for the network. Where a layer
    reads or makes pairs (three tips and more), the pairs are nodes, linked to their members.

    Groups that are `per` another have a node for each combination; links lead from them to their parents' nodes (a channel to its
    head). Links hold no weights and are no edges. Residual streams are one group, so their layers meet in the same nodes.

    Args:
        batch: networks of one architecture.
        at: which of them.
        cells: columns of `edge_value`; by default the most cells of any slot.

    Returns:
        A torch_geometric `Data` with

        - `edge_index` (2, edges): source and target, slot by slot in the layout's order, each row-major;
        - `edge_value` (edges, cells): the values, zeros after a slot's own cells;
        - `edge_slot` (edges,): which slot of this graph (`num_slots`), also in a `Batch`, where slots are counted in each graph;
        - `parent_index` (2, links): child and parent;
        - `slot_dtype` (slots,): index in `DTYPES`;
        - the fields of `weightspace.metanets.graphs.codes.Codes`.
    """
    from torch_geometric.data import Data

    wiring = Wiring.of(batch.layout)
    most = max(wire.slot.cells for wire in wiring.wires) if cells is None else cells
    slots = [batch.slots[wire.slot.key][at].reshape(-1, wire.slot.cells) for wire in wiring.wires]
    dtype = slots[0].dtype
    for values in slots:
        dtype = torch.promote_types(dtype, values.dtype)
    value = slots[0].new_zeros((sum(len(values) for values in slots), most), dtype=dtype)
    start = 0
    for values in slots:
        value[start : start + len(values), : values.shape[1]] = values
        start += len(values)
    device = value.device
    codes = Codes.of(wiring).to(device)
    return Data(
        num_nodes=wiring.num_nodes,
        edge_index=wiring.edge_index.to(device),
        edge_value=value,
        edge_slot=torch.arange(len(slots)).repeat_interleave(torch.tensor([len(values) for values in slots])).to(device),
        parent_index=wiring.parent_index.to(device),
        num_slots=len(slots),
        slot_dtype=torch.tensor([DTYPES.index(values.dtype) for values in slots], device=device),
        **{field.name: getattr(codes, field.name) for field in fields(Codes)},
    )


def to_graphs(networks: WeightSet | WeightBatch) -> "list[Data]":
    """Make the graphs of networks of any architectures, in their order, all with as many cells as the one that has most."""
    if isinstance(networks, WeightBatch):
        networks = WeightSet.grouped([networks])
    most = max(slot.cells for batch in networks.batches for slot in batch.layout.slots)
    return [to_graph(batch, at, cells=most) for batch, at in networks.networks()]


def from_graph(data: "Data", layout: Layout) -> dict[str, Tensor]:
    """Turn a graph back into weights, each value in its own dtype.

    Args:
        data: of one network, its edges in the order that `to_graph` gave them.
        layout: of its architecture (`WeightBatch.layout`).

    Returns:
        Its state dict, tied tensors under each of their names.

    Raises:
        MetanetError: the graph is of another architecture, or a batch of several.
    """
    wiring = Wiring.of(layout)
    expected, found = wiring.edge_index.shape[1], data.edge_value.shape[0]
    if expected != found or not torch.equal(data.slot_code, Codes.of(wiring).slot_code.to(data.slot_code)):
        raise MetanetError(
            f"a graph of {found:,} edges is not of this layout, which has {expected:,}; "
            "give the layout of its architecture, and one graph (of a Batch: to_data_list())"
        )
    made: dict[str, Tensor] = {}
    start = 0
    for wire, dtype in zip(wiring.wires, data.slot_dtype.tolist(), strict=True):
        shape = layout.shape(wire.slot)
        stop = start + math.prod(wire.shape)
        made[wire.slot.key] = data.edge_value[start:stop, : wire.slot.cells].to(DTYPES[dtype]).reshape(1, *shape)
        start = stop
    state = {name: tensor[0] for name, tensor in layout.fold(made).items()}
    return state | {name: state[owner] for name, owner in layout.spec.aliases.items() if owner in state}


def collate(graphs: "Sequence[Data]") -> "Batch":
    """Join graphs into one torch_geometric `Batch`, with as many cells as the one that has most.

    Raises:
        MetanetError: there are no graphs.
    """
    from torch_geometric.data import Batch

    if not graphs:
        raise MetanetError("no graphs to join; give at least one")
    most = max(graph.edge_value.shape[1] for graph in graphs)
    return Batch.from_data_list([_widened(graph, most) for graph in graphs])


def batches(graphs: "Iterable[Data]", max_edges: int) -> "Iterator[Batch]":
    """Join graphs, in their order, into batches with no more edges than a budget.

    Raises:
        MetanetError: one graph alone has more.
    """
    held: list[Data] = []
    edges = 0
    for at, graph in enumerate(graphs):
        if graph.num_edges > max_edges:
            raise MetanetError(f"graph {at} has {graph.num_edges:,} edges, more than max_edges={max_edges:,}; allow as many")
        if edges + graph.num_edges > max_edges:
            yield collate(held)
            held, edges = [], 0
        held.append(graph)
        edges += graph.num_edges
    if held:
        yield collate(held)


def _widened(graph: "Data", cells: int) -> "Data":
    if graph.edge_value.shape[1] == cells:
        return graph
    made = copy(graph)
    made.edge_value = torch.nn.functional.pad(graph.edge_value, (0, cells - graph.edge_value.shape[1]))
    return made


__all__ = ["DTYPES", "batches", "collate", "from_graph", "to_graph", "to_graphs"]
