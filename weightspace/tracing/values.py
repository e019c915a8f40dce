"""Values: what a tensor in the graph is indexed by, and degrees followed along its dimensions."""

from collections.abc import Callable, Mapping, Sequence

from weightspace.tracing.dims import ONE, Dim, Factor, is_uniform, resolve, size


class Value:
    """What a tensor in the graph is indexed by.

    Attributes:
        zero: whether it holds zeros only.
        held: the name of the parameter or buffer that it is.
        slices: the parts that it was stacked from along the first dimension, each with dimensions of its own.
    """

    slices: Sequence["Value"] = ()

    def __init__(self, dims: list[Dim], *, zero: bool = False, held: str | None = None) -> None:
        self._dims, self.zero, self.held = dims, zero, held

    @property
    def dims(self) -> list[Dim]:
        """Its dimensions."""
        return self._dims

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its dimensions."""
        return tuple(map(size, self.dims))

    def __len__(self) -> int:
        return len(self.dims)


def held_dim(terms: Dim) -> bool:
    """Whether a value varies along a dimension: not one index, not constant."""
    return terms != ONE and not is_uniform(resolve(terms))


def mapped(terms: Dim, change: Callable[[Mapping[int, int]], Mapping[int, int]]) -> Dim:
    """A dimension with every degree changed."""
    return tuple(
        tuple(
            Factor(factor.atom, change(factor.degree)) if factor.inner is None else Factor(factor.atom, inner=mapped(factor.inner, change))
            for factor in term
        )
        for term in terms
    )


def paired(one: Dim, other: Dim, join: Callable[[Mapping[int, int], Mapping[int, int]], Mapping[int, int]]) -> Dim | None:
    """Join the degrees of two dimensions leaf by leaf; None where they are not laid out alike."""
    if [len(term) for term in one] != [len(term) for term in other]:
        return None
    out = []
    for term, against in zip(one, other, strict=True):
        factors = []
        for a, b in zip(term, against, strict=True):
            if a.inner is not None and b.inner is not None:
                inner = paired(a.inner, b.inner, join)
                if inner is None:
                    return None
                factors.append(Factor(a.atom, inner=inner))
            elif a.atom.root is b.atom.root and a.inner is b.inner:
                factors.append(Factor(a.atom.root, join(a.degree, b.degree)))
            else:
                return None
        out.append(tuple(factors))
    return tuple(out)
