"""The similarity of the fingerprints of two models."""

from weightspace.analysis import fingerprints
from weightspace.analysis.measure import measure
from weightspace.checkpoint import Checkpoint


@measure("fingerprint_similarity", of="pair", reference="ICS of HuRef, arXiv:2312.04828, section 4.2, of fingerprints of any spec")
def fingerprint_similarity(a: Checkpoint, b: Checkpoint, *, channels: int = 32) -> float:
    """Cosine of two fingerprints: 1 where one is the other with its units reordered, scaled or flipped, high after fine-tuning.

    Args:
        a: one model.
        b: another of the same architecture.
        channels: numbers for each tensor.
    """
    return fingerprints.similarity(*(fingerprints.fingerprint(one, channels=channels) for one in (a, b)))
