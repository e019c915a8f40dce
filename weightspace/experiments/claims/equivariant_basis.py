"""That the equivariant linear maps between weights are one for each way in which axes may share an index."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import torch

from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.metanets.equivariant.basis import Basis
from weightspace.metanets.layout import Layout
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

SHAPES: Mapping[str, Mapping[str, str]] = {
    "perceptron": {"fc1.weight": "h a", "fc1.bias": "h", "fc2.weight": "k h'", "fc2.bias": "k", "fc3.weight": "b k'", "fc3.bias": "b"},
    "recurrent": {"in.weight": "h a", "step.weight": "h h'", "bias": "h"},
}


@claim(
    "equivariant-basis",
    statement="The linear maps between weights that commute with all permutations of neurons are spanned by one map for each partition of axes of one group.",
    source="Zhou et al., Universal Neural Functionals, arXiv:2402.05232, algorithm 1; Navon et al., arXiv:2301.12780",
    topic="metanets",
)
def equivariant_basis(seeds: Sequence[int]) -> Iterator[Finding]:
    """Count maps of the derived basis, and the dimension of what commutes as the mean of squared characters over the whole group."""
    apart, dropped = [], []
    for seed in seeds:
        chance = random.Random(seed)
        sizes = {"a": chance.choice((2, 3)), "b": chance.choice((2, 3)), "h": 4, "k": chance.choice((2, 3))}
        counts, truth = zip(*(_counted(named, sizes) for named in SHAPES.values()), strict=True)
        apart.append(float(sum(abs(one - other) for one, other in zip(counts, truth, strict=True))))
        dropped.append(float(sum(truth) - sum(_pooled(named, sizes) for named in SHAPES.values())))
    yield at_most("maps of the basis less those that there are", apart, 0.0)
    yield at_least("maps that there are, less those of the basis that read and write no diagonal", dropped, 1.0)


def _counted(named: Mapping[str, str], sizes: Mapping[str, int]) -> tuple[int, Fraction]:
    """Maps of the basis; and the dimension of the commutant."""
    spec = SymmetrySpec.parse(dict(named), sizes={group: sizes[group] for group in _groups(named)})
    basis = Basis.of(Layout.of(spec))
    ours = sum(basis.count(one, other) for one in basis.frames for other in basis.frames)
    places = {name: torch.arange(1.0, 1 + torch.Size(spec.shape(name)).numel()).reshape(spec.shape(name)) for name in spec.tensors}
    groups = list(spec.sizes)
    total, count = 0, 0
    for orders in itertools.product(*(itertools.permutations(range(spec.sizes[group])) for group in groups)):
        moved = act(spec.element({group: list(order) for group, order in zip(groups, orders, strict=True)}), places)
        total += sum(int((moved[name] == one).sum()) for name, one in places.items()) ** 2
        count += 1
    return ours, Fraction(total, count)


def _pooled(named: Mapping[str, str], sizes: Mapping[str, int]) -> int:
    """Maps that neither read nor write a diagonal."""
    spec = SymmetrySpec.parse(dict(named), sizes={group: sizes[group] for group in _groups(named)})
    plain = [
        sum(all(len(cell) == 1 for cell in (*p.cells, *p.rest)) for p in term.reads)
        * sum(all(len(cell) == 1 for cell in (*p.cells, *p.rest)) for p in term.writes)
        for term in Basis.of(Layout.of(spec)).terms
    ]
    return sum(plain)


def _groups(named: Mapping[str, str]) -> list[str]:
    return sorted({axis.strip("'") for axes in named.values() for axis in axes.split()})
