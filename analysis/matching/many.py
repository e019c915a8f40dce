"""Many networks aligned together: an element for each, into one shared space."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from weightspace import parallel
from weightspace.analysis.matching.balance import balance
from weightspace.analysis.matching.match import Match, match
from weightspace.analysis.matching.pair import inner
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry, act

HOW = ("reference", "merge", "universe")
TOLERANCE = 1e-7  # of the objective's size: what float32 sums can tell
SAME = 1e-6  # largest difference of a scale or a matrix from one that counts as none


@dataclass(frozen=True, repr=False)
class Matches:
    """An alignment of many networks.

    Attributes:
        spec: the symmetry of all.
        how: how it was found.
        elements: one for each network, which moves it into the shared space: `ws.act(m.elements[i], models[i])`.
        mean: the mean of the moved networks, over the spec's float tensors.
        objective: the sum over all pairs of the inner products of the moved networks, at the start and after each round;
            it never falls, but for `reference`, which does not look at it.
        stopped: why the search ended.
        reference: the network whose space is shared; None where no network's is.
    """

    spec: SymmetrySpec
    how: str
    elements: tuple[Symmetry, ...]
    mean: Mapping[str, Tensor]
    objective: tuple[float, ...]
    stopped: str
    reference: int | None = None

    def pair(self, a: int, b: int) -> Symmetry:
        """The element that moves network b onto network a, through the shared space."""
        return self.elements[a].inverse() @ self.elements[b]

    @property
    def cycle_error(self) -> float:
        """Share of members that a walk around three networks does not bring back: none, since every pair goes through one space."""
        return cycle_error({pair: self.pair(*pair) for pair in itertools.combinations(range(len(self.elements)), 2)})

    def __repr__(self) -> str:
        rounds = len(self.objective) - 1
        return (
            f"<Matches of {len(self.elements)} networks by {self.how}: pairwise objective "
            f"{self.objective[0]:.6g} -> {self.objective[-1]:.6g} in {rounds} round{'s' * (rounds != 1)}, {self.stopped}>"
        )


def match_many(
    models: Sequence[Checkpoint | StateDict],
    spec: SymmetrySpec,
    how: str = "universe",
    *,
    reference: int | None = None,
    generator: torch.Generator | None = None,
    max_rounds: int = 50,
    scales: bool = False,
    method: str = "weight",
    **options: Any,
) -> Matches:
    """Align many networks so that all pairs agree: going from one to another and on to a third is going there directly.

    `reference` matches every network to one of them. `merge` is MergeMany of Git Re-Basin (arXiv:2209.04836), Algorithm 3: in
    random order, each network is matched to the mean of the others, until none gains. `universe` looks for elements into a shared
    space that maximise the sum over pairs of inner products, the objective of C2M3 (Crisostomi et al., arXiv:2405.17897), not by
    Frank-Wolfe but by exact steps of one network against the mean of the others, from the best reference; a step is taken
    only if the objective rises, so it is never worse than that reference.

    Args:
        models: two or more checkpoints or state dicts; none is changed.
        spec: the symmetry of all.
        how: `reference`, `merge` or `universe`.
        reference: which network to start from; if left out, each is tried (n (n - 1) matches) and the best kept.
        generator: source of chance; the default starts from seed 0.
        max_rounds: over all networks, after which to stop.
        scales: balance every network first; the elements balance, too.
        method: of matching two networks.
        options: of the method.

    Raises:
        UnknownNameError: no such way.
        SymmetryError, ShapeMismatchError: too few networks, or weights that are not of the spec.
    """
    if how not in HOW:
        raise UnknownNameError.of("way to match many", how, HOW)
    if len(models) < 2 or not -len(models) <= (reference or 0) < len(models):
        raise SymmetryError(f"expected two or more networks and a reference among them, found {len(models)} and reference {reference}")
    generator = generator or torch.Generator().manual_seed(0)
    starts = [balance(model, spec) if scales else spec.identity() for model in models]
    states = [_floats(act(start, state_of(model)), spec) for start, model in zip(starts, models, strict=True)]
    find = partial(match, spec=spec, method=method, generator=generator, **options)
    shared = _Shared(spec, states, [spec.identity() for _ in models], find)
    chosen, stopped = None, "one round"
    objective = [shared.objective()]
    if how != "merge":
        found, best = _best_reference(shared, range(len(models)) if reference is None else [range(len(models))[reference]])
        # Networks of one ancestor may be nearer to each other as they are than through any of them.
        if how == "reference" or found.objective() > objective[0]:
            shared, chosen = found, best
            objective.append(shared.objective())
    if how != "reference":
        stopped = f"stopped after {max_rounds} rounds"
        for _ in range(max_rounds):
            if not shared.round(torch.randperm(len(models), generator=generator).tolist()):
                stopped = "no network could gain"
                break
            objective.append(max(objective[-1], shared.objective()))
    elements = tuple(element @ start for element, start in zip(shared.elements, starts, strict=True))
    mean = {name: total / len(models) for name, total in shared.total().items()}
    return Matches(spec, how, elements, mean, tuple(objective), stopped, chosen)


def match_pairs(
    models: Sequence[Checkpoint | StateDict],
    spec: SymmetrySpec,
    pairs: Iterable[tuple[int, int]] | None = None,
    *,
    method: str = "weight",
    seed: int = 0,
    jobs: int | None = None,
    backend: str = "local",
    **options: Any,
) -> dict[tuple[int, int], Match]:
    """Match pairs of networks, each by itself.

    Args:
        models: checkpoints or state dicts.
        spec: the symmetry of all.
        pairs: (a, b) by place in `models`, b to be moved onto a; all with a before b if left out.
        method: of matching.
        seed: of the source of chance; every pair draws the same.
        jobs: processes; by default this one alone, or all that a cluster has.
        backend: where they are; see `weightspace.parallel.run`.
        options: of the method.
    """
    wanted = list(itertools.combinations(range(len(models)), 2)) if pairs is None else list(pairs)
    work = partial(_match_pair, spec=spec, method=method, seed=seed, options=options)
    found = parallel.run(work, ((models[a], models[b]) for a, b in wanted), jobs=jobs, backend=backend)
    return dict(zip(wanted, found, strict=True))


def _match_pair(pair: tuple[Any, Any], *, spec: SymmetrySpec, method: str, seed: int, options: Mapping[str, Any]) -> Match:
    return match(*pair, spec, method, generator=torch.Generator().manual_seed(seed), **options)


def match_values(
    a: Checkpoint | StateDict, b: Checkpoint | StateDict, *, spec: SymmetrySpec, method: str = "weight", seed: int = 0, **options: Any
) -> dict[str, float]:
    """The numbers of one match, for a table of all pairs: `zoo.map_pairs(partial(match_values, spec=spec), measure="match")`."""
    found = match(a, b, spec, method, generator=torch.Generator().manual_seed(seed), **options)
    names = ("reduction", "l2_before", "l2_after", "cosine_before", "cosine_after", "sweeps")
    return {**{name: float(getattr(found, name)) for name in names}, "objective": found.objective[-1]}


def cycle_error(elements: Mapping[tuple[int, int], Symmetry]) -> float:
    """Share of members that going around three networks does not bring back to where they were, with their sign.

    Args:
        elements: for pairs (a, b), what moves b onto a; where (b, a) is missing it is the inverse.

    Returns:
        The mean over all triples of networks of the share of members of all groups that P_ab P_bc P_ca moves; 0 without triples.
    """
    known = dict(elements)
    for (a, b), element in elements.items():
        known.setdefault((b, a), element.inverse())
    networks = sorted({k for pair in elements for k in pair})
    triples = [t for t in itertools.combinations(networks, 3) if all(p in known for p in itertools.combinations(t, 2))]
    moved = members = 0
    for a, b, c in triples:
        around = known[a, b] @ known[b, c] @ known[c, a]
        for action in around.actions.values():
            wrong = action.index != torch.arange(action.index.shape[-1])
            if action.diagonal is not None:
                wrong = wrong | ((action.diagonal - 1).abs() > SAME)
            if action.matrix is not None:
                wrong = (action.matrix - torch.eye(action.index.shape[-1]).to(action.matrix)).abs().amax(-1) > SAME
            moved, members = moved + int(wrong.sum()), members + wrong.numel()
    return moved / members if members else 0.0


@dataclass
class _Shared:
    """Networks on their way into a shared space.

    Attributes:
        spec: their symmetry.
        states: as they were given (or balanced).
        elements: what has been found so far.
        find: matches its second argument to its first.
        moved: the states as the elements move them.
    """

    spec: SymmetrySpec
    states: list[dict[str, Tensor]]
    elements: list[Symmetry]
    find: Callable[..., Match]
    moved: list[dict[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.moved = [act(element, state) for element, state in zip(self.elements, self.states, strict=True)]

    def total(self) -> dict[str, Tensor]:
        """The sum of the moved networks."""
        return {name: cast(Tensor, sum(state[name] for state in self.moved)) for name in self.moved[0]}

    def objective(self) -> float:
        """The sum over pairs of inner products: half of what the square of the sum has beyond the squares."""
        counted = [name for name in self.moved[0] if name not in self.spec.statistics]
        total = self.total()
        own = sum(inner(state[name], state[name]) for state in self.moved for name in counted)
        return (sum(inner(total[name], total[name]) for name in counted) - own) / 2

    def round(self, order: Sequence[int]) -> bool:
        """Match each network to the mean of the others; whether any gained."""
        total, risen = self.total(), False
        for i in order:
            others = {name: (total[name] - self.moved[i][name]) / (len(self.moved) - 1) for name in total}
            element = self.find(others, self.moved[i]).element @ self.elements[i]
            after = act(element, self.states[i])
            counted = [name for name in others if name not in self.spec.statistics]
            before = sum(inner(others[name], self.moved[i][name]) for name in counted)
            gain = sum(inner(others[name], after[name]) for name in counted) - before
            if gain > TOLERANCE * max(abs(before), 1e-30):
                total = {name: total[name] + after[name] - self.moved[i][name] for name in total}
                self.elements[i], self.moved[i], risen = element, after, True
        return risen


def _best_reference(shared: _Shared, candidates: Iterable[int]) -> tuple[_Shared, int]:
    """All networks matched to one of them: the one with the highest objective of all pairs."""
    best: tuple[float, int, _Shared] | None = None
    for k in candidates:
        elements = [
            shared.spec.identity() if i == k else shared.find(shared.states[k], state).element for i, state in enumerate(shared.states)
        ]
        found = _Shared(shared.spec, shared.states, elements, shared.find)
        value = found.objective()
        if best is None or value > best[0]:
            best = value, k, found
    assert best is not None
    return best[2], best[1]


def _floats(state: StateDict, spec: SymmetrySpec) -> dict[str, Tensor]:
    """The spec's float tensors, wide enough to add up; each tied tensor once."""
    floats = {name: state[name].detach() for name in spec.tensors if state[name].is_floating_point()}
    return {name: tensor if tensor.dtype == torch.float64 else tensor.float() for name, tensor in floats.items()}
