"""Task vectors that few entries of which differ from nought: averaged where they overlap, kept where they do not."""

from typing import Annotated

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Between, Slab, merge_method
from weightspace.analysis.merging.task_vectors import deltas, onto_base


def active(slab: Slab, epsilon: float) -> tuple[list[Tensor], Tensor]:
    """The task vectors, nought where an entry is not above `epsilon` in size, and how many inputs have each entry above it."""
    found = [torch.nn.functional.hardshrink(delta, epsilon) for delta in deltas(slab)]
    count = torch.zeros_like(slab.tensors[0])
    changed = torch.empty_like(count)
    for delta in found:
        count.add_(torch.ne(delta, 0, out=changed))
    return found, count


@merge_method(
    "ram",
    paper="Yuan et al., Behavior knowledge merge in reinforced agentic models (arXiv:2601.13572)",
    promises=("identity", "order", "permutation"),
)
def ram(slab: Slab, *, epsilon: Annotated[float, Between(0)] = 1e-5) -> Tensor:
    """Return `x_0` plus the mean of `d_i = x_i - x_0` over those inputs in which `|d_i| > epsilon`, entry by entry.

    So an entry that one input alone has changed is taken as it is. Behavior knowledge merge in reinforced agentic models (Yuan et al.,
    arXiv:2601.13572): reinforced agentic models differ from their base in few entries, and a mean over all of them would dilute these.

    Args:
        slab: inputs and base.
        epsilon: the size up to which an entry counts as unchanged.
    """
    (total, *others), count = active(slab, epsilon)
    for delta in others:
        total.add_(delta)
    return onto_base(slab, total.div_(count.clamp_(min=1)))
