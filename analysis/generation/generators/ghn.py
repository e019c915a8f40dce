"""Graph hypernetworks: weights for any architecture, predicted from the graph of its module."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.graphs.decoder import Decoder, orders_of
from weightspace.analysis.generation.graphs.features import NodeFeatures
from weightspace.analysis.generation.graphs.gated import GatedGNN
from weightspace.analysis.generation.graphs.graph import FARTHEST, ArchitectureGraph
from weightspace.analysis.generation.graphs.reading import read
from weightspace.analysis.generation.graphs.transformer import GraphTransformer
from weightspace.analysis.generation.latent.minimising import minimise
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError
from weightspace.task import Task

CLIP = 5.0
"""The longest gradient that a step follows, as published."""

_DESCRIBED = ("primitives", "sizes", "edges", "makers")


@weight_generator(
    "ghn", learns=["tasks"], takes=["architecture"], reference="Knyazev et al., GHN-2, arXiv:2110.13100, and GHN-3, arXiv:2303.04143"
)
class GraphHypernetwork(WeightGenerator):
    """Weights for architectures that it has not seen, from the graph of the module: GHN-2, or with layers of GHN-3.

    It learns through tasks whose modules are of many architectures: every step takes some of them, a batch of each, and follows the
    mean loss. It is deterministic, so networks that are drawn together are equal.

    Batch norms: it makes scales and shifts, never running statistics. It learns with the statistics of each batch, as published. What it
    makes is given statistics measured on data: fit with `norms="re-estimate"`, and draw with the task that has the data. (The original
    keeps to batch statistics in use too, which makes an output depend on the rest of its batch.) Otherwise running statistics are the
    fresh module's, which normalise nothing.

    Against the papers: AdamW with a rate that falls as a cosine, a batch of its own for every architecture, no penalty on the weights
    that are made (GHN-3 has one); for the class layer see `Decoder`.
    """

    example: Tensor

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        layers: str = "gated",
        virtual_edges: bool | int = True,
        normalise: bool = True,
        hidden: int = 32,
        depth: int | None = None,
        heads: int = 4,
        decoder_width: int = 64,
        max_channels: int = 40,
        max_kernel: int = 5,
        steps: int = 800,
        learning_rate: float = 3e-3,
        together: int = 8,
    ) -> None:
        """Make it.

        Args:
            target: of the first task's module.
            condition_shape: none.
            layers: that read the graph: `gated` of GHN-2, `transformer` of GHN-3.
            virtual_edges: whether nodes on longer paths hear of one another, or the longest such path; True is up to 50.
            normalise: whether parameters are normalised (see `normalised`).
            hidden: features of a node, a multiple of 4 and of `heads`.
            depth: rounds of the gated network or layers of the transformer; None is 1 of the former, 3 of the latter;
                0 leaves each node to its own primitive and shape.
            heads: of the transformer's attention.
            decoder_width: see `Decoder`.
            max_channels: that are made without repeating.
            max_kernel: rows and columns of kernels that are made without interpolating.
            steps: of learning.
            learning_rate: at the first step.
            together: architectures a step.
        """
        super().__init__(target, condition_shape)
        self.steps, self.learning_rate, self.together = steps, learning_rate, together
        farthest = (FARTHEST if virtual_edges else 1) if isinstance(virtual_edges, bool) else max(1, virtual_edges)
        self.features = NodeFeatures(hidden)
        self.layers: GatedGNN | GraphTransformer
        match layers:
            case "gated":
                self.layers = GatedGNN(hidden, rounds=1 if depth is None else depth, farthest=farthest)
            case "transformer":
                self.layers = GraphTransformer(hidden, layers=3 if depth is None else depth, heads=heads, farthest=farthest)
            case _:
                raise GenerationError(f"layers '{layers}' are not known; expected gated or transformer")
        self.norm = nn.LayerNorm(hidden)
        self.decoder = Decoder(hidden, width=decoder_width, max_channels=max_channels, max_kernel=max_kernel, normalise=normalise)
        self.example = nn.Buffer(torch.zeros(0))
        for name in _DESCRIBED:
            self.register_buffer(name, torch.zeros(0, dtype=torch.long))

    def weights(self, graphs: Sequence[ArchitectureGraph], targets: Sequence[Target]) -> list[dict[str, Tensor]]:
        """Make the parameters of some architectures, differentiably.

        Args:
            graphs: of the architectures.
            targets: of each.
        """
        nodes = self.norm(self.layers(self.features(graphs), graphs))
        firsts = accumulate((len(graph) for graph in graphs), initial=0)
        orders = [orders_of(*one) for one in zip(graphs, targets, firsts, strict=False)]
        made = iter(self.decoder(nodes, [order for some in orders for order in some]))
        return [{name: next(made) for name in one.shapes} for one in targets]

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Read the graphs of all modules, and learn.

        Raises:
            GenerationError: a batch is no pair of input and target, a graph cannot be read, or the target has tensors that are no parameters.
        """
        tasks = material.tasks
        self.example = nn.Buffer(_example(tasks[0]))
        graphs = [read(task.module, _example(task).to(task.device)) for task in tasks]
        _expect_parameters(self.target, graphs[0])
        for name, tensor in graphs[0].described(list(self.target.shapes)).items():
            self.register_buffer(name, tensor)
        self.learn_on(graphs, tasks, generator=generator, progress=progress)

    def learn_on(
        self,
        graphs: Sequence[ArchitectureGraph],
        tasks: Sequence[Task],
        *,
        generator: torch.Generator,
        progress: Progress = lambda done, total: None,
    ) -> list[float]:
        """Learn through tasks whose graphs are known.

        Args:
            graphs: of the tasks' modules.
            tasks: with batches to learn from.
            generator: draws architectures and batches.
            progress: is told of every step.

        Returns:
            The loss of each step.
        """
        targets = [Target.of_module(task.module) for task in tasks]
        batches = [list(task.batches) for task in tasks]

        def loss() -> Tensor:
            drawn = torch.randperm(len(tasks), generator=generator)[: self.together].tolist()
            made = self.weights([graphs[at] for at in drawn], [targets[at] for at in drawn])
            losses = []
            for at, weights in zip(drawn, made, strict=True):
                batch = batches[at][int(torch.randint(len(batches[at]), (), generator=generator))]
                losses.append(tasks[at].loss_of(targets[at].whole(weights), batch, batch_statistics=True))
            return torch.stack(losses).mean()

        return minimise(loss, self.parameters(), steps=self.steps, learning_rate=self.learning_rate, clip=CLIP, progress=progress)

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Make the network of the architecture that is wished for, or of the one that it was fitted on, as often as asked for.

        Raises:
            GenerationError: of the architecture only the target or only the module is given, they do not fit, or the graph cannot be read.
        """
        graph, target = self._wished(wish)
        [made] = self.weights([graph], [target])
        return {name: tensor.expand(count, *tensor.shape).clone() for name, tensor in made.items()}

    def _wished(self, wish: Wish) -> tuple[ArchitectureGraph, Target]:
        if wish.module is None and wish.target is None:
            names = list(self.target.shapes)
            return ArchitectureGraph.of(names, {name: self.get_buffer(name) for name in _DESCRIBED}), self.target
        if wish.module is None or wish.target is None:
            given, missing = ("target", "module") if wish.module is None else ("module", "target")
            raise GenerationError(
                f"a {given} without its {missing}: weights are made from the graph of a module; "
                "give Wish(target=Target.of_module(module), module=module)"
            )
        device = next(wish.module.parameters(), self.example).device
        graph = read(wish.module, self.example.to(device))
        _expect_parameters(wish.target, graph)
        return graph, wish.target


def _example(task: Task) -> Tensor:
    """Two inputs of a task."""
    batch = next(iter(task.batches), None)
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise GenerationError(f"expected batches of (input, target), found {type(batch).__name__}; give tasks with such batches")
    return batch[0][:2].detach().clone()


def _expect_parameters(target: Target, graph: ArchitectureGraph) -> None:
    strange = [name for name in target.shapes if name not in graph.tensors]
    if strange:
        raise GenerationError(f"tensor '{strange[0]}' is no parameter of the module; make the target with Target.of_module(module)")
