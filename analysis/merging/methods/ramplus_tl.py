"""As `ram`, with the entries that one model alone has changed made larger."""

from typing import Annotated

import torch
from torch import Tensor

from weightspace.analysis.merging.averages import weighted_sum
from weightspace.analysis.merging.method import Between, Slab, Slabs, merge_method
from weightspace.analysis.merging.methods.ram import active
from weightspace.analysis.merging.task_vectors import onto_base

PAPER = "Yuan et al., Behavior knowledge merge in reinforced agentic models (arXiv:2601.13572)"


def _tally(slab: Slab, epsilon: float) -> Tensor:
    """How many entries each input has changed, and how many it alone: `[n, 2]`."""
    deltas, count = active(slab, epsilon)
    alone = torch.eq(count, 1, out=count)
    return torch.stack([torch.stack([delta.count_nonzero(), (delta * alone).count_nonzero()]) for delta in deltas])


def _scales(slabs: Slabs, *, r: float, alpha: float, epsilon: float) -> list[float]:
    """What the entries that an input alone has changed are multiplied by, for each input."""
    tallies = torch.stack([_tally(slab, epsilon) for slab in slabs]).sum(0).tolist()
    return [1 + r * min((changed - alone) / max(alone, 1), alpha) for changed, alone in tallies]


@merge_method("ramplus", paper=PAPER, promises=("identity", "order", "permutation"), summary=_scales)
@merge_method("ramplus_tl", paper=PAPER, promises=("identity", "order", "permutation"), summary=_scales)
def ramplus_tl(
    slab: Slab,
    *,
    r: float = 0.1,
    alpha: Annotated[float, Between(0)] = 0.2,
    epsilon: Annotated[float, Between(0)] = 1e-5,
    summary: list[float],
) -> Tensor:
    """As `ram`, but entries that input i alone has changed are multiplied by `1 + r min(rho_i, alpha)`.

    `rho_i` is how many of the input's changed entries others have changed too, over how many it alone has. RAM+ of Behavior knowledge merge
    in reinforced agentic models (Yuan et al., arXiv:2601.13572), with the ratio taken tensor by tensor as in mergekit's `ramplus_tl`.

    Args:
        slab: inputs and base.
        r: how much larger.
        alpha: the largest ratio that counts.
        epsilon: the size up to which an entry counts as unchanged.
        summary: what each input's own entries are multiplied by.
    """
    deltas, count = active(slab, epsilon)
    together = weighted_sum(deltas, [1.0] * len(deltas)).div_(count.clamp(min=1))
    alone = torch.eq(count, 1, out=count)
    return onto_base(slab, together.lerp_(weighted_sum(deltas, summary), alone))
