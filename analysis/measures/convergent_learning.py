"""Convergent learning: how far two networks have the same units."""

from collections.abc import Sequence

import torch

from weightspace.analysis.functional.convergence import convergence
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("convergent_learning", of="task pair", reference="Li, Yosinski et al., arXiv:1511.07543, section 3", is_symmetric=False)
def convergent_learning(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    layers: Sequence[str] | None = None,
    positions: str = "samples",
    absolute: bool = False,
    draws: int = 1,
    generator: torch.Generator | None = None,
) -> Values:
    """Correlations of units paired one to one and each with its best, the gap between the two, and what chance gives.

    Args:
        task: module and data of both.
        a: one network.
        b: another.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `samples`, `pooled` or `units`.
        absolute: whether the sign of a correlation is left out.
        draws: of the null, in which b sees the examples of each batch in another order.
        generator: source of chance of the null; the default starts from seed 0.

    Returns:
        For each layer "layer/one_to_one", "layer/semi_matching", "layer/gap", "layer/dead" and "layer/null", the mean of one to one by chance.
    """
    generator = generator or torch.Generator().manual_seed(0)
    found = convergence(task, a, b, layers=layers, positions=positions, absolute=absolute)
    nulls = [convergence(task, a, b, layers=layers, positions=positions, absolute=absolute, generator=generator) for _ in range(draws)]
    values = {f"{name}/{key}": value for name, one in found.items() for key, value in one.values().items()}
    for name in found if nulls else ():
        values[f"{name}/null"] = sum(null[name].values()["one_to_one"] for null in nulls) / draws
    return values
