"""The fingerprint of a model."""

from weightspace.analysis import fingerprints
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint


@measure("fingerprint", of="model", reference="products as in HuRef, arXiv:2312.04828, section 4.2, carried through every group of a spec")
def fingerprint(checkpoint: Checkpoint, *, channels: int = 8) -> Values:
    """Numbers of the weights that no reordering, scale or sign of hidden units changes; networks of one architecture compare by cosine.

    Args:
        checkpoint: a plain chain, or of a family whose symmetry is known by its names.
        channels: numbers for each tensor.

    Returns:
        The numbers by their place: "0", "1" and so on.
    """
    numbers = fingerprints.fingerprint(checkpoint, channels=channels).tolist()
    return {str(place): number for place, number in enumerate(numbers)}
