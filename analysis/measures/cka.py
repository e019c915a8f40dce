"""Centred kernel alignment of the layers of two networks."""

from collections.abc import Sequence

from weightspace.analysis.functional.comparison import compare
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure(
    "cka", of="task pair", reference="Kornblith et al., arXiv:1905.00414, equation 4; debiased: Nguyen et al., arXiv:2010.15327, equation 3"
)
def cka(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    debiased: bool = True,
    layers: Sequence[str] | None = None,
    positions: str = "pooled",
    other: Task | None = None,
) -> Values:
    """Linear CKA of each layer of one network with each of another.

    Args:
        task: module and data of both, or the module of a.
        a: one network.
        b: another.
        debiased: by the unbiased HSIC; otherwise few samples of many units look alike whatever they are.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `pooled`, `units` or `samples`.
        other: the task with the module of b, where that is another one.

    Returns:
        By key "layer of a|layer of b", and "mean" over layers with themselves.
    """
    return compare(task, a, b, "cka_debiased" if debiased else "cka", layers=layers, positions=positions, other=other).values()
