"""Stitching penalties of two networks, with their controls."""

from dataclasses import replace

import torch

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.stitching.chain import chain_of
from weightspace.analysis.stitching.fitting import Bias
from weightspace.analysis.stitching.matrix import loaded_chain, stitching_maps
from weightspace.analysis.stitching.penalty import redrawn
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("stitching_penalty", of="task pair", reference="Bansal et al., arXiv:2106.07682, section 2", is_symmetric=False)
def stitching_penalty(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    kind: str = "linear",
    bias: Bias = "units",
    controls: bool = True,
    epochs: int = 0,
    generator: torch.Generator | None = None,
    other: Task | None = None,
) -> Values:
    """What b loses when its first parts are those of a, behind a stitch, at each pair of cuts.

    Every other example is held out and judged on; stitches are found on the rest by least squares, unless another kind is asked for, and trained there for some epochs.

    Args:
        task: module and data of both, or the module of a.
        a: the front network.
        b: the end network.
        kind: of stitch, one that is registered.
        bias: whether each unit has one, or one at each place (units, places).
        controls: whether the raw input and the cuts of a random front, of a's architecture, are stitched on too.
        epochs: of training each stitch on the task, through frozen networks; 0 is zero-shot.
        generator: source of chance of the random front; the default starts from seed 0.
        other: the task with the module of b, where that is another one.

    Returns:
        By key "cut of a|cut of b", and "mean" over cuts of one name; of controls "input > cut" and "random cut > cut"; the loss of b as "loss".
    """
    front, end = loaded_chain(task, a), loaded_chain(other or task, b)
    found = stitching_maps(front, end, task, maps=["penalty"], kind=kind, bias=bias, control=controls, epochs=epochs)
    values = found.values("penalty") | {"loss": found.end_loss}
    if not controls:
        return values
    random = chain_of(replace(task, module=redrawn(task.module, generator or torch.Generator().manual_seed(0)).eval()))
    table = stitching_maps(random, end, task, maps=["penalty"], kind=kind, bias=bias, control=False, epochs=epochs).maps["penalty"]
    rows = zip(table.rows, table.table, strict=True)
    return values | {f"random {one} > {two}": value for one, row in rows for two, value in zip(table.columns, row, strict=True)}
