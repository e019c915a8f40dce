"""Geometric and functional similarity of two networks at all pairs of cuts, in one record."""

from collections.abc import Sequence

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.stitching import matrix
from weightspace.analysis.stitching.fitting import Bias
from weightspace.analysis.stitching.matrix import MAPS, loaded_chain
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure(
    "stitching_maps", of="task pair", reference="Bansal et al., arXiv:2106.07682; Csiszarik et al., arXiv:2110.14633", is_symmetric=False
)
def stitching_maps(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    maps: Sequence[str] = MAPS,
    kind: str = "linear",
    bias: Bias = "units",
    control: bool = True,
    epochs: int = 0,
    other: Task | None = None,
) -> Values:
    """CKA, linear regression, held-out fit error, stitching penalty and agreement between all cuts of two networks.

    Every other example is held out: stitches are found on the rest, and all tables are of these. A sample is a place of the end's cut.

    Args:
        task: module and data of both, or the module of a.
        a: the front network.
        b: the end network.
        maps: which tables: fit_error, penalty, agreement, and any kind of comparison (cka_debiased, lr, svcca, procrustes, ...).
        kind: of stitch, one that is registered.
        bias: whether each unit has one, or one at each place (units, places).
        control: whether the raw input is stitched on too.
        epochs: of training each stitch on the task, through frozen networks; 0 is zero-shot.
        other: the task with the module of b, where that is another one.

    Returns:
        By key "table|cut of a|cut of b", "table: input > cut of b" and "table: mean" over cuts of one name; "examples" and, of b alone, "loss".
    """
    chains = loaded_chain(task, a), loaded_chain(other or task, b)
    found = matrix.stitching_maps(*chains, task, maps=list(maps), kind=kind, bias=bias, control=control, epochs=epochs)
    return found.values() | {"examples": found.examples, "loss": found.end_loss}
