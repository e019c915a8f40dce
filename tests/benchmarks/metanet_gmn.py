"""How long a graph metanetwork takes, dense and sparse, beside the published layer on parallel edges and beside what its code took.

    python -m tests.benchmarks.metanet_gmn

CPU milliseconds of forward and backward, one thread, 16 networks, 32 channels, 4 layers. The code of Lim et al. (arXiv:2312.04501) is
not on PyPI: `THEIRS` was measured with it on another machine of the same kind (torch 2.13, median of 3). So that the machine and its
load fall out, `Published` is the layer that its code has, written as plainly, and timed in turns with ours.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from weightspace.inference import infer_spec
from weightspace.metanets import WeightBatch, build
from weightspace.metanets.graphs.graph import collate, to_graphs
from weightspace.metanets.graphs.net import GraphMetaNet

NETWORKS, CHANNELS, LAYERS, ROUNDS = 16, 32, 4, 15
THEIRS = {"SIREN 2-32-32-1": (259, 33), "CNN of 4970 parameters": (1534, 73)}
"""Milliseconds of a step, and of building the graphs."""


def siren() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def cnn() -> nn.Module:
    convolutions = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class Published(nn.Module):
    """Their block: an edge for each parameter and direction, features joined, gathered and scattered."""

    def __init__(self, slots: int) -> None:
        super().__init__()
        self.value, self.kind, self.enter = nn.Linear(1, CHANNELS), nn.Embedding(slots, CHANNELS), nn.Linear(2 * CHANNELS, CHANNELS)
        self.blocks = nn.ModuleList(PublishedBlock() for _ in range(LAYERS))
        self.norm, self.leave = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.each, self.head = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, graphs: "Edges") -> Tensor:
        edges = self.enter(torch.cat([self.value(graphs.value).sin(), self.kind(graphs.slot)], 1))
        nodes = graphs.value.new_zeros(graphs.nodes, CHANNELS)
        for block in self.blocks:
            nodes, edges = block(graphs, nodes, edges)
        made = self.each(self.leave(self.norm(edges))).relu()
        pooled = made.new_zeros(NETWORKS, CHANNELS).index_add(0, graphs.network, made) / (len(made) / NETWORKS)
        out: Tensor = self.head(pooled)
        return out


class PublishedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.node_norm, self.edge_norm = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.edge, self.message, self.node = (nn.Linear(many * CHANNELS, CHANNELS) for many in (3, 2, 2))
        self.node_out, self.edge_out = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, graphs: "Edges", nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        x, e, (source, target) = self.node_norm(nodes), self.edge_norm(edges), graphs.ends
        made = self.edge(torch.cat([x[source], x[target], e], 1)).relu()
        message = self.message(torch.cat([x[source], made], 1)).relu()
        heard = torch.zeros_like(x).index_add(0, target, message) / graphs.degree
        update = self.node(torch.cat([x, heard], 1)).relu()
        return nodes + self.node_out(nn.functional.silu(update)), edges + self.edge_out(nn.functional.silu(made))


class Edges:
    """The graphs of a batch with an edge for each cell of each kernel, in both directions."""

    def __init__(self, batch: WeightBatch) -> None:
        graphs = collate(to_graphs(batch))
        slots = len(batch.slots)
        cells = graphs.slot_cells.prod(1)[graphs.edge_slot]
        ends = graphs.edge_index.repeat_interleave(cells, 1)
        inside = torch.arange(graphs.edge_value.shape[1]) < cells[:, None]
        self.ends = torch.cat([ends, ends.flip(0)], 1)
        self.value = graphs.edge_value[inside][:, None].repeat(2, 1)
        self.slot = graphs.edge_slot.repeat_interleave(cells).repeat(2)
        self.nodes, self.network = graphs.num_nodes, graphs.batch[self.ends[0]]
        self.degree = torch.bincount(self.ends[1], minlength=self.nodes).clamp_min(1)[:, None]
        if int(self.slot.max()) + 1 != slots or len(self.value) != 2 * batch.num_params * len(batch):
            raise AssertionError("the edges are not the parameters")


def in_turns(steps: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Smallest and median CPU milliseconds of each, timed one after the other in rounds."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for at in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if at:  # the first round is to warm up
                found[name].append(1000 * (time.process_time() - start))
    return {name: (min(each), statistics.median(each)) for name, each in found.items()}


def training_step(net: nn.Module, run: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        net.zero_grad()
        run().square().mean().backward()  # type: ignore[no-untyped-call]

    return step


def main() -> None:
    """Time both architectures, print a table."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; {NETWORKS} networks, {CHANNELS} channels, {LAYERS} layers; CPU ms, smallest / median of {ROUNDS}\n")
    print(
        "| networks | their code | published layer here | our sparse | our dense | dense, times faster than the layer here | graphs: theirs | ours |"
    )
    print("|-|-|-|-|-|-|-|-|")
    for name, module in (("SIREN 2-32-32-1", siren), ("CNN of 4970 parameters", cnn)):
        torch.manual_seed(0)
        states = [module().state_dict() for _ in range(NETWORKS)]
        batch = WeightBatch.stack(states, infer_spec(states[0]))
        net, published = build("gmn", batch.spec, channels=CHANNELS, layers=LAYERS), Published(len(batch.slots))
        if not isinstance(net, GraphMetaNet):
            raise TypeError("expected a GraphMetaNet")
        graphs, edges = collate(to_graphs(batch)), Edges(batch)
        found = in_turns(
            {
                "published": training_step(published, lambda: published(edges)),  # noqa: B023  (called before the loop goes on)
                "sparse": training_step(net, lambda: net.embed_graphs(graphs)),  # noqa: B023
                "dense": training_step(net, lambda: net(batch)),  # noqa: B023
                "build": lambda: collate(to_graphs(batch)),  # noqa: B023
            }
        )
        shown = {what: f"{least:.0f} / {median:.0f}" for what, (least, median) in found.items()}
        times = " / ".join(f"{found['published'][k] / found['dense'][k]:.1f}" for k in (0, 1))
        theirs = THEIRS[name]
        print(
            f"| {name} | {theirs[0]} | {shown['published']} | {shown['sparse']} | {shown['dense']} | {times} | {theirs[1]} | {shown['build']} |"
        )


if __name__ == "__main__":
    main()
