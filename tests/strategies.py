"""Small random axes, specs and state dicts for hypothesis to draw from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from weightspace.axes import Axis, Fixed, Leaf, Product, Sum
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict

names = st.sampled_from(["a", "b2", "layers.0.mlp", "_c", "head"])
seeds = st.integers(0, 2**31)


def axes(depth: int = 3, marks: bool = True) -> st.SearchStrategy[Axis]:
    """Axes nested to a depth, not canonical."""
    leaf = st.builds(Leaf, names, st.booleans(), st.integers(0, 3)) if marks else st.builds(Leaf, names)
    terms: st.SearchStrategy[Axis] = st.one_of(leaf, st.builds(Fixed, st.integers(0, 4)))
    for _ in range(depth):
        parts = st.lists(terms, min_size=1, max_size=3).map(tuple)
        terms = st.one_of(terms, st.builds(Product, parts), st.builds(Sum, parts))
    return terms


def seeded(seed: int) -> torch.Generator:
    """A generator that starts at a seed."""
    return torch.Generator().manual_seed(seed)


def state_of(spec: SymmetrySpec, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Random weights for a spec, tied tensors tied, with an integer tensor besides."""
    generator = seeded(seed)
    state = {name: torch.randn(spec.shape(name), generator=generator, dtype=torch.float64).to(dtype) for name in spec.tensors}
    state |= {name: state[owner] for name, owner in spec.aliases.items()}
    return {**state, "steps": torch.tensor([3, 1, 2])}


@dataclass(frozen=True)
class Draft:
    """What a spec is made of, as text and plain values; run-time type checks must not happen inside strategies."""

    tensors: Mapping[str, str]
    groups: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, str]

    @property
    def spec(self) -> SymmetrySpec:
        """The spec."""
        return SymmetrySpec.parse(self.tensors, groups=self.groups, aliases=self.aliases)


ROWS = {
    "q": "(kv rep dk) + (kv dv) s'",
    "o": "s (kv rep dk)'",
    "v": "s' (kv dv)'",
    "rotary": "(kv (f + f)) s'",
    "rotary out": "s (kv f 2)'",
    "gate": "h^0 + h s'",
    "down": "s h'",
    "var": "h^2",
    "experts": "kv (dv + 2) h'",  # a parent on another axis
    "recurrent": "h + h h'",
    "equal": "dv + dv kv 3",
    "scalar": "",
}


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Specs with products, sums, powers, ties, parents two deep, on the same axis and on another, and every symmetry."""
    sizes, kinds = st.integers(1, 4), st.sampled_from(["permutable", "permutable", "fixed"])
    plain, every = st.sampled_from(["none", "sign", "scale"]), st.sampled_from(["none", "sign", "scale", "orthogonal", "linear"])

    def group(symmetries: st.SearchStrategy[str], per: str | None = None, kind: str | None = None) -> dict[str, Any]:
        return {"size": draw(sizes), "kind": kind or draw(kinds), "symmetry": draw(symmetries), "per": per}

    groups = {
        "h": group(plain),
        "kv": group(plain),
        "rep": group(plain, "kv"),
        "dk": group(every, "rep", "permutable"),
        "dv": group(every, "kv", "permutable"),
        "s": group(every, None, "permutable"),
        "f": group(st.just("rotation"), "kv"),
    }
    rows = {"embed": "5 s"} | {name: row for name, row in ROWS.items() if draw(st.booleans())}
    return Draft(rows, groups, {"head": "embed"} if draw(st.booleans()) else {})


def same(a: StateDict, b: StateDict, *, tolerance: float = 1e-9) -> bool:
    """Whether two state dicts have the same names and, up to rounding, values."""
    return list(a) == list(b) and all(torch.allclose(a[name].double(), b[name].double(), rtol=tolerance, atol=tolerance) for name in a)
