"""Copies: every tensor of the one is in the other, bit for bit, whatever it is called there."""

from weightspace.analysis.lineage.comparison import Comparison
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.evidence import Finding, evidence
from weightspace.analysis.lineage.probability import CERTAIN


@evidence("copies")
def copies(pair: Comparison) -> Finding | None:
    """All tensors equal: a copy in another container, or under other names; which was first, it does not tell."""
    if pair.changed or not pair.is_whole:
        return None
    kind = "renamed" if pair.is_renamed else "copy"
    text = f"all {len(pair.tensors)} tensors are equal" + (" under other names" if pair.is_renamed else "")
    return Finding(kind, CERTAIN, 0.5, Reason("shared tensors", text, {"equal": 1.0}), is_directed=False, is_exact=True)
