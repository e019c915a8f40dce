"""That CKA of few samples of many units is near 1 for noise, and the debiased one near 0."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.similarity import linear_cka
from weightspace.experiments.claim import Finding, at_least, at_most, claim


@claim(
    "cka-bias",
    statement="With fewer samples than units CKA of unrelated representations is close to 1; with the unbiased HSIC it is close to 0.",
    source="Murphy et al., Correcting Biased Centered Kernel Alignment Measures, arXiv:2405.01012, abstract; Nguyen et al., arXiv:2010.15327, equation 3",
    topic="stitching",
    seeds=5,
)
def cka_bias(seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare independent Gaussian representations, few samples of many units and many of few."""
    few, many, corrected = [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(50, 500, generator=generator) for _ in range(2))
        few.append(linear_cka(x, y))
        corrected.append(abs(linear_cka(x, y, debiased=True)))
        x, y = (torch.randn(5000, 50, generator=generator) for _ in range(2))
        many.append(linear_cka(x, y))
    yield at_least("CKA of noise, 50 samples of 500 units", few, 0.9, baseline=many, against="5,000 samples of 50 units")
    yield at_most("absolute debiased CKA of the same noise", corrected, 0.05)
