"""Small models with known history for the tests of lineage: drawn, not trained, as training leaves them."""

import math

import torch
from torch import Tensor

from weightspace.analysis.lineage import Entry, Lineage, lineage
from weightspace.checkpoint import Checkpoint

State = dict[str, Tensor]
SHAPES = {"fc1": (48, 24), "fc2": (32, 48), "fc3": (10, 32)}


def network(seed: int) -> State:
    draw = torch.Generator().manual_seed(seed)
    made: State = {}
    for layer, shape in SHAPES.items():
        made[f"{layer}.weight"] = torch.randn(shape, generator=draw) * math.sqrt(2 / shape[1])
        made[f"{layer}.bias"] = 0.1 * torch.randn(shape[0], generator=draw)
    return made


def drifted(state: State, seed: int, size: float) -> State:
    """Move every tensor at random by a share of its norm, as a fine-tune does that adds to what was learned."""
    draw = torch.Generator().manual_seed(seed)
    return {name: t + size * t.std() * torch.randn(t.shape, generator=draw) for name, t in state.items()}


def found(**states: State) -> Lineage:
    return lineage([Entry(name, Checkpoint.of(state)) for name, state in states.items()])


def pairs(result: Lineage) -> set[tuple[str, str, str]]:
    return {(edge.parent, edge.child, edge.kind) for edge in result.edges}
