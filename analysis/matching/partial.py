"""Matching in part: networks of unequal widths, or only the units that match best, and a space that holds both networks."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from weightspace.analysis.matching.match import Match, match
from weightspace.analysis.matching.widening import embed, expect_alike, padded
from weightspace.axes import Leaf
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import NeuronGroup, SymmetrySpec
from weightspace.symmetry import Action, StateDict, Symmetry, act


@dataclass(frozen=True, repr=False)
class PartialMatch:
    """Which members of two networks are partners, and the space that holds both networks.

    Attributes:
        spec_a: the symmetry of a.
        spec_b: the symmetry of b.
        spec: the shared space: every group has a's members, then those of b without a partner.
        partners: for each permutable group b's member of each of a's, -1 where there is none, shape (*parents of a, n of a).
        places: for each of them where each member of b stands in the shared space, shape (*parents of b, n of b).
        signs: what flips members of b so that they agree with their partners.
        match: the alignment of the networks filled up with zeros to one width.
    """

    spec_a: SymmetrySpec
    spec_b: SymmetrySpec
    spec: SymmetrySpec
    partners: Mapping[str, Tensor]
    places: Mapping[str, Tensor]
    signs: Symmetry
    match: Match

    @property
    def unmatched_a(self) -> dict[str, int]:
        """For each group how many members of a have no partner; groups without such left out."""
        return {name: count for name, index in self.partners.items() if (count := int((index < 0).sum()))}

    @property
    def unmatched_b(self) -> dict[str, int]:
        """For each group how many members of b have no partner; groups without such left out."""
        counts = {name: self.places[name].numel() - int((index >= 0).sum()) for name, index in self.partners.items()}
        return {name: count for name, count in counts.items() if count}

    def widen(
        self, a: Checkpoint | StateDict, b: Checkpoint | StateDict, *, norms: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Put both networks into the shared space, partners in one place; each computes what it did.

        A line between them joins the two functions. In their mean a member without a partner counts half, since zeros meet it: for a
        partial merge give such members their whole weight. See `weightspace.analysis.matching.widening.embed` for what may stand in the way.

        Args:
            a: of `spec_a`.
            b: of `spec_b`.
            norms: `layer` or `rms` for each gain of a norm over members of a group that gets wider.
        """

        def norms_of(spec: SymmetrySpec) -> dict[str, str]:
            return {gain: kind for gain, kind in (norms or {}).items() if spec.shape(gain) != self.spec.shape(gain)}

        right = act(self.signs, state_of(b))
        return (
            embed(a, self.spec_a, self.spec, norms=norms_of(self.spec_a)),
            embed(right, self.spec_b, self.spec, places=self.places, norms=norms_of(self.spec_b)),
        )

    def __repr__(self) -> str:
        rows = (
            f"{name}: {int((index >= 0).sum())} of {index.numel()} and {self.places[name].numel()}" for name, index in self.partners.items()
        )
        return f"<PartialMatch: partners {'; '.join(rows)}>"


def match_partial(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec_a: SymmetrySpec,
    spec_b: SymmetrySpec | None = None,
    *,
    share: float | Mapping[str, float] = 1.0,
    generator: torch.Generator | None = None,
    method: str = "weight",
    **options: Any,
) -> PartialMatch:
    """Find partners between networks of one architecture whose groups may have different sizes.

    The networks are filled up with zeros to one width and matched there: an assignment between n members and m < n with n - m
    of zeros is the best rectangular one. With `share` below 1 only the pairs that fit best (by the cosine of all their
    weights) stay partners, as in PLeaS (Nasery et al., arXiv:2407.02447, without its least squares); members inside heads go
    with their heads.

    Args:
        a: what is aligned to.
        b: what is moved.
        spec_a: the symmetry of a.
        spec_b: the symmetry of b, the same but for sizes of permutable groups; that of a if left out.
        share: of the possible pairs that stay partners, for all groups or by name of the group (others keep all).
        generator: source of chance; the default starts from seed 0.
        method: of matching.
        options: of the method.

    Raises:
        SymmetryError, ShapeMismatchError: specs that differ by more than sizes, weights that are not of them, or a share beyond 0 to 1.
    """
    spec_b = spec_b or spec_a
    expect_alike(spec_a, spec_b)
    shares = _shares(share, spec_a)
    sizes = {name: {"size": max(g.size, spec_b.groups[name].size)} for name, g in spec_a.groups.items()}
    wide = spec_a.with_groups(**sizes)
    x, y = padded(a, spec_a, wide), padded(b, spec_b, wide)
    found = match(x, y, wide, method, generator=generator, **options)
    groups = [g for g in sorted(spec_a.groups.values(), key=lambda g: len(spec_a.parents(g.name))) if g.kind == "permutable"]
    fits = _fits(x, act(found.element, y), wide, [g.name for g in groups if shares.get(g.name, 1.0) < 1 and not g.per])
    partners: dict[str, Tensor] = {}
    places: dict[str, Tensor] = {}
    for group in groups:
        partners[group.name] = _partners(group, spec_a, spec_b, found.element, partners)
        if group.name in fits:
            _keep_best(partners[group.name], fits[group.name], shares[group.name])
        places[group.name] = _places(group, spec_a, spec_b, partners, places)
    union = {name: {"size": max(spec_a.groups[name].size, int(p.max()) + 1 if p.numel() else 0)} for name, p in places.items()}
    signs = _signs(spec_a, spec_b, found.element, partners, places)
    return PartialMatch(spec_a, spec_b, replace(spec_a, proved=False).with_groups(**union), partners, places, signs, found)


def _shares(share: float | Mapping[str, float], spec: SymmetrySpec) -> dict[str, float]:
    """The share of each group without parents."""
    made = dict(share) if isinstance(share, Mapping) else {name: share for name, g in spec.groups.items() if not g.per}
    for name, value in made.items():
        if name not in spec.groups:
            raise UnknownNameError.of("neuron group", name, spec.groups)
        if not 0 <= value <= 1 or spec.groups[name].per:
            raise SymmetryError(f"share {value} of group '{name}' cannot be kept; expected 0 to 1, of a group that is not per another")
    return made


def _fits(a: StateDict, b: StateDict, spec: SymmetrySpec, names: list[str]) -> dict[str, Tensor]:
    """The cosine of each member of some groups with the member of b that stands in its place."""
    sums = {name: torch.zeros(3, spec.groups[name].size, dtype=torch.float64) for name in names}
    for tensor in spec.tensors:
        if not names or tensor in spec.statistics or not a[tensor].is_floating_point():
            continue
        for x, y in zip(spec.blocks(tensor, a[tensor].double()), spec.blocks(tensor, b[tensor].double()), strict=True):
            for j, term in enumerate(x.terms):
                if isinstance(term, Leaf) and term.group in sums and x.view.numel():
                    left, right = (view.movedim(j, 0).reshape(view.shape[j], -1) for view in (x.view, y.view))
                    sums[term.group] += torch.stack([(left * right).sum(1), left.square().sum(1), right.square().sum(1)])
    return {name: together / (one * other).sqrt().clamp(min=1e-30) for name, (together, one, other) in sums.items()}


def _keep_best(partners: Tensor, fits: Tensor, share: float) -> None:
    """Part the pairs that fit worst."""
    paired = (partners >= 0).nonzero()[:, 0]
    by_fit = paired[fits[paired].argsort(descending=True, stable=True)]
    partners[by_fit[round(share * len(by_fit)) :]] = -1


def _partners(group: NeuronGroup, spec_a: SymmetrySpec, spec_b: SymmetrySpec, element: Symmetry, known: Mapping[str, Tensor]) -> Tensor:
    """Members of b for each of a's; none inside parents that have no partners."""
    chain = spec_a.parents(group.name)
    index = element.action(group.name).index[tuple(slice(parent.size) for parent in chain)][..., : group.size]
    partners = torch.where(index < spec_b.groups[group.name].size, index, -1)
    for depth, parent in enumerate(chain):
        if parent.name in known:
            alone = known[parent.name] < 0
            partners[alone.reshape(*alone.shape, *[1] * (len(chain) - depth)).expand(partners.shape)] = -1
    return partners


def _places(
    group: NeuronGroup, spec_a: SymmetrySpec, spec_b: SymmetrySpec, partners: Mapping[str, Tensor], known: Mapping[str, Tensor]
) -> Tensor:
    """Where b's members stand: beside their partners, the others behind a's members, or in order where their parent is alone."""
    lead, count = [parent.size for parent in spec_b.parents(group.name)], spec_b.groups[group.name].size
    places = torch.arange(count).repeat(*lead, 1).reshape(*lead, count)
    for at, above in _met(group.name, spec_a, spec_b, known):
        mine = partners[group.name][above]
        taken = (mine >= 0).nonzero()[:, 0]
        free = torch.ones(count, dtype=torch.bool)
        free[mine[taken]] = False
        row = places[at]
        row[mine[taken]] = taken
        row[free] = len(mine) + torch.arange(int(free.sum()))
    return places


def _signs(
    spec_a: SymmetrySpec, spec_b: SymmetrySpec, element: Symmetry, partners: Mapping[str, Tensor], places: Mapping[str, Tensor]
) -> Symmetry:
    """The flips of b's members that make them agree with their partners."""
    made: dict[str, Action] = {}
    for name, index in partners.items():
        diagonal = element.action(name).diagonal
        if diagonal is None:
            continue
        flips = torch.ones(places[name].shape, dtype=torch.float64)
        for at, above in _met(name, spec_a, spec_b, places):
            paired = (index[above] >= 0).nonzero()[:, 0]
            flips[at][index[above][paired]] = diagonal[above][paired]
        made[name] = Action(torch.arange(flips.shape[-1]).expand(flips.shape), flips)
    return Symmetry(spec_b, made)


def _met(
    name: str, spec_a: SymmetrySpec, spec_b: SymmetrySpec, places: Mapping[str, Tensor]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each of b's parents of a group that has a partner: itself, and the partner."""
    chain = spec_b.parents(name)
    for at in itertools.product(*(range(parent.size) for parent in chain)):
        above = tuple(int(places[p.name][at[: d + 1]]) if p.name in places else at[d] for d, p in enumerate(chain))
        if all(spot < spec_a.groups[p.name].size for spot, p in zip(above, chain, strict=True)):
            yield at, above
