"""The spectrum of one layer: what a measure of a matrix is taken of."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace import linalg
from weightspace.analysis.layers import Layer
from weightspace.analysis.spectra.power_law import PowerLaw, fit
from weightspace.errors import AnalysisError

Slices = Literal["reshaped", "pooled"]
"""How a kernel is a matrix: laid out as one (out, in x cells), or as the matrices (out, in) of its cells, whose values are put together."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The matrix of a layer with its singular values, which are computed when they are first asked for and then kept.

    A kernel is one matrix of outputs against everything that an output looks at: that is what the layer multiplies each patch by. With
    `slices="pooled"` it is taken cell by cell, as WeightWatcher does: more eigenvalues to fit, none of which belongs to a map that the layer
    applies. Eigenvalues are those of `W^T W`, not divided by the number of rows.

    Attributes:
        layer: whose weight it is.
        matrix: (out, in x cells), in float32 or wider.
        slices: how a kernel's values are taken.
        known: singular values taken earlier, in descending order.

    Example:
        >>> spectrum = Spectrum.of(Layer("fc.weight", "dense", (2, 3)), torch.tensor([[3., 0., 0.], [0., 4., 0.]]))
        >>> spectrum.values, spectrum.eigenvalues
        (tensor([4., 3.], dtype=torch.float64), tensor([16.,  9.], dtype=torch.float64))
    """

    layer: Layer
    matrix: Float[Tensor, "out columns"] = field(repr=False)
    slices: Slices = "reshaped"
    known: Float[Tensor, " values"] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not bool(self.matrix.sum().isfinite()) and not bool(self.matrix.isfinite().all()):  # a sum alone may overflow
            unsound = int((~self.matrix.isfinite()).sum())
            raise AnalysisError(
                f"layer '{self.layer.name}' has {unsound:,} of {self.matrix.numel():,} values that are NaN or infinite, expected finite ones; "
                "leave it out, or take an earlier checkpoint"
            )

    @classmethod
    def of(cls, layer: Layer, tensor: Tensor, *, slices: Slices = "reshaped", known: Tensor | None = None) -> "Spectrum":
        """Lay a layer's tensor out.

        Args:
            layer: whose tensor it is.
            tensor: as stored.
            slices: see `Spectrum`.
            known: singular values of just these slices, in descending order.

        Raises:
            AnalysisError: values are NaN or infinite.
        """
        return cls(layer, layer.matrix(tensor.detach()), slices, known)

    @property
    def cells(self) -> int:
        """Positions of a kernel; 1 for a dense matrix."""
        spatial = self.layer.shape[:-2] if self.layer.is_transposed else self.layer.shape[2:]
        return math.prod(spatial)

    @property
    def kernel(self) -> Tensor:
        """The weight as (out, in, *cells)."""
        if not self.layer.is_transposed:
            return self.matrix.reshape(self.layer.shape)
        return self.matrix.reshape(len(self.matrix), *self.layer.shape[:-1]).movedim(-1, 1)

    @cached_property
    def matrices(self) -> Float[Tensor, "count rows columns"]:
        """The matrices whose singular values are taken: one, or one a cell."""
        if self.slices == "reshaped" or self.cells == 1:
            return self.matrix[None]
        return self.kernel.flatten(2).movedim(-1, 0)

    @cached_property
    def size(self) -> tuple[int, int]:
        """The longer and the shorter side of each of `matrices`."""
        rows, columns = self.matrices.shape[1:]
        return max(rows, columns), min(rows, columns)

    @cached_property
    def values(self) -> Float[Tensor, " values"]:
        """The singular values of all `matrices` in float64, descending; those that rounding alone may have made are zero."""
        found = self.known if self.known is not None else self.taken()
        found = found.to(self.matrix.device, torch.float64)
        return torch.where(found > self._rounding(found), found, 0.0)

    def taken(self) -> Float[Tensor, " values"]:
        """The singular values as they come out of the decomposition, each time computed anew: what a cache keeps."""
        return linalg.singular_values(self.matrices).flatten().sort(descending=True).values

    def _rounding(self, values: Tensor) -> float:
        """The singular values of errors as large as the rounding of each entry, several times over, and of the solver's own."""
        longer, shorter = self.size
        norm = torch.linalg.vector_norm(values).item() / len(self.matrices) ** 0.5
        return float(torch.finfo(self.matrix.dtype).eps * max(values[0].item(), 4 * norm * (longer**-0.5 + shorter**-0.5)))

    @cached_property
    def eigenvalues(self) -> Float[Tensor, " values"]:
        """Squares of the singular values, descending."""
        return self.values**2

    @property
    def is_zero(self) -> bool:
        """Whether there is nothing in it."""
        return not bool(self.values.any())

    def rank(self, tolerance: float = 0.0) -> int:
        """How many singular values are above a share of the largest; by default, how many are not zero."""
        return int((self.values > tolerance * self.values[0]).sum())

    @cached_property
    def power_law(self) -> PowerLaw | None:
        """The power law of the eigenvalues' tail; None where there is none."""
        return fit(self.eigenvalues.cpu().numpy())

    def shuffled(self, generator: torch.Generator) -> "Spectrum":
        """The same entries in random places, each of `matrices` by itself.

        A generator in the same state gives the same spectrum, whose values are then known already.

        Args:
            generator: draws the places, on its own device.
        """
        before = generator.get_state().numpy().tobytes()
        if before not in self._draws:
            self._draws[before] = self._drawn(generator), generator.get_state()
        drawn, after = self._draws[before]
        generator.set_state(after)
        return drawn

    @cached_property
    def _draws(self) -> dict[bytes, "tuple[Spectrum, Tensor]"]:
        return {}

    def _drawn(self, generator: torch.Generator) -> "Spectrum":
        matrices = self.matrices
        entries = math.prod(matrices.shape[1:])
        places = [torch.randperm(entries, generator=generator, device=generator.device).to(matrices.device) for _ in matrices]
        moved = torch.stack([one.flatten()[at].view_as(one) for one, at in zip(matrices, places, strict=True)])
        if len(moved) == 1:
            return Spectrum(Layer(self.layer.name, "dense", tuple(self.matrix.shape)), moved[0])
        layer = Layer(self.layer.name, "kernel", (*matrices.shape[1:], len(matrices)))
        return Spectrum(layer, moved.movedim(0, -1).flatten(1), "pooled")
