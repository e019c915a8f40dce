"""The probabilities: what the numbers of a comparison are worth, set by hand on families whose history is known.

They were chosen on generated zoos (seeds 1 and 3 of `tests.benchmarks.lineage_zoo`; seed 2 is kept for judging) and on three real networks, and
put models in order well. As probabilities they are rough: nobody has calibrated them.
"""

import math

from weightspace.analysis.lineage.comparison import Comparison

CERTAIN = 0.999  # of what holds element by element
LOW_RANK = 0.97
DECLARED = 0.98  # of what a card or a recipe says
STRANGERS = 0.1  # what weights may say at most, for it to be of strangers
REFUTED = 0.3  # of the same where the weights are those of strangers


def logistic(x: float) -> float:
    """From log odds to a probability, in a range that leaves a doubt."""
    return min(max(1 / (1 + math.exp(-max(min(x, 30.0), -30.0))), 1e-4), 1 - 1e-4)


def related_probability(pair: Comparison) -> float:
    """That training led from the one model to the other, or from a common trained ancestor to both: not merely from a common start."""
    return logistic(-1.5 * math.log(max(pair.relative, 1e-9) / 0.12) + 4.0 * (min(abs(pair.growth), 1.2) - 0.15))


def forward_probability(pair: Comparison) -> float:
    """That the first was first, if one was made from the other by training."""
    told = pair.decay if abs(pair.decay) > 1e-4 else 0.0
    return logistic(1.0 * max(-3.0, min(3.0, pair.growth)) * (pair.relative > 0.02) - 3.0 * (told > 0) + 3.0 * (told < 0))


def matched_probability(left: float) -> float:
    """That two models that were matched onto each other are relatives; of strangers, too, matching shortens the distance."""
    return logistic(-4.0 * math.log(max(left, 1e-9) / 0.2))


def shared_probability(share: float) -> float:
    """That two models are relatives of which so large a share of the weights lies in equal tensors."""
    return logistic(6.0 * (share - 0.2))
