"""That networks of independent runs have to be aligned before their distribution can be learned."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from weightspace.analysis.generation import Material, fit, sample
from weightspace.analysis.generation.alignment import aligned, augmented
from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.distribution import FLOW, Judge, material, trained

NETWORKS, STEPS, DRAWN = 60, 400, 50


@claim(
    "align-first",
    statement="Generators of weights learn from networks of independent runs once these are aligned by permutations; permuted copies do not replace that.",
    source="Zeng et al., Generative Modeling of Weights: Generalization or Memorization?, arXiv:2506.07998 (on permutation symmetry); Schuerholt et al., arXiv:2209.14733",
    topic="generation",
)
def align_first(seeds: Sequence[int]) -> Iterator[Finding]:
    """Draw from a flow that learned 60 perceptrons as they are, aligned to one of them, and with permuted copies."""
    ours, plain, copies = [], [], []
    for seed in seeds:
        networks = material(trained(seed, NETWORKS, [STEPS]))
        generator = torch.Generator().manual_seed(seed)
        ours.append(_drawn(aligned(networks, "reference", generator=generator), seed))
        plain.append(_drawn(networks, seed))
        copies.append(_drawn(augmented(networks, 3, generator=generator), seed))
    yield above("accuracy of drawn networks, learned aligned, percent", ours, plain, "learned as they are")
    yield above("accuracy of drawn networks, learned aligned, percent", ours, copies, "learned with permuted copies")


def _drawn(given: Material, seed: int) -> float:
    fitted = fit("flow", given, generator=torch.Generator().manual_seed(seed), **dict[str, Any](FLOW))
    made = sample(fitted, DRAWN, generator=torch.Generator().manual_seed(seed))
    return 100 * Judge.of(1, given)(made, given.target)["accuracy"]
