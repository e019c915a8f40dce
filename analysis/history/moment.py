"""One tensor at one checkpoint of a run: how far it moved since the one before, and what its values look like."""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from weightspace.analysis.layers import Layer
from weightspace.analysis.measures.effective_rank import effective_rank
from weightspace.analysis.measures.stable_rank import stable_rank
from weightspace.analysis.spectra.spectrum import Spectrum
from weightspace.checkpoint import Checkpoint
from weightspace.dtypes import widened

Part = Literal["matrix", "vector", "gain", "variance"]
"""What a tensor is to a layer: a matrix or kernel, a bias or the like, what a norm multiplies by, or a running variance."""

_VARIANCES = ("running_var", "moving_variance", "moving_var")
_GAINS = ("weight", "gamma", "scale")


@dataclass(frozen=True)
class Moment:
    """One tensor at one checkpoint.

    Attributes:
        step: of the checkpoint.
        layer: name of the tensor.
        part: what it is.
        change: norm of the difference to the checkpoint before, as a share of the norm there; None for the first, and where either has
            NaN or infinities or the one before is zero.
        norm: Euclidean; None where there is NaN or infinity.
        largest: largest element.
        smallest: smallest element.
        not_finite: elements that are NaN or infinite.
        stable_rank, effective_rank: of a matrix; see the measures of these names.
        dead: rows of a matrix, or entries of a gain, that are zero.
        silent: units whose incoming weights and bias are all at most zero and not all zero: on inputs that are not negative, as those
            behind a ReLU, they never fire.
        units: rows of a matrix, or entries.
    """

    step: int
    layer: str
    part: Part
    change: float | None
    norm: float | None
    largest: float | None
    smallest: float | None
    not_finite: int
    stable_rank: float | None
    effective_rank: float | None
    dead: int
    silent: int
    units: int


def is_comparable(checkpoint: Checkpoint, before: Checkpoint, name: str) -> bool:
    """Whether the checkpoint before has the tensor, too, in the same shape."""
    return name in before.info and before.info[name].shape == checkpoint.info[name].shape


def moment(step: int, name: str, layer: Layer | None, checkpoint: Checkpoint, before: Checkpoint | None) -> Moment:
    """Look at one tensor; `layer` where it is a matrix or kernel."""
    tensor = widened(checkpoint[name])
    not_finite = int((~tensor.isfinite()).sum())
    known = tensor if not not_finite else tensor[tensor.isfinite()]
    norm = None if not_finite else _norm(tensor)
    change = None
    if before is not None and is_comparable(checkpoint, before, name):
        earlier = widened(before[name])
        length = _norm(earlier)
        if norm is not None and length > 0 and math.isfinite(length):
            change = _norm(tensor - earlier) / length
    matrix = layer.matrix(tensor) if layer is not None else None
    stable, effective = _ranks(layer, tensor) if layer is not None and norm else (None, None)
    part = _part(name, matrix is not None, checkpoint)
    rows = tensor.unsqueeze(1) if part == "gain" else matrix
    return Moment(
        step=step,
        layer=name,
        part=part,
        change=change,
        norm=norm,
        largest=known.max().item() if known.numel() else None,
        smallest=known.min().item() if known.numel() else None,
        not_finite=not_finite,
        stable_rank=stable,
        effective_rank=effective,
        dead=0 if rows is None else int((rows == 0).all(1).sum()),
        silent=0 if matrix is None else _silent(name, matrix, checkpoint),
        units=tensor.shape[0] if matrix is None and tensor.ndim else (1 if matrix is None else matrix.shape[0]),
    )


def _part(name: str, is_matrix: bool, checkpoint: Checkpoint) -> Part:
    last = name.rpartition(".")[2]
    if is_matrix:
        return "matrix"
    if last in _VARIANCES:
        return "variance"
    return "gain" if last in _GAINS and len(checkpoint.info[name].shape) == 1 else "vector"


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64).item())


def _ranks(layer: Layer, tensor: Tensor) -> tuple[float, float]:
    spectrum = Spectrum.of(layer, tensor)
    return cast(float, stable_rank.function(spectrum)), cast(float, effective_rank.function(spectrum))


def _silent(name: str, matrix: Tensor, checkpoint: Checkpoint) -> int:
    """Units that cannot fire on inputs that are not negative; only a layer with a bias of its own tells."""
    bias = name.removesuffix("weight") + "bias"
    if bias == name or bias not in checkpoint.info or checkpoint.info[bias].shape != matrix.shape[:1]:
        return 0
    is_low = (matrix <= 0).all(1) & (widened(checkpoint[bias]) <= 0)
    return int((is_low & (matrix < 0).any(1)).sum())
