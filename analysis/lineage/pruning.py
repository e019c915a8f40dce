"""Pruned copies: the child is the parent with more zeros, and the same wherever it is not zero."""

from weightspace.analysis.lineage.comparison import Comparison
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.evidence import Finding, evidence
from weightspace.analysis.lineage.probability import CERTAIN


@evidence("pruning")
def pruning(pair: Comparison) -> Finding | None:
    """Nonzeros equal, zeros added, in every tensor that differs; the one with fewer zeros is the parent."""
    if not pair.changed:
        return None
    forward = all(one.second_pruned for one in pair.changed)
    if not forward and not all(one.first_pruned for one in pair.changed):
        return None
    zeros = [
        sum(float(sketch.zeros[at]) * int(sketch.sizes[at]) for at in range(len(sketch.names))) / max(1, int(sketch.sizes.sum()))
        for sketch in pair.sketches
    ]
    parent, child = zeros if forward else zeros[::-1]
    text = f"what is not zero is equal; zeros rose from {parent:.1%} to {child:.1%}"
    reason = Reason("pruning", text, {"zeros in parent": parent, "zeros in child": child})
    return Finding("pruned", CERTAIN, CERTAIN if forward else 1 - CERTAIN, reason, is_exact=True)
