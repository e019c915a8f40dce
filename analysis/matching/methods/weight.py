"""Method `weight`: weight matching by linear assignments, no data needed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from weightspace.analysis.matching.balance import balance
from weightspace.analysis.matching.family import Rules
from weightspace.analysis.matching.match import Match, matching_method, result
from weightspace.analysis.matching.pair import Pair, usable
from weightspace.analysis.matching.search import descend, usual_shakes
from weightspace.axes import leaves
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry, act, expect_folded


@matching_method("weight")
def match_weights(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    generator: torch.Generator,
    restarts: int = 1,
    shakes: int | None = None,
    max_sweeps: int = 100,
    matrices: bool = False,
    scales: bool = False,
    masks: Mapping[str, Tensor] | None = None,
    solver: str | None = None,
    device: torch.device | str = "cpu",
) -> Match:
    """Maximise the inner product of a with the moved b, one family of groups after another.

    With `scales`, both networks are balanced first (see `weightspace.analysis.matching.balance`), so that how a unit's weight is
    shared between its two sides says nothing; the element found between the balanced ones is then brought back to a as it
    is: balance of b, permutation, and the inverse of a's balance. The objective is that of the balanced networks; the
    distances are those of the networks as given, and may rise where a itself is unbalanced.

    Ainsworth et al., Git Re-Basin (arXiv:2209.04836), Algorithm 1; see `weightspace.analysis.matching.search` for departures.

    Args:
        a: what is aligned to.
        b: what is moved.
        spec: the symmetry of both.
        generator: of the order of visits and of random starts.
        restarts: how many searches; the first starts anchored, the second at the identity, others at random elements.
        shakes: how often each search leaves its optimum and descends again; by default 20 times where the network is small, never else.
        max_sweeps: after which a descent stops.
        matrices: let orthogonal matrices act on groups that are `orthogonal` or `linear`, solved by Procrustes; a stream with gains is
            `orthogonal` in `spec.folded`, for weights that were folded (see `weightspace.folding`).
        scales: take out how units of groups with symmetry `scale` are balanced, and give b's units the balance of a's.
        masks: for some tensors, numbers to multiply both with (zeros leave out), broadcast to their shape.
        solver: of linear assignments, `scipy` or `lapjv`; by default see `weightspace.analysis.matching.assignment`.
        device: where inner products are computed.
    """
    if restarts < 1 or (shakes or 0) < 0 or max_sweeps < 0:
        raise SymmetryError(
            f"expected at least one restart and no negative number of shakes or sweeps, found restarts={restarts}, shakes={shakes}, "
            f"max_sweeps={max_sweeps}"
        )
    balances = (balance(a, spec), balance(b, spec)) if scales else None
    left, right = (act(balances[0], a), act(balances[1], b)) if balances else (a, b)
    rules = Rules.of(spec, matrices=matrices, solver=solver)
    # Gains on a mixed group are constant, or the element could not act: they say nothing of where members go.
    scaled = {gain: leaf.group for gain in spec.gains for axis in spec.axes(gain) for leaf in leaves(axis)}
    folded = {gain: group for gain, group in scaled.items() if group in rules.mixed}
    for gain, group in folded.items():
        for weights in (left, right):
            expect_folded(gain, group, weights[gain])
    pair = Pair.of(left, right, spec, masks=masks, skip=folded, device=usable(device))
    still = {name: spec.identity().action(name) for family in pair.families for name in family.members}
    shakes = usual_shakes(pair) if shakes is None else shakes
    runs = []
    for k in range(restarts):
        start = still if k < 2 else {name: spec.random(generator, discrete=True).action(name) for name in still}
        runs.append(descend(pair, rules, start, anchored=k == 0, max_sweeps=max_sweeps, generator=generator, shakes=shakes))
    best = max(runs, key=lambda run: run.objective[-1])
    element = Symmetry(spec, dict(best.actions))
    if balances:
        element = balances[0].inverse() @ element @ balances[1]
    return result(a, b, element, method="weight", ties=best.ties, runs=runs)
