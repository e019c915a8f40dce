"""Completeness: the continuous symmetries that a spec declares are all that a small network has.

The directions in which the weights can move without any output moving are the null space of the Jacobian. At generic
weights its dimension is that of the continuous symmetry; what the spec declares must lie in it, and fill it.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.axes import leaves
from weightspace.errors import SymmetryError
from weightspace.proof.network import Network, StateDict, network, redraw, redraw_inputs
from weightspace.proof.occurrences import Occurrence, alone, places_of
from weightspace.spec import MATRIX, Continuous, SymmetrySpec
from weightspace.symmetry import Action, Symmetry, act

LARGEST = 6000  # parameters; the singular values of a Jacobian of more take minutes
RELATIVE = 1e-10  # singular values below this share of the largest count as zero
CLEAR = 1e3  # the least ratio of the singular values at the cut
WIDEST = 1500  # directions tried when the mixings of one group are looked for
CONTINUOUS = ("scale", "rotation", *MATRIX)


@dataclass(frozen=True, repr=False)
class Certificate:
    """What a small network's Jacobian says about the continuous symmetries that a spec declares.

    Attributes:
        parameters: how many parameters the spec covers, tied ones once.
        rank: of the Jacobian of all outputs by them.
        declared: independent directions that the spec declares and that change nothing.
        gap: ratio of the singular values at the cut; infinite where none is zero.
        lines: what is missing, and what is declared but changes the outputs.
    """

    parameters: int
    rank: int
    declared: int
    gap: float
    lines: tuple[str, ...] = ()

    @property
    def nullity(self) -> int:
        """Dimension of the weights' movements that change no output."""
        return self.parameters - self.rank

    @property
    def missing(self) -> int:
        """Dimensions that the spec does not declare."""
        return self.nullity - self.declared

    @property
    def complete(self) -> bool:
        """Whether declared and measured dimensions agree, nothing declared is wrong, and the rank is clear."""
        return self.missing == 0 and not self.lines

    def __repr__(self) -> str:
        said = "complete" if self.complete else f"{self.missing} missing" if self.missing else "doubtful"
        head = (
            f"<Certificate: {said}; {self.parameters} parameters, rank {self.rank}, nullity {self.nullity}, "
            f"declared {self.declared}, gap {self.gap:.1e}>"
        )
        return "\n".join([head, *(f"  {line}" for line in self.lines)])


def certificate(
    spec: SymmetrySpec,
    module: nn.Module,
    *inputs: Any,
    samples: int = 300,
    generator: torch.Generator | None = None,
    draws: int = 3,
) -> Certificate:
    """Compare the continuous symmetries that a spec declares with those that the network has at generic weights.

    Args:
        spec: of the module.
        module: a small instance; its weights are drawn anew in a float64 copy.
        inputs: example inputs; floats are drawn normal with standard deviation 3, to reach both sides of every unit.
        samples: how many random inputs to take, more where the outputs are fewer than the parameters.
        generator: source of chance; a fixed seed if not given.
        draws: the most weights to try; those of the highest rank count, since a dead unit only lowers it.

    Raises:
        SymmetryError, ShapeMismatchError: too many parameters, or the spec is of another architecture.

    Example:
        >>> spec = SymmetrySpec.parse({"0.weight": "h 2", "0.bias": "h", "2.weight": "1 h'", "2.bias": "1"}, sizes={"h": 3})
        >>> certificate(spec, nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.zeros(4, 2)).nullity
        0
    """
    spec.check(module.state_dict())
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    own = dict(module.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    names = [name for name in spec.tensors if name in own and first.setdefault(id(own[name]), name) == name]
    count = sum(own[name].numel() for name in names)
    if count > LARGEST:
        raise SymmetryError(f"a certificate needs at most {LARGEST} parameters, but this module has {count}; give a smaller instance of it")
    lifted = network(module, inputs)
    best: Certificate | None = None
    for _ in range(draws):
        found = _measured(spec, lifted, names, samples, generator)
        best = found if best is None or found.rank > best.rank else best
        if best.complete:
            break
    if best is None:
        raise ValueError(f"draws must be at least 1, not {draws}")
    return best


def _measured(spec: SymmetrySpec, lifted: Network, names: Sequence[str], samples: int, generator: torch.Generator) -> Certificate:
    """The certificate at one draw of the weights."""
    state = redraw(lifted, spec, generator)
    names = [*names, *_moved_buffers(spec, names)]
    jacobian = _jacobian(lifted, names, state, samples, generator)
    parameters = jacobian.shape[1]
    _, values, rows = torch.linalg.svd(jacobian, full_matrices=False)
    rank = int((values > values[0] * RELATIVE).sum()) if values.numel() else 0
    gap = math.inf if rank in (0, parameters) else float(values[rank - 1] / values[rank].clamp(min=1e-300))
    reduced = values[:rank, None] * rows[:rank] / values[:1]
    lines = [] if gap > CLEAR else [f"the rank is not clear: the singular values at the cut differ by a factor of {gap:.0f} only"]
    declared, wrong = _declared(spec, state, names, reduced)
    lines += wrong
    if parameters - rank > declared.shape[1]:
        lines += _missing(spec, state, names, reduced, declared, parameters - rank - declared.shape[1])
    return Certificate(parameters, rank, declared.shape[1], gap, tuple(lines))


def _moved_buffers(spec: SymmetrySpec, names: Sequence[str]) -> list[str]:
    """Running statistics that a declared direction moves."""
    moving = {g.name for g in spec.groups.values() if g.symmetry in CONTINUOUS}
    return [
        name
        for name, axes in spec.tensors.items()
        if name not in names and any(leaf.group in moving and leaf.power for axis in axes for leaf in leaves(axis))
    ]


def _jacobian(lifted: Network, names: Sequence[str], state: StateDict, samples: int, generator: torch.Generator) -> Tensor:
    """Derivatives of outputs, drawn from as many random inputs, by the tensors named; at least as many rows as columns."""
    tensors = {name: state[name].clone().requires_grad_() for name in names}
    by_value = {id(state[name]): tensors[name] for name in names}
    shared = {name: by_value.get(id(tensor), tensor) for name, tensor in state.items()}
    columns = sum(tensor.numel() for tensor in tensors.values())
    found: list[Tensor] = []
    taken, each = 0, max(1, -(-2 * columns // samples))
    while len(found) < samples or taken < 2 * columns:
        outputs = lifted(shared, redraw_inputs(lifted.inputs, generator, scale=3.0))
        flat = torch.cat([output.flatten() for output in outputs if output.is_floating_point() and output.requires_grad])
        picked = torch.randperm(len(flat), generator=generator)[:each]
        found.append(_rows(flat[picked], list(tensors.values())))
        taken += len(picked)
    return torch.cat(found)


def _rows(outputs: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The gradient of each output, flattened, a row each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # operations without a batched backward only take longer
        units = torch.eye(len(outputs), dtype=outputs.dtype)
        parts = torch.autograd.grad(outputs, tensors, units, is_grads_batched=True, allow_unused=True)
    return torch.cat(
        [
            torch.zeros(len(outputs), tensor.numel(), dtype=outputs.dtype) if part is None else part.reshape(len(outputs), -1)
            for part, tensor in zip(parts, tensors, strict=True)
        ],
        1,
    )


def _directions(spec: SymmetrySpec, group: str, state: StateDict, names: Sequence[str]) -> Tensor:
    """How the weights move along each generator of a group, shape (parameters, generators)."""
    involved = {name for name in spec.tensors if any(leaf.group == group for axis in spec.axes(name) for leaf in leaves(axis))}
    held = {name: tensor for name, tensor in state.items() if name in spec.tensors or name in spec.aliases}
    columns = [
        torch.cat([moved[name].flatten() if name in involved else torch.zeros(state[name].numel(), dtype=torch.float64) for name in names])
        for moved in _derivatives(spec, group, held)
    ]
    return torch.stack(columns, 1) if columns else torch.zeros(sum(state[n].numel() for n in names), 0, dtype=torch.float64)


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


def _declared(spec: SymmetrySpec, state: StateDict, names: Sequence[str], reduced: Tensor) -> tuple[Tensor, list[str]]:
    """An orthonormal basis of the declared directions that change nothing, and a line for each group with others."""
    kept, lines, dimension = [torch.zeros(reduced.shape[1], 0, dtype=torch.float64)], list[str](), 0
    for group in spec.groups.values():
        if group.symmetry not in CONTINUOUS:
            continue
        found = _directions(spec, group.name, state, names)
        found = found[:, found.norm(dim=0) > 0]
        found = found / found.norm(dim=0)
        is_null = (reduced @ found).norm(dim=0) < math.sqrt(RELATIVE) * 1e-3
        if not bool(is_null.all()):
            count = int((~is_null).sum())
            lines.append(
                f"group '{group.name}' has symmetry '{group.symmetry}', but {count} of its {len(is_null)} directions change the outputs"
            )
        kept.append(found[:, is_null])
        dimension += int(is_null.sum())
    basis = _basis(torch.cat(kept, 1))
    return basis, lines


def _basis(vectors: Tensor) -> Tensor:
    """An orthonormal basis of the span of some columns."""
    if vectors.shape[1] == 0:
        return vectors
    left, values, _ = torch.linalg.svd(vectors, full_matrices=False)
    basis: Tensor = left[:, values > values[0] * 1e-9] if float(values[0]) > 0 else left[:, :0]
    return basis


def _null(reduced: Tensor, basis: Tensor) -> Tensor:
    """The part of a space, given by an orthonormal basis, in which nothing changes."""
    if basis.shape[1] == 0:
        return basis
    _, values, rows = torch.linalg.svd(reduced @ basis, full_matrices=True)
    zeros = torch.cat([values, torch.zeros(basis.shape[1] - len(values), dtype=values.dtype)]) < 1e-9
    null: Tensor = basis @ rows[zeros].T
    return null


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


def _missing(spec: SymmetrySpec, state: StateDict, names: Sequence[str], reduced: Tensor, declared: Tensor, missing: int) -> list[str]:
    """Attribute the null directions that are not declared: to one tensor alone, to a group, to what is left."""
    explained, lines = _Explained(declared), list[str]()
    slices = _slices(state, names)
    unit = torch.eye(reduced.shape[1], dtype=torch.float64)
    for name in names:
        new = explained.add(_null(reduced, unit[:, slices[name]]))
        if new.shape[1]:
            idle = int((reduced[:, slices[name]].norm(dim=0) < 1e-9).sum())
            cause = f"{idle} of its entries are never used" if idle else "less reaches it than it is wide"
            lines.append(f"{_dimensions(new.shape[1])} in '{name}' alone: {cause}")
    for group in sorted(spec.groups, key=lambda name: -len(spec.parents(name))):  # what a child can do, its parent can do too
        lines += _missing_of_group(spec, group, state, names, reduced, explained)
    left = missing + declared.shape[1] - explained.basis.shape[1]
    if left > 0:
        rest = _Explained(explained.basis).add(_null(reduced, unit))
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
    scales = explained.add(_null(reduced, _span(spec, places, "scale", state, names)))
    mixings = scales[:, :0]
    if count > 1 and len(places) * copies * count**2 <= WIDEST and not any(g.per == group for g in spec.groups.values()):
        mixings = explained.add(_null(reduced, _span(spec, places, "linear", state, names)))
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
    return _basis(torch.cat([_directions(alone(spec, at, symmetry), at.group, state, names) for at in places], 1))


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
