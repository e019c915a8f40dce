"""Taking over from another model what matters most in it."""

import math

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Slab, Slabs, merge_method
from weightspace.analysis.merging.selection import kth_largest


def _importance(slab: Slab) -> Tensor:
    """How far each value is from the base's, times how far its row is."""
    assert slab.base is not None, "required"
    new, old = (torch.softmax(values, -1, dtype=torch.float64).add_(1e-8) for values in (slab.tensors[0], slab.base))
    divergence = new.mul(torch.div(new, old).log_()).sum(-1, keepdim=True)
    return (slab.tensors[0] - slab.base).mul_(divergence.clamp_(min=0)).abs_()  # last, for a NaN may have a sign


def _threshold(slabs: Slabs, **_: object) -> float:
    """`median + 1.5 (upper quartile - lower quartile)` of the importances of all values."""
    count = math.prod(slabs.shape)
    if not count:
        return 0.0
    ranks = [count - int(share * (count - 1)) for share in (0.25, 0.5, 0.75)]
    ((lower, median, upper),) = kth_largest(lambda: ((_importance(slab),) for slab in slabs), lambda *_: ranks)
    return median + 1.5 * (upper - lower)


@merge_method(
    "arcee_fusion",
    paper="Arcee Fusion (https://arcee.ai)",
    promises=("identity", "permutation"),
    inputs=(1, 1),
    summary=_threshold,
)
def arcee_fusion(slab: Slab, *, summary: float) -> Tensor:
    """Return `x_1` where `|x_1 - x_0| KL(softmax x_1 || softmax x_0) >= q_50 + 1.5 (q_75 - q_25)`, and `x_0` elsewhere.

    The softmax runs over each row (the last axis), with 1e-8 added to probabilities; quantiles are of the left side over the whole tensor.
    Named and defined as in mergekit (there is no paper). Departures: quantiles are exact, by selection, where mergekit sorts a million values
    drawn with replacement, so that its results vary; divergences are in float64, as in float32 rounding moves them by 2 per cent between rows
    of size 0.02 that differ by 0.002, by 40 per cent where they differ by 0.0005 (1024 columns).

    Args:
        slab: base and one input.
        summary: the threshold.
    """
    assert slab.base is not None, "required"
    importance = _importance(slab)
    taken = torch.ge(importance, summary, out=importance)
    return slab.base.lerp(slab.tensors[0], taken)  # exact at 0 and at 1, and many times as fast as torch.where
