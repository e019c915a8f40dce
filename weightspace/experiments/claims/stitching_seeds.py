"""That networks which differ in their seed alone can be stitched together at any depth."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, at_most, claim
from weightspace.experiments.stitching_pairs import accuracy, joined, of, trained

NETWORK = "mnist1d-mlp"


@claim(
    "stitching-seeds",
    statement="Networks of one architecture trained from different initialisations can be stitched at every layer with a minimal drop in performance.",
    source="Bansal et al., Revisiting Model Stitching to Compare Neural Representations, arXiv:2106.07682, abstract",
    topic="stitching",
)
def stitching_seeds(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train a linear stitch at each cut from a network of another seed, and one from a network with random weights."""
    ends, fronts, random = (of(NETWORK, made, seeds) for made in ("base", "other seed", "random"))
    lost, beside = [], []
    for end, front, untrained in zip(ends, fronts, random, strict=True):
        whole = accuracy(NETWORK, end)
        drops = [
            [100 * (whole - joined(NETWORK, one, end, cut, trained(NETWORK, one, end, cut))) for cut in range(len(end.cuts))]
            for one in (front, untrained)
        ]
        lost.append(drops[0])
        beside.append(drops[1])
    worst, other = ([max(one) for one in both] for both in (lost, beside))
    yield at_most("accuracy lost at the worst cut, points", worst, 2.0, baseline=other, against="a front with random weights")
    yield above(
        "accuracy lost at the last cut behind a random front, points",
        [one[-1] for one in beside],
        [one[-1] for one in lost],
        "behind a trained front",
    )
