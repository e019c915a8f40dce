"""Degrees: by which power of a scale each axis of each tensor changes, as linear equations collected along the graph."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import count

from weightspace.tracing.dims import Atom, Degree


class Equations:
    """Linear equations over the unknown degrees of the parameters' axes, over the integers for scales and modulo 2 for signs.

    Attributes:
        real: forms that vanish for a scale.
        parity: forms that are even for a sign.
        rigid: atoms whose coordinates some operation tells apart, so that no matrix may mix them.
        duals: unknowns of axes that stand on the consumer's side of a contraction.
    """

    def __init__(self) -> None:
        self.real: list[Degree] = []
        self.parity: list[Degree] = []
        self.rigid: set[Atom] = set()
        self.duals: set[int] = set()
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

    def power(self, form: Degree, exponent: float) -> Degree:
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
        rows = {key: other | {pivot: Fraction(0)} if pivot in other else other for key, other in rows.items()}
        rows[pivot] = {key: -n / scale for key, n in row.items()}
        rows = {key: reduced(other) for key, other in rows.items()}
    names = sorted(set(unknowns) | {key for row in rows.values() for key in row})
    free = [name for name in names if name not in rows]
    return [{one: Fraction(1), **{pivot: row[one] for pivot, row in rows.items() if one in row}} for one in free]
