"""That linear and orthogonal maps join two networks, and permutations of units do not."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.stitching import fit_stitches
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.stitching_pairs import accuracy, joined, of, tasks, trained

NETWORK = "mnist1d-cnn"


@claim(
    "stitch-classes",
    statement="Representations of networks of other seeds agree up to an affine map: found by least squares it keeps much of the accuracy, trained on the task nearly all.",
    source="Csiszarik et al., Similarity and Matching of Neural Network Representations, arXiv:2110.14633, abstract",
    topic="stitching",
)
def stitch_classes(seeds: Sequence[int]) -> Iterator[Finding]:
    """Share of the end's accuracy that is kept, the mean over cuts, by the kind of stitch; permutations and a random map stand beside."""
    ends, fronts = of(NETWORK, "base", seeds), of(NETWORK, "other seed", seeds)
    kept: dict[str, list[float]] = {kind: [] for kind in ("trained", "linear", "orthogonal", "permutation", "random")}
    for end, front in zip(ends, fronts, strict=True):
        whole, cuts = accuracy(NETWORK, end), range(len(end.cuts))
        for kind, values in kept.items():
            pairs = [(cut, cut) for cut in cuts]
            stitches = (
                [trained(NETWORK, front, end, cut) for cut in cuts]
                if kind == "trained"
                else list(fit_stitches(front, end, tasks(NETWORK)[0], pairs, kind).values())
            )
            values.append(sum(joined(NETWORK, front, end, cut, stitches[cut]) for cut in cuts) / len(cuts) / whole)
    yield at_least("share of accuracy kept, trained on the task", kept["trained"], 0.95, baseline=kept["random"], against="random maps")
    yield above("share of accuracy kept, trained on the task", kept["trained"], kept["linear"], "least squares")
    yield at_least("share of accuracy kept, least squares", kept["linear"], 0.8)
    yield above("share of accuracy kept, least squares", kept["linear"], kept["permutation"], "permutations of units")
    yield above("share of accuracy kept, orthogonal maps", kept["orthogonal"], kept["permutation"], "permutations of units")
