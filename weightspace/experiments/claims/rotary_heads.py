"""That rotary positions leave queries and keys only a rotation and a scale for each frequency, where values stay free."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.proof import certificate

HEADS, SIZE, DIM, TOKENS = 2, 4, 8, 5
FREQUENCIES = SIZE // 2


@claim(
    "rotary-heads",
    statement="With rotary positions the head dimensions of queries and keys cannot be permuted: only a rotation and a scale for each frequency leave attention as it is.",
    source="Su et al., RoFormer, arXiv:2104.09864, section 3.2; Theus et al., arXiv:2506.22712, section 3",
    topic="symmetry",
)
def rotary_heads(seeds: Sequence[int]) -> Iterator[Finding]:
    """Count the free directions of two heads, turn and scale each frequency, and permute head dimensions for contrast."""
    found = [_measured(seed) for seed in seeds]
    expected = float(HEADS * (2 * FREQUENCIES + SIZE**2))
    yield at_least("free directions: two a frequency, and a matrix of values for each head", [one["nullity"] for one in found], expected)
    yield at_most("the same", [one["nullity"] for one in found], expected)
    yield at_most("relative change of the outputs, each frequency turned and scaled", [one["turned"] for one in found], 1e-10)
    yield at_least("the same where query and key dimensions are permuted alike", [one["permuted"] for one in found], 1e-2)


class Attention(nn.Module):
    """Heads with rotary positions, without biases."""

    angles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(DIM, HEADS * SIZE, bias=False) for _ in range(3))
        self.o = nn.Linear(HEADS * SIZE, DIM, bias=False)
        angles = torch.arange(TOKENS)[:, None] * 3.0 ** -torch.arange(FREQUENCIES)
        self.register_buffer("angles", torch.cat([angles, angles], -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        q, k, v = (part(x).unflatten(-1, (HEADS, SIZE)).transpose(-2, -3) for part in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(self._turned(q), self._turned(k), v)
        made: Tensor = self.o(mixed.transpose(-2, -3).flatten(-2))
        return made

    def _turned(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        turned: Tensor = x * self.angles.cos() + torch.cat([-second, first], -1) * self.angles.sin()
        return turned


def _measured(seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Attention().double()
    inputs = torch.randn(4, TOKENS, DIM, generator=generator, dtype=torch.float64)
    spec = ws.trace(module, inputs)
    made = certificate(spec, module, inputs, generator=generator)
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    order = torch.arange(HEADS * SIZE).view(HEADS, SIZE).roll(1, 1).flatten()  # within heads, across frequencies
    permuted = weights | {name: weights[name][order] for name in ("q.weight", "k.weight")}
    before = _run(module, weights, inputs)
    moved = {"turned": _turned(weights, generator), "permuted": permuted}
    changes = {name: float((_run(module, one, inputs) - before).norm() / before.norm()) for name, one in moved.items()}
    return {"nullity": float(made.nullity), **changes}


def _turned(weights: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Queries and keys turned alike at every frequency, and scaled by a number and its inverse."""
    angle = 6 * torch.rand(HEADS, FREQUENCIES, 1, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand(HEADS, FREQUENCIES, 1, generator=generator, dtype=torch.float64)
    made = dict(weights)
    for name, factor in (("q.weight", scale), ("k.weight", 1 / scale)):
        first, second = weights[name].view(HEADS, 2, FREQUENCIES, DIM).unbind(1)  # of a frequency, places (i, i + size / 2)
        pairs = torch.stack([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], 1)
        made[name] = (factor[:, None] * pairs).reshape(weights[name].shape)
    return made


def _run(module: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    outputs: Tensor = torch.func.functional_call(module, weights, (inputs,))
    return outputs
