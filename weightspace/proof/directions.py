"""The directions in which weights move along the generators of a group, and linear algebra of such directions."""

import math
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from weightspace.axes import leaves
from weightspace.spec import MATRIX, SymmetrySpec
from weightspace.symmetry import Action, StateDict, Symmetry, act

CONTINUOUS = ("scale", "rotation", *MATRIX)


def directions(spec: SymmetrySpec, group: str, state: StateDict, names: Sequence[str]) -> Tensor:
    """How the weights move along each generator of a group, shape (parameters, generators)."""
    involved = {name for name in spec.tensors if any(leaf.group == group for axis in spec.axes(name) for leaf in leaves(axis))}
    held = {name: tensor for name, tensor in state.items() if name in spec.tensors or name in spec.aliases}
    still = {name: torch.zeros(state[name].numel(), dtype=torch.float64) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forward derivatives, when first used, load deprecated parts of torch
        columns = [
            torch.cat([moved[name].flatten() if name in involved else still[name] for name in names])
            for moved in _derivatives(spec, group, held)
        ]
    return torch.stack(columns, 1) if columns else torch.zeros(sum(map(len, still.values())), 0, dtype=torch.float64)


def _derivatives(spec: SymmetrySpec, group: str, state: StateDict) -> Iterator[dict[str, Tensor]]:
    """The derivative of the action along each generator of a group, at the identity."""
    lead, count = tuple(parent.size for parent in spec.parents(group)), spec.groups[group].size
    shape = (*lead, count, count) if spec.groups[group].symmetry in MATRIX else (*lead, count)
    still = torch.zeros(shape, dtype=torch.float64)

    def along(real: Tensor, imaginary: Tensor) -> dict[str, Tensor]:
        return dict(act(Symmetry(spec, {group: _near_identity(spec, group, lead, real, imaginary)}), state))

    for unit, is_imaginary in _units(spec, group, shape):
        tangents = (still, unit) if is_imaginary else (unit, still)
        yield torch.func.jvp(along, (still, still), tangents)[1]


def _near_identity(spec: SymmetrySpec, group: str, lead: tuple[int, ...], real: Tensor, imaginary: Tensor) -> Action:
    """The action of one plus a small diagonal or matrix."""
    count, symmetry = spec.groups[group].size, spec.groups[group].symmetry
    index = torch.arange(count).expand(*lead, count)
    if symmetry in MATRIX:
        return Action(index, matrix=torch.eye(count, dtype=torch.float64) + real)
    return Action(index, 1 + real if symmetry == "scale" else torch.complex(1 + real, imaginary))


def _units(spec: SymmetrySpec, group: str, shape: tuple[int, ...]) -> Iterator[tuple[Tensor, bool]]:
    """A basis of a group's Lie algebra; whether each is an angle."""
    symmetry = spec.groups[group].symmetry
    for place in range(math.prod(shape)):
        unit = torch.zeros(math.prod(shape), dtype=torch.float64)
        unit[place] = 1
        unit = unit.reshape(shape)
        if symmetry == "orthogonal":
            row, column = (int(k) for k in unit.nonzero()[0, -2:])
            if row < column:
                yield unit - unit.mT, False
            continue
        yield unit, False
        if symmetry == "rotation":
            yield unit, True


def basis_of(vectors: Tensor) -> Tensor:
    """An orthonormal basis of the span of some columns."""
    if vectors.shape[1] == 0:
        return vectors
    left, values, _ = torch.linalg.svd(vectors, full_matrices=False)
    basis: Tensor = left[:, values > values[0] * 1e-9] if float(values[0]) > 0 else left[:, :0]
    return basis


def null_in(reduced: Tensor, basis: Tensor) -> Tensor:
    """The part of a space, given by an orthonormal basis, in which nothing changes."""
    if basis.shape[1] == 0:
        return basis
    _, values, rows = torch.linalg.svd(reduced @ basis, full_matrices=True)
    zeros = torch.cat([values, torch.zeros(basis.shape[1] - len(values), dtype=values.dtype)]) < 1e-9
    null: Tensor = basis @ rows[zeros].T
    return null
