"""Intruder dimensions of a tuned model against its base, as a measure of two models."""

from weightspace.analysis.intruders import intruder_dimensions
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint


@measure("intruders", of="pair", reference="arXiv:2410.21228, algorithm 1", is_symmetric=False)
def intruders(base: Checkpoint, tuned: Checkpoint, *, k: int = 10, epsilon: float = 0.5, side: str = "left") -> Values:
    """Singular vectors of the tuned model, among the first k of each layer, that are like none of the base's.

    Args:
        base: a model.
        tuned: the same after training, or an adapter of the base.
        k: how many vectors of each layer are looked at.
        epsilon: the similarity under which one is an intruder.
        side: whose vectors count, `left` or `right`.

    Returns:
        `count` (the paper's), `guarded` (those that no degenerate band of the base explains), `left`, `right`, and how many `layers`.
    """
    return intruder_dimensions(base, tuned, k, epsilon, side).values
