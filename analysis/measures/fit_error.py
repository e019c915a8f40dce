"""Held-out errors of stitches between two networks."""

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.stitching.fitting import Bias
from weightspace.analysis.stitching.matrix import loaded_chain, stitching_maps
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("fit_error", of="task pair", reference="Csiszarik et al., arXiv:2110.14633, section 3; held out", is_symmetric=False)
def fit_error(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    kind: str = "linear",
    bias: Bias = "units",
    control: bool = True,
    other: Task | None = None,
) -> Values:
    """The squared error of a stitch from each cut of a to each of b, as a share of the variance there.

    Every other example is held out: stitches are found on the rest.

    Args:
        task: module and data of both, or the module of a.
        a: the front network.
        b: the end network.
        kind: of stitch: linear, orthogonal, permutation or another that is registered.
        bias: whether each unit has one, or one at each place (units, places).
        control: whether the raw input is stitched on too.
        other: the task with the module of b, where that is another one.

    Returns:
        By key "cut of a|cut of b", "input > cut of b", and "mean" over cuts of one name; from 0, above 1 worse than the mean.
    """
    chains = loaded_chain(task, a), loaded_chain(other or task, b)
    return stitching_maps(*chains, task, maps=["fit_error"], kind=kind, bias=bias, control=control).values("fit_error")
