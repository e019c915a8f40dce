"""That each attention head has two invertible matrices of freedom, between queries and keys and between values and outputs, and no more."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.proof import certificate
from weightspace.symmetry import act

HEADS, SIZE, DIM = 2, 3, 6


@claim(
    "attention-symmetry",
    statement="Attention keeps its outputs under any invertible matrix between queries and keys, and another between values and outputs, of each head.",
    source="Theus et al., Generalized linear mode connectivity for transformers, arXiv:2506.22712, section 3",
    topic="symmetry",
)
def attention_symmetry(seeds: Sequence[int]) -> Iterator[Finding]:
    """Count the free directions of two heads without biases, and try random elements; orders of query rows that cross heads are the contrast."""
    found = [_measured(seed) for seed in seeds]
    expected = float(2 * HEADS * SIZE**2)
    yield at_least(f"free directions of {HEADS} heads of {SIZE}", [one["nullity"] for one in found], expected)
    yield at_most("the same", [one["nullity"] for one in found], expected)
    yield at_most("directions that tracing does not declare", [one["missing"] for one in found], 0.0)
    yield at_most("relative change of the outputs under a random element", [one["change"] for one in found], 1e-10)
    yield at_least("the same where rows of queries and keys are reordered across heads", [one["across"] for one in found], 1e-2)


class Attention(nn.Module):
    """Heads side by side, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(DIM, HEADS * SIZE, bias=False) for _ in range(3))
        self.o = nn.Linear(HEADS * SIZE, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        q, k, v = (part(x).unflatten(-1, (HEADS, SIZE)).transpose(-2, -3) for part in (self.q, self.k, self.v))
        made: Tensor = self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))
        return made


def _measured(seed: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Attention().double()
    inputs = torch.randn(4, 5, DIM, generator=generator, dtype=torch.float64)
    spec = ws.trace(module, inputs)
    made = certificate(spec, module, inputs, generator=generator)
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    order = torch.arange(HEADS * SIZE).view(HEADS, SIZE).T.flatten()  # every head gets rows of both
    across = weights | {name: weights[name][order] for name in ("q.weight", "k.weight")}
    before = _run(module, weights, inputs)
    changes = {
        "change": _run(module, dict(act(spec.random(generator), weights)), inputs),
        "across": _run(module, across, inputs),
    }
    relative = {name: float((after - before).norm() / before.norm()) for name, after in changes.items()}
    return {"nullity": float(made.nullity), "missing": float(abs(made.missing)), **relative}


def _run(module: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    outputs: Tensor = torch.func.functional_call(module, weights, (inputs,))
    return outputs
