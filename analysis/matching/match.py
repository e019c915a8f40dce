"""The one function that aligns two networks, whatever the method, and what it says of the result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from weightspace.analysis.matching.pair import inner, widened
from weightspace.analysis.matching.search import Run
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.registry import Registry
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry, act

Method = Callable[..., "Match"]

methods: Registry[Method] = Registry("matching method", package="weightspace.analysis.matching.methods")


def matching_method(name: str) -> Callable[[Method], Method]:
    """Register a way to align two networks under a name."""
    return lambda method: methods.add(name, method)


@dataclass(frozen=True, repr=False)
class Match:
    """An alignment of b to a.

    Attributes:
        element: moves b onto a: `ws.act(m.element, b)`.
        method: how it was found.
        objective: the objective at the start and after each sweep; it never falls. What it is says the method; for `weight` it is the
            inner product over the tensors that have an axis to move.
        stopped: why the search ended.
        restarts: the final objective of each restart.
        l2_before, l2_after: distance from a to b over all tensors but running statistics, before and after.
        cosine_before, cosine_after: cosine between them.
        ties: for groups with members that could be exchanged without loss, how many.
        assignments: how many families were solved, over all restarts.
        function_change: relative change of b's output under the element, where a module was at hand.
    """

    element: Symmetry
    method: str
    objective: tuple[float, ...]
    stopped: str
    restarts: tuple[float, ...]
    l2_before: float
    l2_after: float
    cosine_before: float
    cosine_after: float
    ties: Mapping[str, int]
    assignments: int = 0
    function_change: float | None = None

    @property
    def sweeps(self) -> int:
        """How many sweeps over the groups were made."""
        return len(self.objective) - 1

    @property
    def reduction(self) -> float:
        """The share of the distance that the alignment removes."""
        return 1 - self.l2_after / self.l2_before if self.l2_before else 0.0

    def _repr_html_(self) -> str:
        """The distances before and after, and what was moved, for notebooks."""
        from weightspace import html

        ends = [
            {"": "distance", "before": self.l2_before, "after": self.l2_after},
            {"": "cosine", "before": self.cosine_before, "after": self.cosine_after},
        ]
        told = {
            "distance removed": f"{self.reduction:.1%}",
            "sweeps": f"{self.sweeps}, {self.stopped}",
            "restarts": len(self.restarts) if len(self.restarts) > 1 else None,
            "function changed by": None if self.function_change is None else f"{self.function_change:.1e}",
        }
        return html.page(f"Match by {self.method}", html.rows(ends), html.facts(told), self.element._repr_html_())

    def __repr__(self) -> str:
        sure = "" if self.function_change is None else f", function changed by {self.function_change:.1e}"
        spread = "" if len(self.restarts) < 2 else f", {len(self.restarts)} restarts {min(self.restarts):.6g} to {max(self.restarts):.6g}"
        return (
            f"<Match by {self.method}: distance {self.l2_before:.4g} -> {self.l2_after:.4g} ({self.reduction:.1%} less), "
            f"cosine {self.cosine_before:.3f} -> {self.cosine_after:.3f}, {self.sweeps} sweeps, {self.stopped}{spread}{sure}>"
        )


def match(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    method: str = "weight",
    *,
    generator: torch.Generator | None = None,
    module: torch.nn.Module | None = None,
    inputs: tuple[Any, ...] = (),
    **options: Any,
) -> Match:
    """Find the group element that moves b onto a.

    Args:
        a: what is aligned to.
        b: what is moved; neither is changed.
        spec: the symmetry of both.
        method: a registered method, such as `weight`.
        generator: source of chance; the default starts from seed 0.
        module: with example `inputs`, certifies that the moved b computes the same function.
        inputs: of the module.
        options: of the method.

    Raises:
        UnknownNameError: no such method.
        SymmetryError, ShapeMismatchError: weights that are not of the spec.

    Example:
        >>> spec = SymmetrySpec.parse({"fc1.weight": "h 2", "fc2.weight": "1 h'"}, sizes={"h": 3})
        >>> a = {"fc1.weight": torch.eye(3, 2), "fc2.weight": torch.ones(1, 3)}
        >>> b = {"fc1.weight": torch.eye(3, 2).flip(0), "fc2.weight": torch.ones(1, 3)}
        >>> match(a, b, spec).element.actions["h"].index
        tensor([2, 1, 0])
    """
    generator = generator or torch.Generator().manual_seed(0)
    found = methods[method](a, b, spec, generator=generator, **options)
    if module is None:
        return found
    from weightspace.proof import function_change

    before = state_of(b)
    return replace(found, function_change=function_change(module, before, act(found.element, before), *inputs))


def result(
    a: Checkpoint | StateDict, b: Checkpoint | StateDict, element: Symmetry, *, method: str, ties: Mapping[str, int], runs: list[Run]
) -> Match:
    """Describe an element that some method found by one or more runs, the best of them first in objective."""
    best = max(runs, key=lambda run: run.objective[-1])
    before, after = compare(a, b, element.spec), compare(a, act(element, b), element.spec)
    return Match(
        element,
        method,
        best.objective,
        best.stopped,
        tuple(run.objective[-1] for run in runs),
        before[0],
        after[0],
        before[1],
        after[1],
        ties,
        sum(run.assignments for run in runs),
    )


def compare(a: Checkpoint | StateDict, b: Checkpoint | StateDict, spec: SymmetrySpec) -> tuple[float, float]:
    """Distance and cosine of two sets of weights over the tensors of a spec, running statistics left out, a tensor at a time."""
    square = together = left = right = 0.0
    for name in spec.tensors:
        x, y = a[name], b[name]
        if name in spec.statistics or not x.is_floating_point():
            continue
        x, y = widened(x), widened(y).to(x.device)
        if x.dtype != y.dtype:
            x, y = x.double(), y.double()
        apart = x - y
        square += inner(apart, apart)
        together += inner(x, y)
        left, right = left + inner(x, x), right + inner(y, y)
    return square**0.5, together / (left * right) ** 0.5 if left and right else 0.0
