"""Completeness: the continuous symmetries that a spec declares are all that a small network has.

The directions in which the weights can move without any output moving are the null space of the Jacobian. At generic
weights its dimension is that of the continuous symmetry; what the spec declares must lie in it, and fill it.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.axes import leaves
from weightspace.errors import SymmetryError
from weightspace.folding import fold
from weightspace.proof.arguments import expect_module, expect_spec
from weightspace.proof.directions import CONTINUOUS, basis_of, directions
from weightspace.proof.draws import redraw, redraw_inputs
from weightspace.proof.missing import missing_lines
from weightspace.proof.network import Network, network
from weightspace.proof.occurrences import mixed_when_folded
from weightspace.proof.sharing import tied
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict

LARGEST = 6000  # parameters; the singular values of a Jacobian of more take minutes
RELATIVE = 1e-10  # singular values below this share of the largest count as zero
CLEAR = 1e3  # the least ratio of the singular values at the cut


@dataclass(frozen=True, repr=False)
class Certificate:
    """What a small network's Jacobian says about the continuous symmetries that a spec declares.

    Attributes:
        parameters: how many parameters the spec covers, tied ones once; without gains that are folded away.
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
    keywords: Mapping[str, Any] | None = None,
    samples: int = 300,
    generator: torch.Generator | None = None,
    draws: int = 3,
) -> Certificate:
    """Compare the continuous symmetries that a spec declares with those that the network has at generic weights.

    Args:
        spec: of the module.
        module: a small instance; its weights are drawn anew in a float64 copy.
        inputs: example inputs; floats are drawn normal with standard deviation 3, to reach both sides of every unit.
        keywords: inputs by keyword.
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
    expect_spec(spec)
    expect_module(module)
    spec.check(module.state_dict())
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    own = dict(module.named_parameters(remove_duplicate=False))
    ties = tied({name: own[name] for name in spec.tensors if name in own})
    names = [name for name in spec.tensors if name in own and name not in ties]
    count = sum(own[name].numel() for name in names)
    if count > LARGEST:
        raise SymmetryError(f"a certificate needs at most {LARGEST} parameters, but this module has {count}; give a smaller instance of it")
    lifted = network(module, inputs, keywords)
    names += _moved_buffers(spec, names)
    is_folded = bool(mixed_when_folded(spec))
    if is_folded:  # the gains are ones then, and no parameters
        names = [name for name in names if name not in spec.gains]
    best: _Measured | None = None
    for _ in range(draws):
        state: StateDict = redraw(lifted, spec, generator)
        found = _measured(lifted, fold(state, spec) if is_folded else state, names, samples, generator)
        is_settled = found.nullity == spec.dimension or (best is not None and found.rank == best.rank)
        best = found if best is None or found.rank > best.rank else best
        if is_settled:
            break
    if best is None:
        raise ValueError(f"draws must be at least 1, not {draws}")
    return _compared(spec, best, names)


@dataclass(frozen=True, eq=False)
class _Measured:
    """The Jacobian at one draw of the weights.

    Attributes:
        state: the weights.
        values: all its singular values, largest first.
        reduced: the rows that are not null, in order of the singular values, the largest of norm one.
    """

    state: StateDict
    values: Tensor
    reduced: Tensor

    @property
    def rank(self) -> int:
        return self.reduced.shape[0]

    @property
    def nullity(self) -> int:
        return self.reduced.shape[1] - self.rank

    @property
    def gap(self) -> float:
        if self.rank == 0 or self.nullity == 0:
            return math.inf
        return float(self.values[self.rank - 1] / self.values[self.rank].clamp(min=1e-300))


def _measured(lifted: Network, state: StateDict, names: Sequence[str], samples: int, generator: torch.Generator) -> _Measured:
    jacobian = _jacobian(lifted, names, state, samples, generator)
    _, values, rows = torch.linalg.svd(jacobian, full_matrices=False)
    rank = int((values > values[0] * RELATIVE).sum()) if values.numel() else 0
    return _Measured(state, values, values[:rank, None] * rows[:rank] / values[:1])


def _compared(spec: SymmetrySpec, found: _Measured, names: Sequence[str]) -> Certificate:
    """The certificate at one draw of the weights."""
    lines = []
    if found.gap <= CLEAR:
        lines.append(f"the rank is not clear: the singular values at the cut differ by a factor of {found.gap:.0f} only")
    declared, wrong = _declared(spec, found.state, names, found.reduced)
    missing = found.nullity - declared.shape[1]
    lines += wrong
    if missing > 0:
        lines += missing_lines(spec, found.state, names, found.reduced, declared, missing)
    return Certificate(found.rank + found.nullity, found.rank, declared.shape[1], found.gap, tuple(lines))


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


def _declared(spec: SymmetrySpec, state: StateDict, names: Sequence[str], reduced: Tensor) -> tuple[Tensor, list[str]]:
    """An orthonormal basis of the declared directions that change nothing, and a line for each group with others."""
    kept, lines = [torch.zeros(reduced.shape[1], 0, dtype=torch.float64)], list[str]()
    for group in spec.groups.values():
        if group.symmetry not in CONTINUOUS:
            continue
        found = directions(spec, group.name, state, names)
        found = found[:, found.norm(dim=0) > 0]
        found = found / found.norm(dim=0)
        is_null = (reduced @ found).norm(dim=0) < math.sqrt(RELATIVE) * 1e-3
        if not bool(is_null.all()):
            count = int((~is_null).sum())
            lines.append(
                f"group '{group.name}' has symmetry '{group.symmetry}', but {count} of its {len(is_null)} directions change the outputs"
            )
        kept.append(found[:, is_null])
    return basis_of(torch.cat(kept, 1)), lines
