"""Canonical correlations of the layers of two networks."""

from collections.abc import Sequence

from weightspace.analysis.functional.comparison import compare
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.errors import UnknownNameError
from weightspace.task import Task

_KINDS = {"mean": "cca", "squared": "cca_squared", "svcca": "svcca", "pwcca": "pwcca"}


@measure(
    "cca",
    of="task pair",
    reference="svcca: Raghu et al., arXiv:1706.05806; pwcca: Morcos et al., arXiv:1806.05759",
    is_symmetric=False,  # pwcca is not
)
def cca(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    variant: str = "svcca",
    layers: Sequence[str] | None = None,
    positions: str = "pooled",
    other: Task | None = None,
) -> Values:
    """Mean canonical correlation of each layer of one network with each of another; NaN for too few samples.

    Args:
        task: module and data of both, or the module of a.
        a: one network.
        b: another.
        variant: `mean` or `squared` over all directions, `svcca` over those of 99 % of the variance, `pwcca` weighted by how much of a each explains.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `pooled`, `units` or `samples`.
        other: the task with the module of b, where that is another one.

    Returns:
        By key "layer of a|layer of b", and "mean" over layers with themselves.
    """
    if variant not in _KINDS:
        raise UnknownNameError.of("variant of CCA", variant, _KINDS)
    return compare(task, a, b, _KINDS[variant], layers=layers, positions=positions, other=other).values()
