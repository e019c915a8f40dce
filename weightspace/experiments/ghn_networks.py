"""Random small networks for MNIST-1D: directed acyclic graphs of linear maps or convolutions, some with skips and norms."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

INPUTS, CLASSES = 40, 10


@dataclass(frozen=True)
class Block:
    """A layer: which earlier ones it reads, how they are joined, and its kernel (1 for linear maps)."""

    parents: tuple[int, ...]
    join: Literal["sum", "concat"]
    kernel: int
    grouped: bool


@dataclass(frozen=True)
class Plan:
    """An architecture."""

    kind: Literal["mlp", "cnn"]
    width: int
    norm: Literal["none", "batch", "layer"]
    stem: int
    blocks: tuple[Block, ...]

    @property
    def has_skips(self) -> bool:
        """Whether some layer reads more than the layer before it."""
        return any(block.parents != (at,) for at, block in enumerate(self.blocks))


def draw(chance: random.Random) -> Plan:
    """Draw an architecture: one to three layers after the first, each reading one or two earlier ones."""
    kind: Literal["mlp", "cnn"] = chance.choice(("mlp", "cnn"))
    width = chance.choice((16, 20, 24, 32, 40) if kind == "mlp" else (8, 12, 16, 20, 24))
    blocks = []
    for at in range(chance.randint(1, 3)):
        parents = {at} | ({chance.randrange(at + 1)} if chance.random() < 0.5 else set())
        kernel = chance.choice((1, 3, 5)) if kind == "cnn" else 1
        blocks.append(Block(tuple(sorted(parents)), chance.choice(("sum", "concat")), kernel, kernel > 1 and chance.random() < 0.25))
    return Plan(kind, width, chance.choice(("none", "batch", "layer")), chance.choice((3, 5)), tuple(blocks))


def plans(count: int, seed: int = 0) -> list[Plan]:
    """Draw architectures, all different."""
    chance, found = random.Random(seed), dict[Plan, None]()
    while len(found) < count:
        found[draw(chance)] = None
    return list(found)


class Dag(nn.Module):
    """The network of a plan: each layer is a map, a norm and a ReLU; convolutions are averaged over all places at the end."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, width = plan, plan.width
        self.stem = nn.Linear(INPUTS, width) if plan.kind == "mlp" else nn.Conv1d(1, width, plan.stem, stride=2, padding=plan.stem // 2)
        self.maps = nn.ModuleList([_map(plan, block) for block in plan.blocks])
        self.norms = nn.ModuleList([_norm(plan) for _ in range(len(plan.blocks) + 1)])
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of signals."""
        states = [self.norms[0](self.stem(x if self.plan.kind == "mlp" else x[:, None])).relu()]
        for block, linear, norm in zip(self.plan.blocks, self.maps, self.norms[1:], strict=True):
            states.append(norm(linear(_joined([states[at] for at in block.parents], block.join))).relu())
        last = states[-1] if self.plan.kind == "mlp" else states[-1].mean(-1)
        logits: Tensor = self.head(last)
        return logits


def _map(plan: Plan, block: Block) -> nn.Module:
    into = plan.width * (len(block.parents) if block.join == "concat" else 1)
    if plan.kind == "mlp":
        return nn.Linear(into, plan.width)
    groups = plan.width if block.grouped else 1
    return nn.Conv1d(into, plan.width, block.kernel, padding=block.kernel // 2, groups=groups)


def _norm(plan: Plan) -> nn.Module:
    if plan.norm == "none":
        return nn.Identity()
    return nn.BatchNorm1d(plan.width) if plan.norm == "batch" else nn.GroupNorm(1, plan.width)


def _joined(states: Sequence[Tensor], join: str) -> Tensor:
    if len(states) == 1:
        return states[0]
    return torch.cat(list(states), 1) if join == "concat" else states[0] + states[1]
