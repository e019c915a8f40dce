"""The recurrent hypernetwork: layers are made one after another, each knowing those before it."""

import math
from collections.abc import Iterator
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.generator import weight_generator
from weightspace.analysis.generation.hypernetworks.hypernetwork import EmbeddingHypernetwork
from weightspace.analysis.generation.hypernetworks.initialisation import Start
from weightspace.analysis.generation.target import Target


@weight_generator("recurrent", learns=["tasks"], takes=["condition"], reference="arXiv:2209.07712")
class RecurrentHypernetwork(EmbeddingHypernetwork):
    """A gated recurrent unit over the layers of the target; one linear head for each shape of a layer.

    At each layer it reads the embeddings of the condition and of the layer, and its state carries what was decided for earlier layers. Layers
    of more than `chunk` parameters are made in pieces, one step each, by one head for all. The paper's code is not public, so sizes are ours,
    and so is the normalised state before the heads, by which generated matrices start with the variance of an ordinary network.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        chunk: int = 1024,
        embedding: int = 16,
        hidden: int = 32,
        beta: float | None = None,
        look_ahead: bool = False,
        at_once: int | None = None,
        steps: int = 2000,
        learning_rate: float = 3e-3,
        together: int = 4,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: see `EmbeddingHypernetwork`.
            chunk: most parameters that one step makes.
            embedding: size of what is learned for a condition, and for a layer or piece of one.
            hidden: size of the state.
            beta: see `EmbeddingHypernetwork`.
            look_ahead: see `EmbeddingHypernetwork`.
            at_once: see `EmbeddingHypernetwork`.
            steps: see `EmbeddingHypernetwork`.
            learning_rate: see `EmbeddingHypernetwork`.
            together: see `EmbeddingHypernetwork`.
        """
        super().__init__(
            target,
            condition_shape,
            embedding=embedding,
            beta=beta,
            look_ahead=look_ahead,
            at_once=at_once,
            steps=steps,
            learning_rate=learning_rate,
            together=together,
        )
        pieces = list(_pieces(target, chunk))
        self.order = [key for key, _ in pieces]
        self.places = nn.Parameter(torch.randn(len(pieces), embedding))
        self.read = nn.Linear(2 * embedding, 3 * hidden)
        self.recall = nn.Linear(hidden, 3 * hidden)
        self.norm = nn.LayerNorm(hidden)
        self.heads = nn.ModuleDict({key: _head(hidden, size) for key, size in dict(pieces).items()})
        self.start = Start(target)

    def rows(self, codes: Float[Tensor, "networks size"]) -> Float[Tensor, "networks params"]:
        """Make all parameters in a row for each of several codes."""
        states = self.norm(self._states(codes))
        made: Tensor = self.start(torch.cat([self.heads[key](states[at]) for at, key in enumerate(self.order)], 1))
        return made

    def _states(self, codes: Float[Tensor, "networks size"]) -> Float[Tensor, "pieces networks hidden"]:
        """The equations of `nn.GRU`, which itself does not work under vmap everywhere."""
        shape = (len(self.places), *codes.shape)
        read = self.read(torch.cat([codes.expand(shape), self.places[:, None].expand(shape)], 2))
        state = read.new_zeros(len(codes), self.recall.in_features)
        states = []
        for step in read:
            reset, update, new = step.chunk(3, -1)
            from_reset, from_update, from_new = self.recall(state).chunk(3, -1)
            gate = torch.sigmoid(update + from_update)
            state = (1 - gate) * torch.tanh(new + torch.sigmoid(reset + from_reset) * from_new) + gate * state
            states.append(state)
        return torch.stack(states)


def _pieces(target: Target, chunk: int) -> Iterator[tuple[str, int]]:
    """For each step its head's name and how many parameters it makes; the tensors of one module are a layer."""
    for _, names in groupby(target.shapes, lambda name: name.rpartition(".")[0]):
        shapes = [target.shapes[name] for name in names]
        total = sum(map(math.prod, shapes))
        if total <= chunk:
            yield " ".join("x".join(map(str, shape)) or "1" for shape in shapes), total
        else:
            for at in range(0, total, chunk):
                size = min(chunk, total - at)
                yield f"{size} at once", size


def _head(hidden: int, size: int) -> nn.Linear:
    head = nn.Linear(hidden, size)
    nn.init.normal_(head.weight, std=1 / math.sqrt(hidden))
    nn.init.zeros_(head.bias)
    return head
