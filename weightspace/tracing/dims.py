"""Dimensions of the values in a graph: sums of products of atoms, which unite, split and become fixed as the graph is read."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

_serial = count()

# A linear form over the unknown degrees of the parameters' axes (see degrees.py).
Degree: TypeAlias = Mapping[int, int]
ZERO: Degree = {}


class Atom:
    """A set of indices that permutes as a whole or not at all: a node of a union-find, expanded where a finer structure shows.

    Attributes:
        size: how many indices, at least 2.
        fixed: whether their order has a meaning.
        uniform: whether the value it was made for is constant along it (zeros, an expanded dimension), so that it demands nothing.
        parts: the finer dimension of the same size that it turned out to be.
    """

    __slots__ = ("fixed", "link", "parts", "serial", "size", "uniform")

    def __init__(self, size: int, *, fixed: bool = False, uniform: bool = False) -> None:
        self.size, self.fixed, self.uniform = size, fixed, uniform
        self.link: Atom | None = None
        self.parts: Dim | None = None
        self.serial = next(_serial)

    @property
    def root(self) -> "Atom":
        """The atom that stands for all it was united with."""
        found = self
        while found.link is not None:
            found = found.link
        if found is not self:
            self.link = found
        return found

    def __repr__(self) -> str:
        return f"{'fixed' if self.fixed else 'atom'} {self.root.serial} of {self.size}"


@dataclass(frozen=True, slots=True)
class Factor:
    """An atom in a dimension, with the degree by which a scale acts on the value there.

    Attributes:
        inner: for an atom that is a sum and not the first of its product, the terms of that sum with degrees of their own.
    """

    atom: Atom
    degree: Degree = field(default_factory=dict)
    inner: "Dim | None" = None


Term: TypeAlias = tuple[Factor, ...]  # a product, the last running fastest; a single index is the empty product
Dim: TypeAlias = tuple[Term, ...]  # a sum: terms laid one after another
ONE: Dim = ((),)


def dim(atom: Atom | None) -> Dim:
    """The dimension that is one atom; None is a single index."""
    return ONE if atom is None else ((Factor(atom),),)


def new(size: int, *, fixed: bool = False, uniform: bool = False) -> Dim:
    """A dimension of a new atom."""
    return () if size == 0 else ONE if size == 1 else dim(Atom(size, fixed=fixed, uniform=uniform))


def term_size(term: Iterable[Factor]) -> int:
    """How many indices a product counts."""
    return math.prod(factor.atom.size for factor in term)


def size(terms: Dim) -> int:
    """How many indices a dimension counts."""
    return sum(map(term_size, terms))


def is_uniform(terms: Dim) -> bool:
    """Whether the value is known to be constant along a dimension."""
    return len(terms) == 1 and all(factor.atom.root.uniform for factor in terms[0])


def resolve(terms: Dim) -> Dim:
    """Replace every atom by what it has become; a sum that does not stand first in its product stays one factor."""
    return tuple(found for term in terms for found in _resolve_term(term))


def _resolve_term(term: Term) -> Dim:
    out: list[Term] = [()]
    for factor in term:
        atom = factor.atom.root
        parts = factor.inner if factor.inner is not None else atom.parts
        if parts is None:
            leaf = factor if factor.atom is atom else Factor(atom, factor.degree)
            out = [(*begin, leaf) for begin in out]
            continue
        parts = resolve(parts)
        if len(parts) == 1:
            out = [begin + parts[0] for begin in out]
        else:
            out = [made for begin in out for made in (parts if not begin else [(*begin, Factor(atom, inner=parts))])]
    return tuple(out)


def leaves(terms: Dim) -> Iterator[Factor]:
    """The atoms of a resolved dimension that are nothing finer, from left to right."""
    for term in terms:
        for factor in term:
            if factor.inner is None:
                yield factor
            else:
                yield from leaves(factor.inner)


def fix(terms: Dim) -> None:
    """Declare that the order of a dimension has a meaning."""
    for term in terms:
        for factor in term:
            _fix_atom(factor.atom.root)


def _fix_atom(atom: Atom) -> None:
    if not atom.fixed:
        atom.fixed = True
        if atom.parts is not None:
            fix(atom.parts)


def expand(atom: Atom, parts: Dim) -> None:
    """State that an atom is a finer dimension of the same size."""
    atom = atom.root
    if atom.parts is not None:
        unify(atom.parts, parts)
    else:
        atom.parts = parts
    if atom.fixed:
        fix(parts)


def _unite(one: Atom, other: Atom) -> None:
    one, other = one.root, other.root
    if one is other:
        return
    if one.parts is not None and other.parts is None:
        one, other = other, one
    one.link = other
    other.uniform = one.uniform and other.uniform
    if one.fixed:
        _fix_atom(other)
    if other.fixed and one.parts is not None:
        fix(one.parts)
    if one.parts is not None and other.parts is not None:
        unify(one.parts, other.parts)


def unify(one: Dim, other: Dim) -> None:
    """State that two dimensions are indexed alike: atoms of both are united, the longer split; where they cannot be split alike, both are fixed.

    Raises:
        ValueError: the sizes differ.
    """
    if size(one) != size(other):
        raise ValueError(f"dimensions of {size(one)} and {size(other)} indices cannot be one")
    left, right = list(one)[::-1], list(other)[::-1]
    while left and right:
        for pending in (left, right):
            pending += resolve((pending.pop(),))[::-1]
        term, against = left.pop(), right.pop()
        if term_size(term) == term_size(against):
            _unify_terms(term, against)
            continue
        longer, shorter = (left, right) if term_size(term) > term_size(against) else (right, left)
        long, short = (term, against) if longer is left else (against, term)
        _split_at(long, term_size(short))
        longer += resolve((long,))[::-1]
        shorter.append(short)


def _unify_terms(one: Term, other: Term) -> None:
    """Unite two products of one size, from the factor that runs fastest."""
    while one and other:
        left, right = resolve((one,)), resolve((other,))
        if len(left) > 1 or len(right) > 1:  # a split made the first factor a sum
            return unify(left, right)
        (one,), (other,) = left, right
        a, b = one[-1].atom, other[-1].atom
        if a.size == b.size:
            _unite(a, b)
            one, other = one[:-1], other[:-1]
        elif a.size % b.size == 0:
            one = one[:-1] + _split_tail_atom(a, b)
        elif b.size % a.size == 0:
            other = other[:-1] + _split_tail_atom(b, a)
        else:
            fix((one,))
            fix((other,))
            return None
    return None


def _split_tail_atom(atom: Atom, tail: Atom) -> Term:
    """Write an atom as a product that ends in a smaller one."""
    pair = (Factor(Atom(atom.size // tail.size, fixed=atom.fixed, uniform=atom.uniform)), Factor(tail))
    expand(atom, (pair,))
    return pair


def _split_at(term: Term, position: int) -> None:
    """Split the first factor of a resolved product so that a border between terms comes nearer to a position inside it."""
    head, rest = term[0].atom, term_size(term[1:])
    before, inside = divmod(position, rest)
    sizes = [before, 1, head.size - before - 1] if inside else [before, head.size - before]
    expand(head, tuple(part for n in sizes for part in new(n, fixed=head.fixed)))


def cut(terms: Dim, start: int, stop: int) -> Dim:
    """The part of a dimension from one index up to another."""
    if is_uniform(resolve(terms)):
        return new(stop - start, uniform=True)
    out: list[Term] = []
    position, pending = 0, list(terms)[::-1]
    while pending:
        pending += resolve((pending.pop(),))[::-1]
        term = pending.pop()
        end = position + term_size(term)
        border = next((at for at in (start, stop) if position < at < end), None)
        if border is not None:
            _split_at(term, border - position)
            pending.append(term)
            continue
        if start <= position and end <= stop and end > position:
            out.append(term)
        position = end
    return tuple(out)


def product(dims: Sequence[Dim]) -> Dim:
    """Dimensions merged into one, the last running fastest."""
    out: Dim = ONE
    for terms in map(resolve, dims):
        if out == ONE:
            out = terms
        elif len(terms) == 1:
            out = tuple(begin + terms[0] for begin in out)
        else:
            whole = Atom(size(terms))
            whole.parts = terms
            out = tuple((*begin, Factor(whole, inner=terms)) for begin in out)
    return out


def split_tail(terms: Dim, tail: int) -> tuple[Dim, Dim]:
    """Write a dimension as a product of two, the second of a given size; both are fixed where that cannot be followed."""
    terms = resolve(terms)
    total = size(terms)
    if tail in (1, total):
        return (terms, ONE) if tail == 1 else (ONE, terms)
    if is_uniform(terms):
        return new(total // tail, uniform=True), new(tail, uniform=True)
    pieces = [_split_term(term, tail) for term in terms] if all(term_size(term) % tail == 0 for term in terms) else [None]
    if not all(pieces):
        fix(terms)
        return new(total // tail, fixed=True), new(tail, fixed=True)
    fronts, tails = zip(*(piece for piece in pieces if piece), strict=True)
    for other in tails[1:]:
        unify(tails[0], other)
    return resolve(tuple(term for front in fronts for term in front)), resolve(tails[0])


def _split_term(term: Term, tail: int) -> tuple[Dim, Dim] | None:
    """Split a product whose size the tail divides; None where a factor cannot be split so."""
    held: Term = ()
    while tail > 1:
        (term,) = found if len(found := resolve((term,))) == 1 else (term,)
        last = term[-1]
        if tail % last.atom.size == 0:
            held, tail, term = (last, *held), tail // last.atom.size, term[:-1]
        elif last.inner is None and last.atom.size % tail == 0:
            pair = _split_tail_atom(last.atom, Atom(tail, fixed=last.atom.fixed, uniform=last.atom.uniform))
            return resolve(((*term[:-1], pair[0]),)), resolve(((pair[1], *held),))
        else:
            return None
    return resolve((term,)), resolve((held,))


def reshape(dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
    """The dimensions of a value read row-major in another shape."""
    out: list[Dim] = []
    for old, sizes in groups([size(terms) for terms in dims], shape):
        front = product([dims[j] for j in old])
        found: list[Dim] = []
        for n in reversed(sizes[1:]):
            front, tail = split_tail(front, n)
            found.insert(0, tail)
        out += ([front] if sizes else []) + found
    return out


def groups(old: Sequence[int], new_shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair runs of old dimensions (their positions) with runs of new sizes that have the same product."""
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new_shape):
        if j < len(new_shape) and new_shape[j] == 1:
            out.append(([], [1]))
            j += 1
            continue
        if i < len(old) and old[i] == 1:
            i += 1
            continue
        run, sizes, a, b = [i], [new_shape[j]], old[i], new_shape[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= old[i]
                run.append(i)
                i += 1
            else:
                b *= new_shape[j]
                sizes.append(new_shape[j])
                j += 1
        out.append((run, sizes))
    return out
