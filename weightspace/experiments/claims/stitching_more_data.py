"""That the front of a network which saw more data improves one that saw less."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.stitching_pairs import accuracy, joined, of, trained

NETWORK = "mnist1d-mlp"


@claim(
    "stitching-more-data",
    statement="More is better: first layers of a network trained on more data can be plugged into one trained on less, and improve it.",
    source="Bansal et al., Revisiting Model Stitching to Compare Neural Representations, arXiv:2106.07682, abstract (more is better)",
    topic="stitching",
)
def stitching_more_data(seeds: Sequence[int]) -> Iterator[Finding]:
    """Ends that saw a tenth of the data behind the stitched front of a network that saw all of it, at the middle cut; behind one that saw a tenth as well."""
    ends, fronts = of(NETWORK, "tenth of the data", seeds), of(NETWORK, "base", seeds)
    alike = ends[1:] + ends[:1]
    own = [accuracy(NETWORK, end) for end in ends]
    better, other, raw = [], [], []
    for end, front, peer in zip(ends, fronts, alike, strict=True):
        cut = len(end.cuts) // 2
        better.append(joined(NETWORK, front, end, cut, trained(NETWORK, front, end, cut)))
        other.append(joined(NETWORK, peer, end, cut, trained(NETWORK, peer, end, cut)))
        raw.append(joined(NETWORK, front, end, cut, trained(NETWORK, front, end, cut, -1), -1))
    yield above("accuracy behind a front of ten times the data", better, own, "the network itself")
    yield above("accuracy behind a front of ten times the data", better, other, "behind a front of as little data")
    yield above("accuracy behind a front of ten times the data", better, raw, "behind the raw input")
