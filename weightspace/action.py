"""What an element does to one neuron group: an index, an index with a diagonal, or a matrix, for each member of its parents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from weightspace.errors import SymmetryError
from weightspace.spec import MATRIX, NeuronGroup

DIAGONALS = {"sign": "-1 and 1", "scale": "finite positive numbers", "rotation": "finite complex numbers other than 0"}


@dataclass(frozen=True, eq=False)
class Action:
    """What an element does to one group.

    Attributes:
        index: where each new member comes from, shape (*parents, n).
        diagonal: signs, scales or (for rotations) complex numbers of the new members, shape (*parents, n).
        matrix: a mixing of the members in place of an index, shape (*parents, n, n).
    """

    index: Tensor
    diagonal: Tensor | None = None
    matrix: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Action":
        """The action with its index, its diagonal and its matrix each changed by a function."""
        optional = [None if values is None else change(values) for values in (self.diagonal, self.matrix)]
        return Action(change(self.index), *optional)

    @property
    def is_identity(self) -> bool:
        """Whether it does nothing at all."""
        return (
            self.matrix is None
            and bool((self.index == torch.arange(self.index.shape[-1], device=self.index.device)).all())
            and (self.diagonal is None or bool((self.diagonal == 1).all()))
        )

    def to(self, device: torch.device | str) -> "Action":
        """The same action on another device."""
        return self.each(lambda values: values.to(device))

    @cached_property
    def as_matrix(self) -> Tensor:
        """The action as matrices, shape (*parents, n, n)."""
        if self.matrix is not None:
            return self.matrix
        dtype = torch.float64 if self.diagonal is None else self.diagonal.dtype
        rows = torch.eye(self.index.shape[-1], dtype=dtype, device=self.index.device)[self.index]
        return rows if self.diagonal is None else rows * self.diagonal[..., None]

    @cached_property
    def dual(self) -> Tensor:
        """The inverse transpose of the matrix."""
        inverse: Tensor = torch.linalg.inv(self.as_matrix)
        return inverse.mT


def random_action(group: NeuronGroup, lead: tuple[int, ...], generator: torch.Generator | None, discrete: bool) -> Action:
    """Draw one action, independent for each member of the parents."""
    count = group.size
    if group.symmetry in MATRIX and not discrete:
        turn = torch.linalg.qr(_normal(generator, *lead, count, count))[0]
        if group.symmetry == "orthogonal":
            return Action(_in_order(lead, count), matrix=turn)
        stretch = (_normal(generator, *lead, count) / 4).clamp(-0.5, 0.5).exp()  # condition number at most e
        return Action(
            _in_order(lead, count), matrix=turn * stretch[..., None, :] @ torch.linalg.qr(_normal(generator, *lead, count, count))[0]
        )
    index = _in_order(lead, count)
    if group.kind == "permutable":
        index = torch.rand(*lead, count, generator=generator, dtype=torch.float64).argsort(-1)
    if group.symmetry == "sign":
        return Action(index, torch.randint(0, 2, (*lead, count), generator=generator).double() * 2 - 1)
    if group.symmetry == "scale" and not discrete:
        return Action(index, (_normal(generator, *lead, count) / 2).exp())
    if group.symmetry == "rotation" and not discrete:
        return Action(index, torch.polar((_normal(generator, *lead, count) / 4).exp(), _normal(generator, *lead, count) * 3))
    return Action(index)


def _in_order(lead: Sequence[int], count: int) -> Tensor:
    return torch.arange(count).repeat(*lead, 1).reshape(*lead, count)


def _normal(generator: torch.Generator | None, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def after(last: Action, first: Action) -> Action:
    """One action after another, members of both counted by the same parents."""
    if last.matrix is not None or first.matrix is not None:
        return Action(
            torch.arange(last.index.shape[-1]).expand(last.index.shape), matrix=last.as_matrix @ first.as_matrix.to(last.as_matrix.dtype)
        )
    index = first.index.gather(-1, last.index)
    if last.diagonal is None and first.diagonal is None:
        return Action(index)
    before = torch.ones(index.shape, dtype=torch.float64) if first.diagonal is None else first.diagonal.gather(-1, last.index)
    return Action(index, before if last.diagonal is None else last.diagonal * before)


def undone(action: Action) -> Action:
    """The action that brings every member back, counted by the same parents."""
    if action.matrix is not None:
        return Action(action.index, matrix=torch.linalg.inv(action.matrix))
    index = action.index.argsort(-1)
    return Action(index, None if action.diagonal is None else 1 / action.diagonal.gather(-1, index))


def read_action(group: NeuronGroup, lead: tuple[int, ...], given: Any) -> Action:
    """Read what a user gave for a group.

    Raises:
        SymmetryError: it is nothing that tensors can be made of.
    """
    if isinstance(given, Action):
        return given
    try:
        return _read(group, lead, given)
    except (TypeError, ValueError, RuntimeError):
        raise SymmetryError(
            f"the action on group '{group.name}' is a {type(given).__name__} that holds no numbers; "
            "expected an index, an (index, diagonal) pair or a matrix"
        ) from None


def _read(group: NeuronGroup, lead: tuple[int, ...], given: Any) -> Action:
    plain = torch.arange(group.size).expand(*lead, group.size)
    if group.symmetry in MATRIX and isinstance(given, Tensor) and given.is_floating_point():
        return Action(plain, matrix=given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], (Tensor, Sequence)):
        diagonal = torch.as_tensor(given[1])
        return Action(plain if given[0] is None else _index(given[0]), diagonal if diagonal.is_complex() else diagonal.double())
    return Action(_index(given))


def _index(given: Any) -> Tensor:
    index = torch.as_tensor(given)
    if index.is_complex():
        raise TypeError("an index of complex numbers")
    return index if index.is_floating_point() and index.numel() else index.long()


def check_action(group: NeuronGroup, lead: tuple[int, ...], action: Action) -> None:
    """See that an action is one that the group has."""
    where, shape = f"group '{group.name}'", (*lead, group.size)
    if action.index.is_floating_point() and action.index.numel():
        raise SymmetryError(f"the index of {where} holds floats; give integers, or a matrix to a group that has them")
    if tuple(action.index.shape) != shape:
        raise SymmetryError(f"the index of {where} has shape {list(action.index.shape)}; expected {list(shape)}")
    plain = torch.arange(group.size, device=action.index.device).expand(shape)
    if not bool((action.index.sort(-1).values == plain).all()):
        raise SymmetryError(f"the index of {where} is no permutation of 0 to {group.size - 1}; each member must come once")
    moves = not bool((action.index == plain).all())
    if group.kind == "fixed" and moves:
        raise SymmetryError(f"{where} is fixed, but its index moves members; leave it out")
    if action.matrix is not None:
        if moves or action.diagonal is not None:
            raise SymmetryError(f"the action on {where} has a matrix and more; multiply them into one matrix")
        _check_matrix(group, shape, action.matrix)
    if action.diagonal is not None:
        if tuple(action.diagonal.shape) != shape:
            raise SymmetryError(f"the diagonal of {where} has shape {list(action.diagonal.shape)}; expected {list(shape)}")
        if group.symmetry not in DIAGONALS or not _fits(group.symmetry, action.diagonal):
            needed = DIAGONALS.get(group.symmetry, "none")
            raise SymmetryError(f"the diagonal of {where} does not fit its symmetry '{group.symmetry}'; expected {needed}")


def _check_matrix(group: NeuronGroup, shape: tuple[int, ...], matrix: Tensor) -> None:
    where = f"group '{group.name}'"
    if group.symmetry not in MATRIX:
        raise SymmetryError(f"{where} has symmetry '{group.symmetry}', which no matrix acts on; give an index")
    if tuple(matrix.shape) != (*shape, group.size):
        raise SymmetryError(f"the matrix of {where} has shape {list(matrix.shape)}; expected {[*shape, group.size]}")
    if not matrix.numel():
        return
    if group.symmetry == "orthogonal":
        error = float((matrix @ matrix.mT - torch.eye(group.size).to(matrix)).abs().max())
        if not error <= 1e-4:
            raise SymmetryError(f"the matrix of {where} is not orthogonal (off by {error:.1e}); take its polar factor")
    elif not bool((torch.linalg.inv_ex(matrix).info == 0).all()):
        raise SymmetryError(f"the matrix of {where} has no inverse; give one that has")


def _fits(symmetry: str, diagonal: Tensor) -> bool:
    """Whether the numbers of a diagonal are those that a symmetry allows."""
    if not bool(diagonal.isfinite().all()):
        return False
    if symmetry == "rotation":
        return diagonal.is_complex() and bool((diagonal != 0).all())
    return not diagonal.is_complex() and bool((diagonal.abs() == 1).all() if symmetry == "sign" else (diagonal > 0).all())
