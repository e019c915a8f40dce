"""That weight matching undoes a permutation that was put in, also under noise, while unrelated networks get nearer only by chance."""

from collections.abc import Iterator, Sequence

import torch

import weightspace as ws
from weightspace.analysis.matching import match, null_reduction
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.experiments.networks import mlp
from weightspace.symmetry import act

WIDTH, INPUTS, NOISE = 512, 40, 0.5
MOST_PASSES = 4


@claim(
    "planted-permutation",
    statement="Weight matching finds a permutation that was applied to a network in a few passes, even under noise of half the weights' spread.",
    source="Ainsworth et al., Git Re-Basin, arXiv:2209.04836, section 5.1 and appendix A.5",
    topic="matching",
    tries=("matching method weight",),
)
def planted_permutation(seeds: Sequence[int]) -> Iterator[Finding]:
    """Plant in perceptrons as they are initialised; networks of another seed are the null."""
    found = [_planted(seed) for seed in seeds]
    for noise in (0.0, NOISE):
        own = [one[noise] for one in found]
        chance = [one["chance"] for one in own]
        yield at_least(
            f"share of units put right, noise {noise:g}", [one["right"] for one in own], 1.0, baseline=chance, against="at random"
        )
        yield at_most(f"passes over the layers, noise {noise:g}", [one["sweeps"] for one in own], float(MOST_PASSES))
    reductions = [one[NOISE] for one in found]
    yield at_least(
        "share of the distance taken away, noise 0.5",
        [one["reduction"] for one in reductions],
        0.5,
        baseline=[one["null"] for one in reductions],
        against="of an unrelated network",
    )


def _planted(seed: int) -> dict[float, dict[str, float]]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = mlp(INPUTS, WIDTH).eval()
    weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    spec = ws.trace(module, torch.randn(4, INPUTS, generator=generator))
    planted = spec.random(generator, discrete=True)
    null = null_reduction(weights, weights, spec, draws=1, null="normal", generator=generator).mean
    made = {}
    for noise in (0.0, NOISE):
        noisy = {name: tensor + noise * tensor.std() * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}
        found = match(weights, act(planted, noisy), spec, generator=generator)
        total = found.element @ planted
        still = torch.cat([(total.actions[group].index == torch.arange(WIDTH)).double() for group in total.actions])
        made[noise] = {
            "right": float(still.mean()),
            "sweeps": float(found.sweeps),
            "reduction": found.reduction,
            "null": null,
            "chance": 1 / WIDTH,
        }
    return made
