"""Quantisation: a tensor as whole numbers of a few bits, on levels that are even in its values, their logarithms or their tanh."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.errors import AnalysisError, UnknownNameError

QUANTISERS = ("linear", "log", "tanh")
LEAST, MOST = 2, 16  # bits: one bit has no level between the ends, and float16 takes no more than sixteen
_STEEPEST = 4.0  # of the arguments of tanh: further out its levels cannot be told apart


@dataclass(frozen=True)
class Grid:
    """Where the levels of one tensor lie.

    Cai, Zhang and Wang (arXiv:2302.12480) quantise by `round((v - low) / (high - low) * (L - 1))` over the values (`linear`), over
    `log2 |v|` with half of the levels for either sign (`log`), or over the tanh of the values; their setting is the number of levels,
    ours that of bits. We differ in two points. Zero has no logarithm, and lies between two levels of the others: a tensor that
    has exact zeros gives up one code for them, and they come back as zeros. And tanh is taken of the values over twice their root
    mean square, since of weights, which are much smaller than 1, it is the identity; so spaced, levels lie about as dense as is best
    for normal values (Panter and Dite, 1951).

    Attributes:
        quantiser: what levels are even in.
        bits: of a code.
        low, high: the first and the last level, in what they are even in.
        scale: what values are divided by before their tanh is taken.
        has_zero: whether there is a code for zero.
    """

    quantiser: str
    bits: int
    low: float
    high: float
    scale: float = 1.0
    has_zero: bool = False

    @classmethod
    def of(cls, tensor: Tensor, quantiser: str, bits: int) -> "Grid":
        """Lay the levels of a tensor from its least to its largest value.

        Raises:
            UnknownNameError: no such quantiser.
            AnalysisError: bits out of range, or a tensor that is not finite.
        """
        if quantiser not in QUANTISERS:
            raise UnknownNameError.of("quantiser", quantiser, QUANTISERS)
        if not LEAST <= bits <= MOST:
            raise AnalysisError(f"expected {LEAST} to {MOST} bits, found {bits}; choose a number between them")
        values = tensor.double()
        if not bool(torch.isfinite(values).all()):
            raise AnalysisError("expected finite values to quantise, found NaN or infinities; leave this tensor out")
        others = values[values != 0]
        if not others.numel():
            return cls(quantiser, bits, 0.0, 0.0, has_zero=bool(values.numel()))
        peak = float(others.abs().max())
        root = peak * float((others / peak).square().mean().sqrt())
        scale = max(2 * root, peak / _STEEPEST) if quantiser == "tanh" else 1.0
        low, high = (float(end) for end in torch.aminmax(_domain(others, quantiser, scale)))
        if not math.isfinite(high - low):
            raise AnalysisError(f"expected values whose range is finite, found {low:.3g} to {high:.3g}; leave this tensor out")
        return cls(quantiser, bits, low, high, scale, others.numel() < values.numel())

    @property
    def levels(self) -> int:
        """Levels between `low` and `high`; the logarithmic ones stand for each sign."""
        return ((1 << self.bits) - self.has_zero) // (2 if self.quantiser == "log" else 1)

    @property
    def step(self) -> float:
        """Distance of neighbouring levels in what they are even in: no value moves by more than half of it there."""
        return (self.high - self.low) / max(self.levels - 1, 1)

    def encode(self, tensor: Tensor) -> Tensor:
        """The codes of values, in int64: levels from the first, then those of negative values, then zero."""
        values = tensor.double().flatten()
        width = self.high - self.low
        if not width:
            codes = torch.zeros_like(values, dtype=torch.int64)
        else:
            shares = (_domain(values, self.quantiser, self.scale) - self.low) / width
            codes = (shares.nan_to_num(0.0) * (self.levels - 1)).round().clamp(0, self.levels - 1).long()
        if self.quantiser == "log":
            codes = torch.where(values < 0, codes + self.levels, codes)
        return torch.where(values == 0, self._zero, codes) if self.has_zero else codes

    def decode(self, codes: Tensor) -> Tensor:
        """The values of codes, in float64."""
        at = codes % self.levels
        width, last = self.high - self.low, self.levels - 1
        shares = at.double() / last if last else torch.full_like(at, 0.5, dtype=torch.float64)
        values = self.low + shares * width
        if self.quantiser == "log":
            values = torch.exp2(values) * torch.where(codes >= self.levels, -1.0, 1.0).double()
        elif self.quantiser == "tanh":
            values = torch.atanh(values) * self.scale
        return torch.where(codes == self._zero, 0.0, values) if self.has_zero else values

    @property
    def _zero(self) -> int:
        return self.levels * (2 if self.quantiser == "log" else 1)


def _domain(values: Tensor, quantiser: str, scale: float) -> Tensor:
    """What levels are even in."""
    return values.abs().log2() if quantiser == "log" else torch.tanh(values / scale) if quantiser == "tanh" else values
