"""Linear regression between the layers of two networks."""

from collections.abc import Sequence

from weightspace.analysis.functional.comparison import compare
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure(
    "lr_score",
    of="task pair",
    reference="Kornblith et al., arXiv:1905.00414, table 1; Csiszarik et al., arXiv:2110.14633",
    is_symmetric=False,
)
def lr_score(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    layers: Sequence[str] | None = None,
    positions: str = "pooled",
    other: Task | None = None,
) -> Values:
    """The share of the variance of each layer of b that is linear in one of a; NaN for too few samples.

    Args:
        task: module and data of both, or the module of a.
        a: the network that explains.
        b: the one that is explained.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `pooled`, `units` or `samples`.
        other: the task with the module of b, where that is another one.

    Returns:
        By key "layer of a|layer of b", and "mean" over layers of one name.
    """
    return compare(task, a, b, "lr", layers=layers, positions=positions, other=other).values()
