"""What a spec does not declare: the null directions beyond it, attributed to tensors and groups."""

from collections.abc import Sequence

import torch
from torch import Tensor

from weightspace.proof.directions import basis_of, directions, null_in
from weightspace.proof.occurrences import Occurrence, alone, places_of
from weightspace.spec import Continuous, SymmetrySpec
from weightspace.symmetry import StateDict

WIDEST = 1500  # directions tried when the mixings of one group are looked for


class _Explained:
    """The null directions accounted for so far."""

    def __init__(self, basis: Tensor) -> None:
        self.basis = basis

    def add(self, more: Tensor) -> Tensor:
        """Account for some more; those that are new, orthonormal."""
        rest = more - self.basis @ (self.basis.T @ more)
        if rest.shape[1] == 0:
            return rest
        left, values, _ = torch.linalg.svd(rest, full_matrices=False)
        new: Tensor = left[:, values > 1e-6]
        self.basis = torch.cat([self.basis, new], 1)
        return new


def missing_lines(spec: SymmetrySpec, state: StateDict, names: Sequence[str], reduced: Tensor, declared: Tensor, missing: int) -> list[str]:
    """Attribute the null directions that are not declared: to one tensor alone, to a group, to what is left."""
    explained, lines = _Explained(declared), list[str]()
    slices = _slices(state, names)
    unit = torch.eye(reduced.shape[1], dtype=torch.float64)
    for name in names:
        new = explained.add(null_in(reduced, unit[:, slices[name]]))
        if new.shape[1]:
            idle = int((reduced[:, slices[name]].norm(dim=0) < 1e-9).sum())
            cause = f"{idle} of its entries are never used" if idle else "less reaches it than it is wide"
            lines.append(f"{_dimensions(new.shape[1])} in '{name}' alone: {cause}")
    for group in sorted(spec.groups, key=lambda name: -len(spec.parents(name))):  # what a child can do, its parent can do too
        lines += _missing_of_group(spec, group, state, names, reduced, explained)
    left = missing + declared.shape[1] - explained.basis.shape[1]
    if left > 0:
        rest = _Explained(explained.basis).add(null_in(reduced, unit))
        lines.append(f"{_dimensions(left)} in {_places(rest, slices)}, of no group of the spec")
    return lines


def _missing_of_group(
    spec: SymmetrySpec, group: str, state: StateDict, names: Sequence[str], reduced: Tensor, explained: _Explained
) -> list[str]:
    """What a group could have: its members rescaled, or mixed, differently in each of its places."""
    places = [at for at in places_of(spec, group) if at.tensor in names]
    count, copies = spec.groups[group].size, spec.copies(group)
    if not places or (len(places) == 1 and spec.groups[group].kind == "fixed"):
        return []
    slices = _slices(state, names)
    scales = explained.add(null_in(reduced, _span(spec, places, "scale", state, names)))
    mixings = scales[:, :0]
    if count > 1 and len(places) * copies * count**2 <= WIDEST and not any(g.per == group for g in spec.groups.values()):
        mixings = explained.add(null_in(reduced, _span(spec, places, "linear", state, names)))
    total = scales.shape[1] + mixings.shape[1]
    if mixings.shape[1] and total == copies * count**2:
        return [f"{_dimensions(total)} in {_places(torch.cat([scales, mixings], 1), slices)}: '{group}' can be 'linear'"]
    lines = []
    if scales.shape[1]:
        whole = scales.shape[1] == copies * count
        said = f"'{group}' can have 'scale'" if whole else f"members of '{group}' can be scaled"
        lines.append(f"{_dimensions(scales.shape[1])} in {_places(scales, slices)}: {said}")
    if mixings.shape[1]:
        whole = mixings.shape[1] == copies * count * (count - 1) // 2
        said = f"'{group}' can be 'orthogonal'" if whole else f"members of '{group}' can be mixed"
        lines.append(f"{_dimensions(mixings.shape[1])} in {_places(mixings, slices)}: {said}")
    return lines


def _span(spec: SymmetrySpec, places: Sequence[Occurrence], symmetry: Continuous, state: StateDict, names: Sequence[str]) -> Tensor:
    """The space of a group's scales or mixings, each occurrence on its own."""
    return basis_of(torch.cat([directions(alone(spec, at, symmetry), at.group, state, names) for at in places], 1))


def _slices(state: StateDict, names: Sequence[str]) -> dict[str, slice]:
    found, start = {}, 0
    for name in names:
        found[name] = slice(start, start + state[name].numel())
        start += state[name].numel()
    return found


def _places(directions: Tensor, slices: dict[str, slice]) -> str:
    """The tensors in which some orthonormal directions have their squared mass, largest first."""
    mass = {name: float(directions[part].square().sum()) / directions.shape[1] for name, part in slices.items()}
    shown = [name for name in sorted(mass, key=lambda name: -mass[name]) if mass[name] > 1e-9]
    names = [f"'{name}' ({100 * mass[name]:.0f} %)" for name in shown[:6]]
    return ", ".join(names) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _dimensions(count: int) -> str:
    return f"{count} dimension{'s' * (count != 1)}"
