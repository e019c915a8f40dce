"""ScaleGMN: messages along weights that take no notice of how neurons are scaled or flipped."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.graphs.aggregation import degrees
from weightspace.metanets.graphs.encoders import Readout
from weightspace.metanets.graphs.gauge import measure, order, scaled, unscaled
from weightspace.metanets.graphs.paths import DenseGraphs, Edges
from weightspace.metanets.graphs.vectors import CELL_CODES, NODE_CODES, SLOT_CODES, cell_vectors, node_vectors, slot_vectors
from weightspace.metanets.graphs.wiring import Place, Wire, Wiring
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import EquivariantMetaNet, metanet

TINY = 1e-24
"""Added to mean squares, so that a slot of zeros has a scale."""

FLOOR = 1e-4
"""Added to mean squares of features: below its root, a feature counts as small and is not blown up."""


@metanet("scalegmn", reference="arXiv:2406.10685", honours=("permutation", "sign", "scale"), any_architecture=True)
class ScaleGMN(EquivariantMetaNet):
    """A graph network whose features flip and scale as neurons do, and whose vectors do not.

    Kalogeropoulos et al., Scale Equivariant Graph Metanetworks (arXiv:2406.10685), bidirectional. Which scales and signs there are the
    spec says, group by group and with any power (a running variance has 2, what a norm undoes 0).

    Signs are as in the paper: a layer is a linear map without bias times a perceptron of absolute values, messages multiply weight
    and neuron, and a backward edge has the weight itself, as 1 / -1 = -1. Where the signs of weight and neuron do not make that of the
    receiver, absolute values stand in.

    Positive scales are where we depart: instead of being carried along, they are measured once, as the norm of all that makes a neuron,
    from inputs to outputs, and divided out (see `weightspace.metanets.graphs.gauge`); features are multiplied by them again. That is the paper's
    canonicalisation of inputs, and gives the same class of functions. It needs no 1 / weight on backward edges, which is singular at 0,
    and no rule for other powers. What is not continuous is a neuron whose incoming weights all go to 0; it is silent then.

    Networks of several architectures are read one architecture after another. Rotations and mixings by matrices are not honoured.
    """

    def __init__(self, layouts: Sequence[Layout], *, dim: int = 64, channels: int = 32, layers: int = 4) -> None:
        """Build it for any architectures.

        Args:
            layouts: looked at for groups whose scales cannot be measured.
            dim: length of the vector.
            channels: length of a node's or a weight's features.
            layers: rounds of messages.

        Raises:
            MetanetError: scales are coupled in a circle.
        """
        super().__init__()
        for layout in layouts:
            order(layout)
        self.dim, self.channels = dim, channels
        self.node, self.cell = nn.Linear(NODE_CODES, channels), nn.Linear(CELL_CODES, channels)
        self.slot = nn.Sequential(nn.Linear(SLOT_CODES + 1, channels), nn.SiLU(), nn.Linear(channels, 2 * channels))
        self.layers = nn.ModuleList(Messages(channels) for _ in range(layers))
        self.readout, self.each = Readout(channels, dim), nn.Linear(channels, channels, bias=False)

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of one architecture."""
        reading = self._read(batch, measure(batch.layout, batch.slots))
        made: Tensor = self.readout(reading.graphs, reading.invariant)
        return made

    def features(self, batch: WeightBatch) -> dict[str, Float[Tensor, "networks ... channels"]]:
        """Features of each slot's weights by slot key, which are permuted, flipped and scaled as the weights are."""
        scales = measure(batch.layout, batch.slots)
        reading = self._read(batch, scales)
        wires = zip(reading.graphs.wiring.wires, reading.edges, strict=True)
        return {wire.slot.key: scaled(batch.layout, wire.slot, self.each(edge), scales) for wire, edge in wires}

    def _read(self, batch: WeightBatch, scales: dict[str, Tensor]) -> "Reading":
        graphs = DenseGraphs(batch)
        graphs.values = [unscaled(batch.layout, wire.slot, batch.slots[wire.slot.key], scales) for wire in graphs.wiring.wires]
        signs = [Signs.of(graphs.wiring, wire) for wire in graphs.wiring.wires]
        edges = self._weights(graphs, signs)
        like = graphs.values[0]
        is_odd = torch.cat([like.new_full((place.size, 1), _is_odd(batch.layout, place)) for place in graphs.wiring.places]) > 0
        code = self.node(node_vectors(graphs.codes, like))
        own = [edge if sign.stands else edge.new_zeros(()).expand_as(edge) for edge, sign in zip(edges, signs, strict=True)]
        nodes = graphs.nodes(code * ~is_odd) + graphs.to_targets(own, "sum")
        reading = Reading(graphs, signs, is_odd, code, nodes, edges)
        counts = (degrees(graphs), degrees(graphs, back=True))
        for layer in self.layers:
            layer(reading, counts)
        return reading

    def _weights(self, graphs: DenseGraphs, signs: Sequence["Signs"]) -> Edges:
        """First features of weights, which are linear in them but where nothing flips them."""
        vectors = slot_vectors(graphs.codes, graphs.values[0])
        made = []
        for values, vector, cells, sign in zip(graphs.values, vectors, graphs.cells, signs, strict=True):
            size = (values.flatten(1).square().mean(1, keepdim=True) + TINY).sqrt()
            gain, shift = self.slot(torch.cat([vector.expand(len(values), -1), size.log()], 1)).chunk(2, -1)
            kernel = self.cell(cell_vectors(torch.tensor(cells), values).to(values.device)) / values.shape[-1] ** 0.5
            to = (len(values), *(1 for _ in values.shape[1:]))
            edge = (values / size.reshape(to) @ kernel) * (1 + gain.reshape(*to[:-1], -1))
            made.append(edge if sign.is_odd else edge + shift.reshape(*to[:-1], -1))
        return made


def _is_odd(layout: Layout, place: Place) -> bool:
    """Whether signs flip the neurons of a place."""
    return place.group is not None and layout.groups[place.group].symmetry == "sign"


@dataclass(frozen=True)
class Fit:
    """How a message is made, so that it flips as the neuron that gets it.

    Attributes:
        absolute: of the weight's features the absolute values.
        far: the sender's features as they are; else made of what no sign changes.
        near: times the receiver's own features.
    """

    absolute: bool
    far: bool
    near: bool

    @classmethod
    def of(cls, flips: Set[int], near: int | None, far: int | None) -> "Fit":
        """Find it from the dimensions that flip the weight, and those that flip receiver and sender, where any does."""
        rest = flips ^ ({near} - {None})
        if rest <= {near, far}:
            return cls(False, far is None or far in rest, near in rest)
        return cls(True, far is None, near is not None)


@dataclass(frozen=True)
class Signs:
    """How the weights of a wire, and messages along it, flip.

    Attributes:
        is_odd: whether signs flip the weights.
        forward: of messages to the target.
        backward: of messages to the source; none to the node of a parameter.
        stands: whether the weights stand on one neuron each and flip as it does.
        pair: whether target's and source's features (see `Fit`) multiply to what flips as the weight does; none if they cannot.
    """

    is_odd: bool
    forward: Fit
    backward: Fit | None
    stands: bool
    pair: tuple[bool, bool] | None

    @classmethod
    def of(cls, wiring: Wiring, wire: Wire) -> "Signs":
        """Find out from the powers with which signs act."""
        slot, layout = wire.slot, wiring.layout
        flips = {j for j, group in enumerate(slot.groups) if layout.groups[group].symmetry == "sign" and slot.exponents[j] % 2}
        source, target = wiring.places[wire.source], wiring.places[wire.target]
        far = wire.source_dims[-1] if _is_odd(layout, source) else None
        near = wire.target_dims[-1] if _is_odd(layout, target) else None
        alone = source.kind == "parameter"
        return cls(
            is_odd=bool(flips),
            forward=Fit.of(flips, near, far),
            backward=None if alone else Fit.of(flips, far, near),
            stands=alone and flips == {near} - {None},
            pair=(near is None or near in flips, far is None or far in flips) if flips <= {near, far} else None,
        )


@dataclass
class Reading:
    """What is known of networks between two layers.

    Attributes:
        graphs: where messages run.
        signs: of each wire.
        is_odd: (nodes, 1): whether a node's features flip.
        code: (nodes, channels): what each node is.
        nodes: features of nodes.
        edges: features of weights.
    """

    graphs: DenseGraphs
    signs: Sequence[Signs]
    is_odd: Tensor
    code: Tensor
    nodes: Tensor
    edges: Edges

    def even(self, nodes: Tensor) -> Tensor:
        """Absolute values at nodes that flip."""
        return torch.where(self.is_odd, nodes.abs(), nodes)

    @property
    def invariant(self) -> Tensor:
        """What no sign changes of the nodes' features, with what they are."""
        return self.even(self.nodes) + self.code


class Messages(nn.Module):
    """One round of messages both ways, with the update of nodes and weights."""

    def __init__(self, channels: int) -> None:
        """Build it for features of a length."""
        super().__init__()

        def layer(times: int = 1, bias: bool = False) -> nn.Linear:
            return nn.Linear(times * channels, channels, bias=bias)

        self.seen = nn.ModuleList([layer(bias=True), layer(), layer()])  # of a weight, its target and its source, by the gates
        self.gates = nn.ModuleList(layer(bias=True) for _ in range(3))  # of messages forward and backward, and of the weight
        self.weight = nn.ModuleList(layer() for _ in range(3))
        # What a node says as it is, and what it says of itself that no sign changes: to what it makes and what it reads, and to
        # weights as a target and as a source; and what multiplies a message that would not flip else.
        self.odd, self.even = nn.ModuleList(layer() for _ in range(5)), nn.ModuleList(layer(bias=True) for _ in range(4))
        self.update = layer(3)
        self.inner = nn.Sequential(layer(5, bias=True), nn.SiLU(), nn.Linear(channels, 2 * channels))

    def forward(self, state: Reading, counts: tuple[Tensor, Tensor]) -> None:
        """Update what is known; counts of edges that enter and leave each node."""
        graphs, invariant = state.graphs, state.invariant
        hidden = self._hidden(state, invariant)
        odd, even = [made(state.nodes) for made in self.odd], [made(invariant) for made in self.even]
        forward = self._messages(state, hidden, 0, odd, even)
        backward = self._messages(state, hidden, 1, odd, even)
        heard = [graphs.to_targets(forward, "sum") / counts[0].clamp_min(1).sqrt()]
        heard += [graphs.to_sources(backward, "sum") / counts[1].clamp_min(1).sqrt()]
        state.edges = self._edges(state, hidden, odd, even)
        told = [graphs.to_targets(hidden), graphs.to_sources(hidden)]
        gain, plain = self.inner(torch.cat([invariant, *map(state.even, heard), *told], -1)).chunk(2, -1)
        state.nodes = _normed(state.nodes + self.update(torch.cat([state.nodes, *heard], -1)) * (1 + gain) + plain * ~state.is_odd)

    def _hidden(self, state: Reading, invariant: Tensor) -> Edges:
        """What no sign changes of each weight and its two ends."""
        of_weight, of_target, of_source = self.seen
        ends = zip(state.graphs.from_targets(of_target(invariant)), state.graphs.from_sources(of_source(invariant)), strict=True)
        found = []
        for edge, sign, (target, source) in zip(state.edges, state.signs, ends, strict=True):
            found.append(nn.functional.silu(of_weight(edge.abs() if sign.is_odd else edge) + target + source))
        return found

    def _messages(self, state: Reading, hidden: Edges, back: int, odd: Sequence[Tensor], even: Sequence[Tensor]) -> Edges:
        graphs = state.graphs
        near, far = (graphs.from_sources, graphs.from_targets) if back else (graphs.from_targets, graphs.from_sources)
        said = zip(far(odd[back]), far(even[back]), near(odd[4]), strict=True)
        made = []
        for edge, inner, sign, (as_is, unsigned, own) in zip(state.edges, hidden, state.signs, said, strict=True):
            fit = sign.backward if back else sign.forward
            if fit is None:
                made.append(torch.zeros_like(edge))
                continue
            message = self.weight[back](edge.abs() if fit.absolute else edge) * (as_is if fit.far else unsigned)
            made.append((message * own if fit.near else message) * (1 + self.gates[back](inner)))
        return made

    def _edges(self, state: Reading, hidden: Edges, odd: Sequence[Tensor], even: Sequence[Tensor]) -> Edges:
        graphs = state.graphs
        ends = zip(*(way(each) for each, way in ((odd[2], graphs.from_targets), (even[2], graphs.from_targets))), strict=True)
        others = zip(*(way(each) for each, way in ((odd[3], graphs.from_sources), (even[3], graphs.from_sources))), strict=True)
        made = []
        for edge, inner, sign, target, source in zip(state.edges, hidden, state.signs, ends, others, strict=True):
            new = self.weight[2](edge)
            if sign.pair is not None:
                new = new + target[not sign.pair[0]] * source[not sign.pair[1]]
            made.append(_normed(edge + new * (1 + self.gates[2](inner))))
        return made


def _normed(features: Tensor) -> Tensor:
    """Divide by the root mean square of the channels; a norm without centring, so that signs pass through."""
    return features * (features.square().mean(-1, keepdim=True) + FLOOR).rsqrt()


__all__ = ["Fit", "Messages", "Reading", "ScaleGMN", "Signs"]
