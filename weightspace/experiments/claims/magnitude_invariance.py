"""That magnitude-invariant hypernetworks learn faster, and that both halves of them are needed."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, below, claim
from weightspace.experiments.mip import QUESTIONS, VARIANTS, measure

STEPS, RATE = 150, 1e-3


@claim(
    "magnitude-invariance",
    statement="Magnitude-invariant parametrisation makes hypernetworks learn faster, and neither its input encoding nor its residual form does so alone.",
    source="Gonzalez Ortiz et al., Magnitude Invariant Parametrizations Improve Hypernetwork Learning, arXiv:2304.07645, abstract and ablation",
    topic="generation",
)
def magnitude_invariance(seeds: Sequence[int]) -> Iterator[Finding]:
    """Loss after as many steps of Adam, the mean over conditions: rotated digits, and a trade-off of two losses."""
    for question in QUESTIONS[:2]:
        lost = {variant: [measure(question, variant, seed, STEPS, RATE)["loss"] for seed in seeds] for variant in VARIANTS}
        yield below(f"loss, {question.name}", lost["MIP"], lost["default"], "default hypernetwork")
        yield below(f"loss, {question.name}", lost["MIP"], lost["encoding only"], "encoding alone")
        yield below(f"loss, {question.name}", lost["MIP"], lost["residual only"], "residual form alone")
