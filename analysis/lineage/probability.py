"""The probabilities: what the numbers of a comparison are worth, set by hand and then measured on families whose history is known.

A probability says that two models are of one family: the one made from the other, or both from a common trained ancestor. How often that
held on the development zoos of seeds 4, 5 and 6 (`tests.benchmarks.lineage_calibration`; 1,400 models) stands beside each. Distances are
doubted more than those zoos call for: there all pairs stated at .3 to .5 are of one family but 3 of 182, while two real networks that were trained
apart from one seed (the outlier-exposure baseline and its run from scratch) lie as near, at 0.18 of strangers' squared distance.

Which of several relatives an edge comes from is the tree's choice and not in the probability. Its edges were of the history in 74 % of 541 that rest
on distances, 97 % of 113 of low rank, 97 % of 103 roundings, 99 % of 301 merges, 98 % of 126 prunings.
"""

import math

from weightspace.analysis.lineage.comparison import Comparison

CERTAIN = 0.999  # of what holds element by element: 867 of 867 pairs
LOW_RANK = 0.97  # 238 of 238 pairs are of one family; 109 of the 113 such edges are of the history
DECLARED = 0.98  # of what a card or a recipe says
STRANGERS = 0.1  # what weights may say at most, for it to be of strangers
REFUTED = 0.3  # of the same where the weights are those of strangers


def logistic(x: float) -> float:
    """From log odds to a probability, in a range that leaves a doubt."""
    return min(max(1 / (1 + math.exp(-max(min(x, 30.0), -30.0))), 1e-4), 1 - 1e-4)


def related_probability(pair: Comparison) -> float:
    """That training led from the one model to the other, or from a common trained ancestor to both: not merely from a common start."""
    return logistic(-1.5 * math.log(max(pair.relative, 1e-9) / 0.12) + 4.0 * min(abs(pair.growth), 1.2) * pair.retained)


def forward_probability(pair: Comparison) -> float:
    """That the first was first, if one was made from the other by training."""
    told = pair.decay if abs(pair.decay) > 1e-4 else 0.0
    return logistic(1.0 * max(-3.0, min(3.0, pair.growth)) * (pair.relative > 0.02) - 3.0 * (told > 0) + 3.0 * (told < 0))


def matched_probability(left: float, profile: float) -> float:
    """That two models that were matched onto each other are relatives; of strangers, too, matching shortens the distance.

    Args:
        left: relative distance after the match.
        profile: distance of what no order of units changes.
    """
    return logistic(-4.0 * math.log(max(left, 1e-9) / 0.2) - 20.0 * profile)


def shared_probability(share: float) -> float:
    """That two models are relatives of which so large a share of the weights lies in equal tensors."""
    return logistic(6.0 * (share - 0.2))
