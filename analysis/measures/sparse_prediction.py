"""Sparse prediction: how many units of one network tell a unit of another."""

from collections.abc import Sequence

from weightspace.analysis.functional import prediction
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("sparse_prediction", of="task pair", reference="Li, Yosinski et al., arXiv:1511.07543, section 4", is_symmetric=False)
def sparse_prediction(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    layers: Sequence[str] | None = None,
    positions: str = "samples",
    penalties: Sequence[float] = prediction.PENALTIES,
) -> Values:
    """Error and non-zero weights of linear maps with an L1 penalty from the units of a to those of b.

    Args:
        task: module and data of both.
        a: the network that predicts.
        b: the one that is predicted.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `samples`, `pooled` or `units`.
        penalties: for units of variance 1.

    Returns:
        For each layer and penalty "layer/nonzeros@penalty", "layer/error@penalty" and "layer/error_held_out@penalty".
    """
    found = prediction.sparse_prediction(task, a, b, layers=layers, positions=positions, penalties=penalties)
    return {f"{name}/{key}": value for name, one in found.items() for key, value in one.values().items()}
