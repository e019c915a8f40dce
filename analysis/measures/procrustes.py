"""Procrustes distances of the layers of two networks."""

from collections.abc import Sequence

from weightspace.analysis.functional.comparison import compare
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("procrustes", of="task pair", reference="Williams et al., arXiv:2110.14739")
def procrustes(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    angular: bool = False,
    layers: Sequence[str] | None = None,
    positions: str = "pooled",
    other: Task | None = None,
) -> Values:
    """Distance of each layer of one network from each of another after the best rotation of its units.

    Args:
        task: module and data of both, or the module of a.
        a: one network.
        b: another.
        angular: as an angle, 0 to pi / 2, instead of 0 to sqrt 2.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `pooled`, `units` or `samples`.
        other: the task with the module of b, where that is another one.

    Returns:
        By key "layer of a|layer of b", and "mean" over layers with themselves.
    """
    return compare(task, a, b, "procrustes_angular" if angular else "procrustes", layers=layers, positions=positions, other=other).values()
