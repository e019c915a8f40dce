"""That CKA does not see rotations and one scale of representations, but sees other linear maps, to which canonical correlations are blind."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from weightspace.analysis.similarity import cca, linear_cka
from weightspace.experiments.claim import Finding, above, at_least, at_most, claim

SAMPLES, UNITS = 400, 24


@claim(
    "cka-invariance",
    statement="CKA is unchanged by orthogonal maps and isotropic scaling of units but not by every invertible linear map, as canonical correlations are.",
    source="Kornblith et al., Similarity of Neural Network Representations Revisited, arXiv:1905.00414, section 2 and table 1",
    topic="stitching",
)
def cka_invariance(seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare random representations of unequal variances with images of themselves, beside unrelated ones."""
    rotated, mapped, correlated, unrelated = [], [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = _drawn(generator) * torch.logspace(0, -1, UNITS, dtype=torch.float64)
        rotation = torch.linalg.qr(_drawn(generator, UNITS))[0]
        other = _drawn(generator)
        invertible = _drawn(generator, UNITS) / UNITS**0.5 @ torch.diag(torch.logspace(0, -2, UNITS, dtype=torch.float64))
        rotated.append(1 - linear_cka(x, 3.7 * x @ rotation))
        mapped.append(1 - linear_cka(x, x @ invertible))
        correlated.append(1 - cca(x, x @ invertible))
        unrelated.append(1 - linear_cka(x, other))
    yield at_most(
        "what CKA lacks to 1 after a rotation and a scale", rotated, 1e-10, baseline=unrelated, against="an unrelated representation"
    )
    yield at_least("what CKA lacks to 1 after an invertible map", mapped, 0.01)
    yield at_most("what the mean canonical correlation lacks to 1 after it", correlated, 1e-6)
    yield above("what CKA lacks to 1 for unrelated representations", unrelated, mapped, "after an invertible map")


def _drawn(generator: torch.Generator, rows: int = SAMPLES) -> Tensor:
    return torch.randn(rows, UNITS, generator=generator, dtype=torch.float64)
