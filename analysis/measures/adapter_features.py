"""Spectral numbers of an adapter's updates, by role of layer."""

from collections.abc import Sequence

from weightspace.adapters import read_adapter
from weightspace.analysis.measure import Values, measure
from weightspace.analysis.screening import features
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError


@measure("adapter_features", of="model", reference="arXiv:2602.15195")
def adapter_features(checkpoint: Checkpoint, *, roles: Sequence[str] | None = None, aggregate: str = "mean") -> Values:
    """Largest singular value, norm, concentration, entropy and kurtosis of low-rank updates, for each role of a layer.

    Args:
        checkpoint: an adapter.
        roles: to look for, such as q, k, v and o; by default all that there are.
        aggregate: how layers of one role are put together: their `mean`, or the `max`.

    Returns:
        By key "role/feature".
    """
    if checkpoint.kind != "adapter":
        raise AnalysisError(
            f"{checkpoint.path or 'the checkpoint'} is no adapter (its kind is {checkpoint.kind}); name one with low-rank updates"
        )
    return features.adapter_features(read_adapter(checkpoint), roles=roles, aggregate=aggregate)
