"""That a ReLU network has one free scale for each hidden unit besides its permutations, and a tanh network none."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.symmetry import act


@claim(
    "relu-scaling",
    statement="Scaling a hidden ReLU unit's incoming weights by a positive number and dividing its outgoing ones by it changes nothing; for tanh it does.",
    source="Neyshabur et al., Path-SGD, arXiv:1506.02617, section 2; Badrinarayanan et al., arXiv:1511.01029",
    topic="symmetry",
)
def relu_scaling(seeds: Sequence[int]) -> Iterator[Finding]:
    """Scale hidden units of perceptrons at random, with their permutations, in float64."""
    changes = {kind: [_change(kind(), seed) for seed in seeds] for kind in (nn.ReLU, nn.Tanh)}
    yield at_most("relative change of a ReLU network's outputs", changes[nn.ReLU], 1e-12)
    yield at_least("relative change of a tanh network's outputs under the same scales", changes[nn.Tanh], 1e-2)


def _change(activation: nn.Module, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).double()
    inputs = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    element = ws.trace(module, inputs).random(generator)
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    module[1], module[3] = activation, activation
    before = _run(module, weights, inputs)
    return float((_run(module, dict(act(element, weights)), inputs) - before).norm() / before.norm())


def _run(module: nn.Module, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    outputs: Tensor = torch.func.functional_call(module, weights, (inputs,))
    return outputs
