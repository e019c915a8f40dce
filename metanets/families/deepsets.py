"""Deep sets over parameters: every weight is a token of its own, pooled by tensor and then over tensors."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.graphs.codes import Codes
from weightspace.metanets.graphs.vectors import CELL_CODES, POSITION_CODES, SLOT_CODES, cell_vectors, slot_vectors, waves
from weightspace.metanets.graphs.wiring import Wire, Wiring
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import MetaNet, metanet

SIDES = ("target", "source")
LONGEST = 1000.0
"""Wavelengths of the codes of inputs and outputs are up to 4 times this."""
TOLD = SLOT_CODES + 2
"""What is told of a slot: its codes, how many weights it has, and how large they are."""
TINY = 1e-12


@metanet("deepsets", reference="arXiv:1703.06114", any_architecture=True, couples=False)
class DeepSets(MetaNet):
    """Weights as a set: value and kind of each through a perceptron, mean and maximum over a tensor, mean over tensors.

    Zaheer et al., Deep Sets (arXiv:1703.06114). It knows which tensor a weight belongs to, where in a kernel it stands and which input
    or output it touches, but not which hidden neuron: the baseline that says what knowing the neurons is worth. Values are divided by
    their slot's root mean square in that network, whose logarithm is told beside them, so that layers of any scale are read alike.
    """

    def __init__(self, layouts: Sequence[Layout], *, dim: int = 64, width: int = 32, frequencies: int = 8) -> None:
        """Build it; it reads any architecture.

        Args:
            layouts: not looked at.
            dim: length of the vector.
            width: of the perceptron that each weight goes through; half the width of that for tensors.
            frequencies: of the sines and cosines that a value is told by.
        """
        super().__init__()
        self.dim = dim
        self.frequencies = nn.Buffer(torch.randn(frequencies) * math.pi)
        self.value = nn.Linear(2 * frequencies + 1, width)
        self.kind = nn.Linear(TOLD, width)
        self.place = nn.ModuleDict({side: nn.Linear(POSITION_CODES, width, bias=False) for side in SIDES})
        self.cell = nn.Linear(CELL_CODES, width, bias=False)
        self.token = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.slot = nn.Sequential(nn.Linear(2 * width + TOLD, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU())
        self.out = nn.Linear(2 * width, dim)

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of one architecture."""
        wiring = Wiring.of(batch.layout)
        codes = slot_vectors(Codes.of(wiring), torch.empty((), dtype=torch.float64))
        slots = zip(wiring.wires, codes, strict=True)
        pooled = [self._pooled(batch, wire, code) for wire, code in slots if batch.slots[wire.slot.key].numel()]
        made: Tensor = self.out(self.slot(torch.stack(pooled, 1)).mean(1))
        return made

    def _pooled(self, batch: WeightBatch, wire: Wire, code: Float[Tensor, " codes"]) -> Float[Tensor, "networks features"]:
        """A slot's weights, each through the perceptron, pooled, beside what the slot is."""
        values = batch.slots[wire.slot.key]
        places = tuple(1 for _ in values.shape[1:])
        size = (values.flatten(1).square().mean(1) + TINY).sqrt()
        count = torch.full_like(size, math.log(values[0].numel()))
        told = torch.cat([code.to(values).expand(len(values), -1), count[:, None], size.log()[:, None]], 1)
        scaled = (values / size.reshape(-1, *places))[..., None]
        angle = scaled * self.frequencies
        hidden = self.value(torch.cat([scaled, angle.sin(), angle.cos()], -1)) + self.kind(told).reshape(len(values), *places, -1)
        tokens = self.token(hidden + self._places(batch.layout, wire, values)).flatten(1, -2)
        return torch.cat([tokens.mean(1), tokens.amax(1), told], 1)

    def _places(self, layout: Layout, wire: Wire, like: Tensor) -> Float[Tensor, "*places width"]:
        """What tells one weight of a slot from another: the input or output that it touches, its cell; never the hidden neuron."""
        made: Tensor = self.cell(cell_vectors(torch.tensor(wire.cells), like))
        for j, group in enumerate(wire.slot.groups):
            if layout.has_identity(group):
                code = self.place[SIDES[j in wire.slot.sources]](waves(torch.arange(wire.shape[j]).to(like), LONGEST))
                made = made + code.reshape(-1, *(1 for _ in wire.shape[j + 1 :]), 1, code.shape[-1])
        return made


__all__ = ["DeepSets"]
