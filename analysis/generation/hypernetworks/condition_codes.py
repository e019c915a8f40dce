"""Codes of conditions: what a hypernetwork reads instead of a condition itself."""

import abc
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import GenerationError


class Code(nn.Module, abc.ABC):
    """A map from conditions to vectors.

    Attributes:
        size: of the vector.
    """

    size: int

    @abc.abstractmethod
    def forward(self, conditions: Tensor | None) -> Float[Tensor, "networks size"]:
        """Encode conditions, the first dimension counting them, or their absence once; differentiable, and works under `torch.func.vmap`."""

    def know(self, conditions: Tensor) -> None:
        """Take in the conditions that will be learned, before the first step.

        Raises:
            GenerationError: see `expect`.
        """
        self.expect(conditions)

    def expect(self, conditions: Tensor) -> None:
        """Refuse conditions that have no code.

        Raises:
            GenerationError: there is one.
        """


class Values(Code):
    """The values of a condition, as they are or on a quarter of a circle; a lone 1 without conditions.

    On the circle each value g in [0, 1] becomes cos(pi g / 2), sin(pi g / 2), so that the code of any condition has the same norm
    (Gonzalez Ortiz et al., arXiv:2304.07645, equation 7).

    Attributes:
        values: of a condition.
        on_circle: whether they are encoded.
    """

    def __init__(self, shape: tuple[int, ...] | None, *, on_circle: bool) -> None:
        """Make it for conditions of a shape, or for none."""
        super().__init__()
        self.values, self.on_circle = math.prod(shape or ()), on_circle
        self.size = 2 * self.values if on_circle else self.values

    def expect(self, conditions: Tensor) -> None:
        """Refuse values beyond the quarter circle, where two of them would share a code."""
        low, high = float(conditions.min()), float(conditions.max())
        if self.on_circle and not 0 <= low <= high <= 1:
            raise GenerationError(
                f"conditions reach from {low:g} to {high:g}, expected from 0 to 1; rescale them, or fit with encoding=False"
            )

    def forward(self, conditions: Tensor | None) -> Float[Tensor, "networks size"]:
        """Encode conditions."""
        given = torch.ones(1, 1) if conditions is None else conditions.reshape(len(conditions), self.values)
        return torch.cat([torch.cos(math.pi / 2 * given), torch.sin(math.pi / 2 * given)], 1) if self.on_circle else given


class Embedding(Code):
    """A learned linear map of a condition: a vector for each task where conditions are numbers of tasks (they have no dimensions then).

    Attributes:
        shape: of a condition; None without conditions.
        numbers: the tasks that are known.
        vectors: (codes, size), one row for each task or each value.
    """

    def __init__(self, shape: tuple[int, ...] | None, size: int) -> None:
        """Make one that knows no tasks yet.

        Args:
            shape: of a condition; None without conditions.
            size: of the vectors.
        """
        super().__init__()
        self.shape, self.size = shape, size
        values = math.prod(shape or ())
        self.numbers = nn.Buffer(torch.zeros(0))
        self.vectors = nn.Parameter(torch.randn(values, size) / math.sqrt(values))

    @property
    def is_by_task(self) -> bool:
        """Whether every condition has a vector of its own."""
        return self.shape == ()

    def know(self, conditions: Tensor) -> None:
        """Give each task a vector.

        Raises:
            GenerationError: a condition without dimensions is no whole number.
        """
        if self.is_by_task:
            odd = conditions[conditions != conditions.round()]
            if len(odd):
                raise GenerationError(
                    f"a condition without dimensions is the number of a task, and {float(odd[0]):g} is none; give vectors of one value, of shape [1]"
                )
            self.numbers = nn.Buffer(torch.unique(conditions).to(self.vectors))
            self.vectors = nn.Parameter(torch.randn(len(self.numbers), self.size).to(self.vectors))

    def expect(self, conditions: Tensor) -> None:
        """Refuse tasks that are not known."""
        unknown = conditions[~torch.isin(conditions.to(self.numbers), self.numbers)] if self.is_by_task else conditions[:0]
        if len(unknown):
            known = ", ".join(f"{number:g}" for number in self.numbers[:10].tolist()) + (", ..." if len(self.numbers) > 10 else "")
            raise GenerationError(f"task {float(unknown[0]):g} is none of those that were learned ({known}); ask for one of them")

    def forward(self, conditions: Tensor | None) -> Float[Tensor, "networks size"]:
        """Encode conditions; a task that is not known gives zeros."""
        if conditions is None:
            return self.vectors
        codes = conditions[:, None] == self.numbers if self.is_by_task else conditions.reshape(len(conditions), len(self.vectors))
        return codes.to(self.vectors) @ self.vectors


__all__ = ["Code", "Embedding", "Values"]
