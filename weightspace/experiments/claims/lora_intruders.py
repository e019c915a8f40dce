"""That LoRA puts singular vectors into a network that its base has not, and tuning in full does not."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.intruders import intruder_dimensions
from weightspace.experiments.claim import Finding, above, at_most, claim
from weightspace.experiments.lora_tuning import RANKS, tuned

SAME = 0.02
"""Of accuracy: networks that differ by no more count as equally good."""


@claim(
    "lora-intruders",
    statement="Networks tuned by LoRA have intruder dimensions, the more the lower the rank; networks tuned in full to the same accuracy have almost none.",
    source="Shuttleworth et al., LoRA vs full fine-tuning: an illusion of equivalence, arXiv:2410.21228, section 4",
    topic="weights",
    seeds=5,
    tries=("measure intruders",),
)
def lora_intruders(seeds: Sequence[int]) -> Iterator[Finding]:
    """Count them in MNIST-1D perceptrons tuned to shifted signals, among ten vectors of three layers; random updates of the same norm are the null."""
    counts: dict[int | None, list[float]] = {rank: [] for rank in RANKS}
    chance: list[float] = []
    behind: dict[int | None, list[float]] = {rank: [] for rank in RANKS}
    for seed, one in zip(seeds, tuned(tuple(seeds)), strict=True):
        for rank, own in counts.items():
            drawn = 2 if rank == 1 else 0
            found = intruder_dimensions(one.base, one.tuned[rank], null=drawn, generator=torch.Generator().manual_seed(seed), layers="fc*")
            own.append(float(found.count))
            behind[rank].append(one.target.evaluate(one.tuned[None])["accuracy"] - one.target.evaluate(one.tuned[rank])["accuracy"])
            chance += [sum(found.null) / drawn] if drawn else []
    yield at_most("intruders after tuning in full", counts[None], 1.0)
    for rank in RANKS[1:]:
        yield at_most(f"accuracy on the task in full less that of LoRA of rank {rank}", behind[rank], SAME)
        yield above(f"intruders after LoRA of rank {rank}", counts[rank], counts[None], "in full")
    yield above("intruders after LoRA of rank 1", counts[1], counts[4], "of rank 4")
    yield above("the same", counts[1], chance, "random updates of its norm and rank")
