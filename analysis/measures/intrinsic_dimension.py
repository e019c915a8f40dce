"""Intrinsic dimension by training in random subspaces."""

import torch

from weightspace.analysis.functional import intrinsic
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("intrinsic_dimension", of="task", reference="Li et al., arXiv:1804.08838, section 2")
def intrinsic_dimension(
    task: Task,
    checkpoint: Checkpoint,
    *,
    metric: str = "accuracy",
    share: float = 0.9,
    start: str = "drawn",
    projection: str = "sparse",
    smallest: int = 2,
    largest: int | None = None,
    epochs: int = 20,
    learning_rate: float = 0.05,
    generator: torch.Generator | None = None,
) -> Values:
    """Least dimension of a random subspace in which training on the task's own batches reaches a share of the network's metric.

    Args:
        task: trained on and judged by.
        checkpoint: sets the baseline.
        metric: of the task, larger being better.
        share: of the baseline that is asked for; .9 gives d_int90.
        start: weights `drawn` anew, or those `given`.
        projection: `sparse`, of memory and time dimension * sqrt(parameters), or `dense`.
        smallest: dimension to begin with.
        largest: dimension to end with; by default the number of parameters.
        epochs: passes over the batches.
        learning_rate: of Adam.
        generator: source of chance; the default starts from seed 0.

    Returns:
        "dimension" (None where none is enough), "parameters", "baseline", and the metric by dimension.
    """
    return intrinsic.intrinsic_dimension(
        task,
        checkpoint,
        metric=metric,
        share=share,
        start=start,
        projection=projection,
        smallest=smallest,
        largest=largest,
        epochs=epochs,
        learning_rate=learning_rate,
        generator=generator,
    ).values()
