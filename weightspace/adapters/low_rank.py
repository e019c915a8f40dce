"""A low-rank update of one tensor: a value that multiplies vectors without ever being written out as a matrix."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update `scale * b @ a` of one tensor, in the orientation of that tensor.

    Hu et al., LoRA (arXiv:2106.09685), equation 3. A kernel's axes after the first are laid into columns. Tensors that a library
    keeps transposed (embeddings, the Conv1D of GPT-2) have their factors exchanged when they are read, so that no reader of
    this value needs to know.

    Attributes:
        target: name of the tensor that is updated.
        a: (rank, columns).
        b: (rows, rank).
        scale: what the product is multiplied by.
        shape: of the tensor that is updated.
        magnitude: (rows, 1) or (1, columns): the norms that rows or columns have after the update; Liu et al., DoRA
            (arXiv:2402.09353), equation 5. None for a plain update.

    Example:
        >>> update = LowRank("w", torch.tensor([[1., 2.]]), torch.tensor([[3.], [4.]]), 0.5, (2, 2))
        >>> update.matrix()
        tensor([[1.5000, 3.0000],
                [2.0000, 4.0000]])
        >>> update @ torch.tensor([1., 1.])
        tensor([4.5000, 6.0000])
    """

    target: str
    a: Tensor
    b: Tensor
    scale: float
    shape: tuple[int, ...]
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Columns of `b`: an upper bound of the rank."""
        return self.b.shape[1]

    @property
    def rows(self) -> int:
        """Length of the first axis of the target."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Product of the other axes of the target."""
        return math.prod(self.shape[1:])

    @cached_property
    def T(self) -> "LowRank":
        """The transposed update, of a matrix (columns, rows)."""
        magnitude = None if self.magnitude is None else self.magnitude.T
        return replace(self, a=self.b.T, b=self.a.T, shape=(self.columns, self.rows), magnitude=magnitude)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply vectors (columns) or (columns, count) by `scale * b @ a`, without the matrix."""
        return (self.b @ (self.a @ vectors)) * self.scale

    def matrix(self) -> Tensor:
        """The update written out, (rows, columns); magnitudes are not in it."""
        return (self.b @ self.a) * self.scale

    def applied_to(self, weight: Tensor) -> Tensor:
        """Add the update to its target, in the target's dtype or a wider one of the factors; magnitudes, if any, are then set."""
        wide = torch.promote_types(weight.dtype, self.b.dtype)
        start = weight.to(wide).reshape(self.rows, self.columns)
        moved = torch.addmm(start, self.b.to(wide), self.a.to(wide), alpha=self.scale)
        if self.magnitude is not None:
            across = 1 if self.magnitude.shape[1] == 1 else 0
            moved *= self.magnitude.to(wide) / torch.linalg.vector_norm(moved, dim=across, keepdim=True)
        return moved.reshape(weight.shape)
