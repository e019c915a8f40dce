"""One representative of all networks that a symmetry group makes of one, and the distance between two such orbits."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Generic

import torch

from weightspace.analysis.matching.balance import balance
from weightspace.analysis.matching.match import compare, match
from weightspace.analysis.matching.refinement import Refinement
from weightspace.checkpoint import Checkpoint
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import Action, StateDict, Symmetry, Weights, act


@dataclass(frozen=True, repr=False)
class Canonical(Generic[Weights]):
    """A representative of an orbit.

    Attributes:
        element: what brings the given weights there.
        weights: the representative, of the same kind as what was given; a checkpoint's tensors are moved when they are read.
        ties: for each group how many members nothing told from a sibling, so that their order is the one they came in.
    """

    element: Symmetry
    weights: Weights
    ties: Mapping[str, int]

    def __repr__(self) -> str:
        tied = ", ".join(f"{count} of '{name}'" for name, count in self.ties.items())
        return f"<Canonical: {self.element!r}, {f'ties: {tied}' if tied else 'no ties'}>"


def canonical(weights: Weights, spec: SymmetrySpec) -> Canonical[Weights]:
    """Bring a network to the one representative of its orbit: balanced, signs fixed, members in an order of their weights.

    Every network of an orbit comes to the same one, up to rounding, if no two members of a group are exactly alike. Members
    are ordered by colour refinement (see `weightspace.analysis.matching.refinement`). Rounding of the given weights may
    exchange members whose sums agree to about as many digits: permutations and signs round nothing, scales do, so give
    float64 weights where an orbit has scales. Matrices (rotations, orthogonal and linear ones) are left as they are.

    Args:
        weights: a checkpoint or a state dict; it is not changed.
        spec: its symmetry.

    Raises:
        SymmetryError, ShapeMismatchError: weights that are not of the spec, or not finite.

    Example:
        >>> spec = SymmetrySpec.parse({"fc1.weight": "h 2", "fc2.weight": "1 h'"}, sizes={"h": 3})
        >>> x = {"fc1.weight": torch.tensor([[1., 2.], [3., 4.], [5., 6.]]), "fc2.weight": torch.ones(1, 3)}
        >>> moved = act(spec.element({"h": [2, 0, 1]}), x)
        >>> torch.equal(canonical(x, spec).weights["fc1.weight"], canonical(moved, spec).weights["fc1.weight"])
        True
    """
    scales = balance(weights, spec)
    search = Refinement(spec, act(scales, _wide(weights, spec)))
    search.run()
    element = _ordered(search) @ scales
    return Canonical(element, act(element, weights), search.ties)


def orbit_distance(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    method: str = "weight",
    generator: torch.Generator | None = None,
    **options: Any,
) -> float:
    """Measure how far two networks are apart when each is taken for all networks of its orbit.

    Both are balanced, then the least L2 distance over permutations and signs is looked for: by matching b to a, by matching a
    to b, and between the canonical representatives. So it is symmetric, zero for two networks of one orbit without ties, and
    never less than the true minimum, which itself is a metric on orbits. The triangle inequality holds as far as the
    search is exact: for one hidden layer always, for deeper networks it may end in a local optimum. Running statistics do not count.

    Args:
        a: one network.
        b: the other.
        spec: the symmetry of both.
        method: of matching.
        generator: source of chance; the default starts from seed 0.
        options: of the method.

    Raises:
        SymmetryError, ShapeMismatchError: weights that are not of the spec, or not finite.
    """
    seed = int(torch.randint(2**62, (), generator=generator)) if generator else 0

    def onto(x: StateDict, y: StateDict) -> float:
        # Each direction draws the same, so that exchanging a and b changes nothing.
        return match(x, y, spec, method, generator=torch.Generator().manual_seed(seed), **options).l2_after

    spec.check(a)
    spec.check(b)
    x, y = (act(balance(wide, spec), wide) for wide in (_wide(a, spec), _wide(b, spec)))
    return min(onto(x, y), onto(y, x), compare(canonical(x, spec).weights, canonical(y, spec).weights, spec)[0])


def _wide(weights: Checkpoint | StateDict, spec: SymmetrySpec) -> dict[str, torch.Tensor]:
    """The tensors of a spec, floats in float64: orders and scales are then found to more digits than any weights have."""
    tensors = {name: weights[name].detach() for name in spec.tensors}
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _ordered(search: Refinement) -> Symmetry:
    """The element that sorts members by colour and makes all signs one: innermost groups first, while their parents stand still."""
    spec = search.spec
    by_depth: dict[int, dict[str, Action]] = {}
    for group in spec.movable:
        if group.name in search.colours:
            index = search.colours[group.name].argsort(dim=-1, stable=True)
            signs = search.signs[group.name].gather(-1, index) if group.name in search.signs else None
            by_depth.setdefault(len(spec.parents(group.name)), {})[group.name] = Action(index, signs)
    return reduce(lambda outer, depth: outer @ Symmetry(spec, by_depth[depth]), sorted(by_depth), spec.identity())
