"""The axis grammar: which neuron groups index one dimension of a tensor, parsed, printed, sized and unfolded.

A tensor's axes are written row-major, separated by spaces: `axis := term ('+' term)*`, `term := group | integer | '(' axis+ ')'`.
A product `(head dk)` is an ordered product of axes, a sum `a + b` lays ranges one after another, an integer is an anonymous
fixed axis. After a group, `'` marks the consumer's side (it transforms by the inverse transpose) and `^2` the power with which
a scale or a sign acts there: `h'`, `h^2`, `h^0`. The mark after a parenthesis is for every group inside: `(head dk)'`.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from weightspace.errors import SymmetryError, UnknownNameError

if TYPE_CHECKING:
    import torch

_END = r"(?![\w.'])"  # after a number, so that neither '2h' nor thousands of digits are read
_TOKEN = re.compile(
    rf"\s*(?:(?P<name>[A-Za-z_][\w.]*)(?P<dual>'?)(?:\^(?P<power>\d{{1,15}}){_END})?|(?P<size>\d{{1,15}}){_END}|(?P<mark>[(+]|\)'?))"
)
MAX_DEPTH = 32  # of nested parentheses
MAX_POWER = 8  # with which a scale acts: a running variance has 2, and far higher ones are slips that overflow


@dataclass(frozen=True)
class Leaf:
    """One occurrence of a neuron group.

    Attributes:
        group: the group's name.
        dual: whether it stands on the consumer's side, where a matrix acts as its inverse transpose and a scale as its inverse.
        power: how often a scale or a sign acts here: 1, for a running variance 2, for the gate of a gated linear unit 0.
    """

    group: str
    dual: bool = False
    power: int = 1

    @property
    def exponent(self) -> int:
        """Power of a scale, negative on the consumer's side."""
        return -self.power if self.dual else self.power

    def __str__(self) -> str:
        return self.group + "'" * self.dual + (f"^{self.power}" if self.power != 1 else "")


@dataclass(frozen=True)
class Fixed:
    """An anonymous axis whose order is not to be touched."""

    size: int

    def __str__(self) -> str:
        return str(self.size)


@dataclass(frozen=True)
class Product:
    """Axes multiplied into one, the last running fastest."""

    factors: tuple["Axis", ...]

    def __str__(self) -> str:
        return "(" + " ".join(f"({part})" if isinstance(part, Sum) else str(part) for part in self.factors) + ")"


@dataclass(frozen=True)
class Sum:
    """Ranges laid one after another on one axis."""

    terms: tuple["Axis", ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


Axis = Leaf | Fixed | Product | Sum
Term = Leaf | Fixed


def canonical(axis: Axis) -> Axis:
    """Bring an axis into its one form: nested products and sums flattened, neighbouring integers joined, single ones bare."""
    if isinstance(axis, Product):
        flat: list[Axis] = []
        for factor in map(canonical, axis.factors):
            for part in factor.factors if isinstance(factor, Product) else (factor,):
                if isinstance(part, Fixed) and flat and isinstance(flat[-1], Fixed):
                    flat[-1] = Fixed(flat[-1].size * part.size)
                else:
                    flat.append(part)
        flat = [part for part in flat if part != Fixed(1)]
        return Product(tuple(flat)) if len(flat) > 1 else flat[0] if flat else Fixed(1)
    if isinstance(axis, Sum):
        laid: list[Axis] = []
        for term in map(canonical, axis.terms):
            for part in term.terms if isinstance(term, Sum) else (term,):
                if isinstance(part, Fixed) and laid and isinstance(laid[-1], Fixed):
                    laid[-1] = Fixed(laid[-1].size + part.size)
                else:
                    laid.append(part)
        laid = [part for part in laid if part != Fixed(0)] or [Fixed(0)]
        return Sum(tuple(laid)) if len(laid) > 1 else laid[0]
    return axis


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[Axis, ...]:
    """Read the axes of one tensor.

    Raises:
        SymmetryError: the text does not follow the grammar.

    Example:
        >>> parse("(head dk) + (head dk) h'")
        (Sum(terms=(Product(factors=(Leaf(...), Leaf(...))), Product(factors=(Leaf(...), Leaf(...))))), Leaf(group='h', dual=True, power=1))
        >>> show(parse("((a b) 2 3) + 4 + 5"))
        '(a b 6) + 9'
    """
    tokens: list[re.Match[str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            rest = text[position:].strip()
            raise SymmetryError(f"axes '{text[:80]}' cannot be read at '{rest[:40]}'; expected groups, integers, '+' and parentheses")
        tokens.append(found)
        position = found.end()
    axes, used = _read_axes(text, tokens, 0, 0)
    if used < len(tokens):
        raise SymmetryError(f"axes '{text}' have a ')' that closes nothing; remove it")
    return axes


def _read_axes(text: str, tokens: list[re.Match[str]], at: int, depth: int) -> tuple[tuple[Axis, ...], int]:
    """Read axes up to the end or a closing parenthesis."""
    if depth > MAX_DEPTH:
        raise SymmetryError(f"axes '{text[:80]}' nest deeper than {MAX_DEPTH} parentheses; flatten them")
    axes: list[Axis] = []
    while at < len(tokens) and not _closes(tokens[at]):
        terms: list[Axis] = []
        while True:
            term, at = _read_term(text, tokens, at, depth)
            terms.append(term)
            if at == len(tokens) or tokens[at]["mark"] != "+":
                break
            at += 1
        axes.append(canonical(Sum(tuple(terms))))
    return tuple(axes), at


def _read_term(text: str, tokens: list[re.Match[str]], at: int, depth: int) -> tuple[Axis, int]:
    if at == len(tokens) or tokens[at]["mark"] == "+" or _closes(tokens[at]):
        found = "the end" if at == len(tokens) else f"'{tokens[at]['mark']}'"
        raise SymmetryError(f"axes '{text}' have {found} where a group, an integer or '(' was expected")
    token = tokens[at]
    if token["size"]:
        return Fixed(int(token["size"])), at + 1
    if token["name"]:
        leaf = Leaf(token["name"], bool(token["dual"]), int(token["power"] or 1))
        if leaf.power > MAX_POWER:
            raise SymmetryError(f"axes '{text[:80]}' have the power {leaf.power} at '{leaf.group}'; expected at most {MAX_POWER}")
        return leaf, at + 1
    factors, at = _read_axes(text, tokens, at + 1, depth + 1)
    if at == len(tokens):
        raise SymmetryError(f"axes '{text}' have a '(' that nothing closes; add ')'")
    if not factors:
        raise SymmetryError(f"axes '{text}' have empty parentheses; remove them, or write 1")
    made = canonical(Product(factors))
    return _dual(made) if tokens[at]["mark"] == ")'" else made, at + 1


def _closes(token: re.Match[str]) -> bool:
    return (token["mark"] or "").startswith(")")


def _dual(axis: Axis) -> Axis:
    """The other side of every group in an axis."""
    if isinstance(axis, Leaf):
        return Leaf(axis.group, not axis.dual, axis.power)
    if isinstance(axis, Product):
        return Product(tuple(map(_dual, axis.factors)))
    return Sum(tuple(map(_dual, axis.terms))) if isinstance(axis, Sum) else axis


def show(axes: Sequence[Axis]) -> str:
    """Print the axes of one tensor in the form that `parse` reads.

    Example:
        >>> show((Leaf("out"), Leaf("h", dual=True)))
        "out h'"
    """
    return " ".join(map(str, axes))


def leaves(axis: Axis) -> Iterator[Leaf]:
    """The occurrences of groups in an axis, from left to right."""
    if isinstance(axis, Leaf):
        yield axis
    for part in axis.factors if isinstance(axis, Product) else axis.terms if isinstance(axis, Sum) else ():
        yield from leaves(part)


def size(axis: Axis, sizes: Mapping[str, int]) -> int:
    """How many elements an axis counts, given the sizes of the groups.

    Raises:
        UnknownNameError: a group has no size.

    Example:
        >>> size(parse("(head dk) + 3")[0], {"head": 2, "dk": 4})
        11
    """
    if isinstance(axis, Fixed):
        return axis.size
    if isinstance(axis, Leaf):
        if axis.group not in sizes:
            raise UnknownNameError.of("neuron group", axis.group, sizes)
        return sizes[axis.group]
    if isinstance(axis, Product):
        return math.prod(size(factor, sizes) for factor in axis.factors)
    return sum(size(term, sizes) for term in axis.terms)


@dataclass(frozen=True)
class Block:
    """A part of a tensor in which every dimension is one term.

    Attributes:
        view: the part, a view of the tensor: what is written to it is written to the tensor.
        terms: what each dimension of the view is indexed by.
        origins: the axis of the tensor that each dimension comes from.
    """

    view: "torch.Tensor"
    terms: tuple[Term, ...]
    origins: tuple[int, ...]

    def where(self, group: str) -> tuple[int, ...]:
        """The dimensions that a group indexes."""
        return tuple(j for j, term in enumerate(self.terms) if isinstance(term, Leaf) and term.group == group)


def blocks(tensor: "torch.Tensor", axes: Sequence[Axis], sizes: Mapping[str, int]) -> list[Block]:
    """Unfold products and cut sums until every dimension of every part is one term.

    A sum of k equal terms is not cut: it becomes a fixed dimension of size k before the term, so `m + m` is `2 m`.

    Args:
        tensor: one whose shape is the sizes of the axes.
        axes: what indexes each of its dimensions.
        sizes: of the groups.

    Returns:
        Views which together cover the tensor, each element once.
    """
    found: list[Block] = []
    pending: list[tuple[torch.Tensor, tuple[Axis, ...], tuple[int, ...]]] = [(tensor, tuple(axes), tuple(range(len(axes))))]
    while pending:
        view, parts, origins = pending.pop()
        at = next((j for j, part in enumerate(parts) if isinstance(part, (Product, Sum))), None)
        if at is None:
            found.append(Block(view, tuple(part for part in parts if isinstance(part, (Leaf, Fixed))), origins))
            continue
        part, before, after = parts[at], parts[:at], parts[at + 1 :]
        factors = _equal_terms(part)
        if factors:
            lengths = [size(factor, sizes) for factor in factors]
            origin = (*origins[:at], *(origins[at] for _ in factors), *origins[at + 1 :])
            pending.append((view.view(*view.shape[:at], *lengths, *view.shape[at + 1 :]), (*before, *factors, *after), origin))
        elif isinstance(part, Sum):
            starts, start = [], 0
            for term in part.terms:
                starts.append((start, size(term, sizes), term))
                start += starts[-1][1]
            for start, length, term in reversed(starts):
                pending.append((view.narrow(at, start, length), (*before, term, *after), origins))
    return found


def _equal_terms(part: Axis) -> tuple[Axis, ...]:
    """The factors of a product, or of a sum whose terms are all equal."""
    if isinstance(part, Product):
        return part.factors
    if isinstance(part, Sum) and len(set(part.terms)) == 1:
        return (Fixed(len(part.terms)), part.terms[0])
    return ()
