"""Degrees: by which power of a scale each axis of each tensor changes, as linear equations collected along the graph."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from typing import Literal

from weightspace.tracing.dims import Atom, Degree


class Equations:
    """Linear equations over the unknown degrees of the parameters' axes, over the integers for scales and modulo 2 for signs.

    Attributes:
        real: forms that vanish for a scale.
        parity: forms that are even for a sign.
        rigid: atoms whose coordinates some operation tells apart, so that no matrix may mix them; why: the parameter that
            multiplies them one by one, or "" for any other operation.
        round: atoms over which squares are summed, so that only orthogonal matrices may mix them.
        planes: atoms that count planes of two coordinates, each turned by an angle of its own.
        duals: unknowns of axes that stand on the consumer's side of a contraction.
        producers: unknowns of axes that stand on the producer's side, whatever else they do.
    """

    def __init__(self) -> None:
        self.real: list[Degree] = []
        self.parity: list[Degree] = []
        self.rigid: dict[Atom, set[str]] = {}
        self.round: set[Atom] = set()
        self.planes: set[Atom] = set()
        self.duals: set[int] = set()
        self.producers: set[int] = set()
        self._unknowns = count()

    def unknown(self) -> Degree:
        """A new unknown degree."""
        return {next(self._unknowns): 1}

    def vanish(self, form: Degree, *, real: bool = True, parity: bool = True) -> None:
        """Demand that a form is zero."""
        if form:
            self.real += [form] * real
            self.parity += [form] * parity

    def zero(self, form: Degree) -> Degree:
        """Demand that a scale and a sign do not act here."""
        self.vanish(form)
        return {}

    def add(self, one: Degree, other: Degree, weight: int = 1) -> Degree:
        """The degree of a product."""
        return {key: n for key in {**one, **other} if (n := one.get(key, 0) + weight * other.get(key, 0))}

    def equal(self, one: Degree, other: Degree) -> Degree:
        """Demand equal degrees, as in a sum."""
        self.vanish(self.add(one, other, -1))
        return one

    def cancel(self, one: Degree, other: Degree) -> Degree:
        """Demand that a product does not change when it is summed over the axis; the second is the consumer's side."""
        self.vanish(self.add(one, other))
        if list(other.values()) == [1]:
            self.duals.update(other)
        return {}

    def homogeneous(self, form: Degree) -> Degree:
        """The degree after a positively homogeneous function such as ReLU: scales pass, signs do not."""
        self.vanish(form, real=False)
        return form

    def magnitude(self, form: Degree) -> Degree:
        """The degree after an absolute value: scales pass, signs vanish."""
        found = self.unknown() if form else {}
        self.vanish(self.add(form, found, -1), parity=False)
        self.vanish(found, real=False)
        return found

    def odd(self, form: Degree) -> Degree:
        """The degree after an odd function such as tanh: signs pass, scales do not."""
        self.vanish(form, parity=False)
        return form

    def even(self, form: Degree) -> Degree:
        """The degree after an even function such as cosine: signs vanish, scales do not pass."""
        self.vanish(form, parity=False)
        return {}

    def power(self, form: Degree, exponent: int | float) -> Degree:
        """The degree after a power of positive values, or an integer power of any."""
        if float(exponent).is_integer():
            return {key: n * int(exponent) for key, n in form.items()} if exponent else {}
        ratio = Fraction(exponent).limit_denominator(12)
        if float(ratio) != float(exponent):
            return self.zero(form)
        found = self.unknown() if form else {}
        self.vanish({**{key: n * ratio.numerator for key, n in form.items()}, **{key: -ratio.denominator for key in found}}, parity=False)
        self.vanish(form, real=False)
        self.vanish(found, real=False)
        return found


def null_space(forms: Iterable[Degree], unknowns: Iterable[int], modulus: int | None = None) -> list[dict[int, Fraction]]:
    """A basis of the solutions of homogeneous linear equations, in the reduced form that elimination in the order of the unknowns gives.

    Args:
        forms: what vanishes.
        unknowns: which there are, besides those of the forms.
        modulus: 2 for equations modulo 2; rational otherwise.
    """
    rows: dict[int, dict[int, Fraction]] = {}  # by pivot; a row says pivot + rest = 0

    def reduced(form: Mapping[int, Fraction]) -> dict[int, Fraction]:
        out: dict[int, Fraction] = {}
        for key, n in form.items():
            for other, weight in rows[key].items() if key in rows else [(key, Fraction(1))]:
                out[other] = out.get(other, Fraction(0)) + n * weight
        return {key: value for key, n in out.items() if (value := n % modulus if modulus else n)}

    for form in forms:
        row = reduced({key: Fraction(n) for key, n in form.items()})
        if not row:
            continue
        pivot = max(row)
        scale = row.pop(pivot)
        rows[pivot] = {key: -n / scale for key, n in row.items()}
        rows = {key: reduced(other) for key, other in rows.items()}
    names = sorted(set(unknowns) | {key for row in rows.values() for key in row})
    free = [name for name in names if name not in rows]
    return [{one: Fraction(1), **{pivot: row[one] for pivot, row in rows.items() if one in row}} for one in free]


@dataclass(frozen=True)
class Solution:
    """The continuous symmetry of a group.

    Attributes:
        exponents: by which power each occurrence changes, by unknown; without an entry, as a permutation does.
    """

    symmetry: Literal["none", "sign", "scale", "rotation", "orthogonal", "linear"] = "none"
    exponents: Mapping[int, int] = field(default_factory=dict)


def solve(
    equations: Equations, unknowns: Mapping[Atom, Sequence[int]], statistics: set[int], gains: set[int], above: set[Atom]
) -> dict[Atom, Solution]:
    """Find for each group the strongest continuous symmetry, or signs, for which its occurrences have degrees.

    Args:
        equations: what the graph demands.
        unknowns: the degrees of each group's occurrences.
        statistics: degrees of running statistics.
        gains: degrees of parameters that multiply a value elementwise.
        above: groups per which others vary; a scale of theirs is one of their children.
    """
    real, parity = _by_atom(equations.real, unknowns), _by_atom(equations.parity, unknowns)
    out = {}
    for atom, mine in unknowns.items():
        if atom in above or not mine:
            out[atom] = Solution()
            continue
        pins = (statistics & set(mine), gains & set(mine), equations.duals - equations.producers)
        scale = _degrees(real[atom], mine, *pins)
        signs = _degrees(parity[atom], mine, *pins, modulus=2) if scale is None else None
        if atom not in equations.rigid and scale and atom not in equations.round and all(abs(n) == 1 for n in scale.values()):
            out[atom] = Solution("rotation" if atom in equations.planes else "linear", scale)
        elif atom.fixed:
            out[atom] = Solution()
        elif scale:
            out[atom] = Solution("scale", scale)
        elif signs and atom in equations.round and atom not in equations.rigid and all(signs.values()):
            out[atom] = Solution("orthogonal", signs)
        else:
            out[atom] = Solution("sign", signs) if signs else Solution()
    return out


def _degrees(
    forms: Sequence[Degree], unknowns: Sequence[int], statistics: set[int], gains: set[int], consumers: set[int], modulus: int | None = None
) -> dict[int, int] | None:
    """Degrees other than zero, preferably with running statistics and gains at rest; None where nothing says them.

    With gains at rest the first of several choices is taken (of the two factors of a gated unit one may change). Otherwise there
    has to be one only, and it has to reach every consumer: each normalisation of a stream has a gain that its next consumers may
    undo, which is no scale of the stream.
    """
    for still, several in ((statistics | gains, True), (statistics, False), (set[int](), False)):
        basis = null_space([*forms, *({key: 1} for key in still)], unknowns, modulus)
        basis = [vector for vector in basis if any(vector.get(key) for key in unknowns)]
        reaches = basis and all(basis[0].get(key) for key in unknowns if key in consumers)
        if basis and (several or (reaches and len(basis) == 1)):
            unit = math.lcm(*(n.denominator for n in basis[0].values()))
            found = {key: int(basis[0].get(key, 0) * unit) for key in unknowns}
            divisor = math.gcd(*found.values())
            leading = next((n for key, n in found.items() if n and key not in consumers), 1)
            return {key: n // divisor * (1 if leading > 0 else -1) for key, n in found.items()}
    return None


def _by_atom(forms: Sequence[Degree], unknowns: Mapping[Atom, Sequence[int]]) -> dict[Atom, list[Degree]]:
    """The equations that concern each atom, those over further unknowns that they lead to included."""
    link: dict[int, int] = {}

    def root(key: int) -> int:
        while link.get(key, key) != key:
            link[key] = link.get(link[key], link[key])
            key = link[key]
        return key

    for form in forms:
        first, *others = form
        for other in others:
            link[root(other)] = root(first)
    groups: dict[int, list[Degree]] = {}
    for form in forms:
        groups.setdefault(root(next(iter(form))), []).append(form)
    return {atom: [form for start in dict.fromkeys(map(root, mine)) for form in groups.get(start, ())] for atom, mine in unknowns.items()}
