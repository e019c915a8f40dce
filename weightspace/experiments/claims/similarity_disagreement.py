"""That CKA sees a difference where stitching sees none."""

from collections.abc import Iterator, Sequence

from scipy import stats

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.matrix import stitching_maps
from weightspace.experiments.claim import Finding, at_least, at_most, below, claim
from weightspace.experiments.stitching_pairs import of, tasks

NETWORK = "mnist1d-mlp"
FRONTS = ("other seed", "rate / 10", "rate x 5", "label noise", "tenth of the data")


@claim(
    "similarity-disagreement",
    statement="Geometric similarity misses what stitching shows: networks trained otherwise stitch without a loss while CKA calls them different.",
    source="Bansal et al., arXiv:2106.07682, abstract; Csiszarik et al., arXiv:2110.14633, abstract",
    topic="stitching",
)
def similarity_disagreement(seeds: Sequence[int]) -> Iterator[Finding]:
    """Stitch networks of other seeds, rates, labels and data into usual ones by least squares, and take debiased CKA where they are cut."""
    ends = of(NETWORK, "base", seeds)
    found = {front: [_compared(one, end) for one, end in zip(of(NETWORK, front, seeds), ends, strict=True)] for front in FRONTS}
    ranks = []
    for at in range(len(seeds)):
        pairs = [pair for front in FRONTS for pair in zip(*found[front][at], strict=True)]
        ranks.append(float(stats.spearmanr(*zip(*pairs, strict=True)).statistic))
    fast, usual = ([one[0][-1] for one in found[front]] for front in ("rate x 5", "other seed"))
    yield below("CKA at the last cut, a front of five times the learning rate", fast, usual, "a front of another seed")
    yield at_most("penalty of that front, nats", [one[1][-1] for one in found["rate x 5"]], 0.02)
    yield at_least("rank correlation of CKA with the penalty (-1 where they agree), over trained fronts and cuts", ranks, -0.5)


def _compared(front: Chain, end: Chain) -> tuple[list[float], list[float]]:
    """CKA and penalty at each cut."""
    maps = stitching_maps(front, end, *tasks(NETWORK), maps=("cka_debiased", "penalty"), control=False).maps
    similar, penalty = ([maps[what].table[at][at] for at in range(len(end.cuts))] for what in ("cka_debiased", "penalty"))
    return similar, penalty
