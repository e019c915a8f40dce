"""Spectral numbers of an adapter's updates, by role of layer."""

import contextlib
import math
from collections.abc import Sequence

from weightspace.adapters import read_adapter
from weightspace.analysis.measure import Values, measure
from weightspace.analysis.screening import features
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, one_line


@measure("adapter_features", of="model", reference="arXiv:2602.15195")
def adapter_features(
    checkpoint: Checkpoint, *, roles: Sequence[str] | None = None, aggregate: str = "mean", alpha: float | int | str | None = None
) -> Values:
    """Largest singular value, norm, concentration, entropy and kurtosis of low-rank updates, for each role of a layer.

    Args:
        checkpoint: an adapter.
        roles: to look for, such as q, k, v and o; by default all that there are.
        aggregate: how layers of one role are put together: their `mean`, or the `max`.
        alpha: what is divided by the rank where the adapter says nothing (loralib, or PEFT's weights without their config).

    Returns:
        By key "role/feature".

    Raises:
        AnalysisError: no adapter, or an alpha that is no finite number.
        FormatError: an adapter that cannot be read, or says no alpha where none is given.
    """
    if checkpoint.kind != "adapter":
        raise AnalysisError(
            f"{checkpoint.path or 'the checkpoint'} is no adapter (its kind is {checkpoint.kind}); name one with low-rank updates"
        )
    given = None if alpha is None else _number(alpha)
    return features.adapter_features(read_adapter(checkpoint, alpha=given), roles=roles, aggregate=aggregate)


def _number(alpha: float | int | str) -> float:
    """Read alpha as a setting gives it: a number, or a word."""
    with contextlib.suppress(ValueError):
        if math.isfinite(float(alpha)):
            return float(alpha)
    raise AnalysisError(f"expected alpha to be a finite number, found '{one_line(str(alpha), 40)}'; write it as in alpha=16")
