"""Drift: how far training moved one model from the other, against networks that were trained apart."""

import math

from weightspace.analysis.lineage.comparison import Comparison
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.evidence import Finding, evidence
from weightspace.analysis.lineage.probability import forward_probability, related_probability

UNTOUCHED = 0.3  # what a distance counts where a part did nothing but decay


@evidence("drift")
def drift(pair: Comparison) -> Finding | None:
    """Distance against the norms, growth of the norms against the distance, and decay of what was not touched."""
    if not pair.changed:
        return None
    probability, forward = related_probability(pair), forward_probability(pair)
    cosine = 1 - pair.relative
    text = f"distance {math.sqrt(pair.relative):.3f} of that of strangers, growth {pair.growth:+.2f}"
    if pair.equal_share:
        text += f", {pair.equal_share:.0%} of the weights shared"
    numbers = {"relative": pair.relative, "cosine": cosine, "growth": pair.growth, "shared": pair.equal_share}
    still = max((one.still[1] for one in pair.matrices), default=0.0)
    if still:
        text += f", {still:.0%} of a matrix untouched but for decay by {pair.decay:+.4f}"
        numbers |= {"untouched": still, "decay": pair.decay}
    return Finding("finetune", probability, forward, Reason("drift", text, numbers), length=UNTOUCHED if still else 1.0)
