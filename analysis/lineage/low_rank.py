"""Low-rank differences: what LoRA adapters leave when they are merged into their base."""

from weightspace.analysis.lineage.comparison import Comparison
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.evidence import Finding, evidence
from weightspace.analysis.lineage.probability import LOW_RANK, forward_probability

WIDE = 16  # directions that a matrix has to have, so that few of them say something
LENGTH = 0.02  # what a distance counts at full rank; of two adapted siblings the difference has the ranks of both, and the parent less
SHARE = 0.5  # of the directions there could be: a random difference has all


@evidence("low rank")
def low_rank(pair: Comparison) -> Finding | None:
    """Every matrix that differs does so in few directions (Hu et al., arXiv:2106.09685, equation 3); sums have more than their parts."""
    matrices = [one for one in pair.changed if one.rank[1] >= WIDE]
    if not matrices or any(not one.is_matrix for one in pair.changed) or any(one.rank[0] > SHARE * one.rank[1] for one in matrices):
        return None
    highest, most = max((one.rank for one in matrices), key=lambda rank: rank[0] / rank[1])
    text = f"the difference has rank {highest} of {most} where it is highest, in {len(matrices)} matrices"
    reason = Reason("low rank", text, {"rank": float(highest), "of": float(most), "matrices": float(len(matrices))})
    return Finding("lora", LOW_RANK, forward_probability(pair), reason, length=LENGTH * (highest / most) ** 2)
