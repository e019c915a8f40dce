"""Which atoms stand beside which in every value: what a group may vary per."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product

from weightspace.tracing.dims import Atom, Dim, resolve


def companions(witnesses: Iterable[Sequence[Dim]], turning: Collection[Atom] = ()) -> dict[Atom, set[Atom]]:
    """For each atom those that stand beside it, once, wherever it stands.

    An atom may vary per such a companion: every value knows which of the companion's members an entry belongs to. A companion
    that stands twice would leave it open which of the two is meant, so it does not count.

    Args:
        witnesses: the dimensions of every value.
        turning: atoms whose members do not move but may be changed.
    """
    found: dict[Atom, set[Atom]] = {}
    seen: set[tuple[tuple[tuple[Atom, ...], ...], ...]] = set()
    for dims in witnesses:
        value = tuple(_paths(resolve(terms), turning) for terms in dims)
        if value in seen:
            continue
        seen.add(value)
        counts = [[Counter(path) for path in paths] for paths in value]
        for k, paths in enumerate(counts):
            for path in paths:
                near = _near(path, counts[:k] + counts[k + 1 :]) if path else set()
                for atom in path:
                    here = near - {atom}
                    found[atom] = found[atom] & here if atom in found else here
    return found


def _paths(terms: Dim, turning: Collection[Atom]) -> tuple[tuple[Atom, ...], ...]:
    """The atoms that may move which an index of a dimension belongs to, for each choice of terms."""
    out: dict[tuple[Atom, ...], None] = {}
    for term in terms:
        choices = [
            _paths(factor.inner, turning)
            if factor.inner is not None
            else ((() if factor.atom.fixed and factor.atom not in turning else (factor.atom,)),)
            for factor in term
        ]
        for chosen in product(*choices):
            out[tuple(atom for part in chosen for atom in part)] = None
    return tuple(out)


def _near(path: Counter[Atom], others: Sequence[Sequence[Counter[Atom]]]) -> set[Atom]:
    """Atoms that stand exactly once beside a path, whatever the terms of the other dimensions."""
    candidates = set(path).union(*(set(paths[0]) for paths in others if paths))
    return {
        atom
        for atom in candidates
        if path[atom] + sum(min(p[atom] for p in paths) for paths in others if paths) == 1
        and path[atom] + sum(max(p[atom] for p in paths) for paths in others if paths) == 1
    }


def unpaired(witnesses: Iterable[Sequence[Dim]], planes: Collection[Atom]) -> set[Atom]:
    """Atoms of planes of which some value holds one coordinate without the other: turning them would mix what is kept apart."""
    return {atom for dims in witnesses for terms in dims for atom in _single(resolve(terms), planes)} if planes else set()


def _single(terms: Dim, planes: Collection[Atom]) -> Iterator[Atom]:
    k = 0
    while k < len(terms):
        term = terms[k]
        for factor in term:
            if factor.inner is not None:
                yield from _single(factor.inner, planes)
        atoms = [factor.atom for factor in term]
        if any(atom in planes for atom in atoms):
            if k + 1 < len(terms) and [factor.atom for factor in terms[k + 1]] == atoms:
                k += 1
            else:
                yield from (atom for atom in atoms if atom in planes)
        k += 1
