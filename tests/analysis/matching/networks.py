"""Small architectures of every kind of group, with weights drawn by code, that the matching tests share."""

from typing import Any

import torch
from torch import Tensor

from weightspace.spec import SymmetrySpec


def chain(width: int = 12, depth: int = 3, symmetry: str = "none") -> SymmetrySpec:
    """A multi-layer perceptron 6 -> width ... -> 4."""
    rows: dict[str, str] = {}
    for i in range(depth + 1):
        out, before = (f"h{i}" if i < depth else "4"), (f"h{i - 1}'" if i else "6")
        rows |= {f"{i}.weight": f"{out} {before}", f"{i}.bias": out}
    return SymmetrySpec.parse(rows, groups={f"h{i}": {"size": width, "symmetry": symmetry} for i in range(depth)})


def residual() -> SymmetrySpec:
    """A residual stream with a block inside, normalised, and a tensor with the stream on both axes."""
    rows = {"stem": "c 3 3 3", "norm": "c", "mean": "c", "up": "m c' 3 3", "down": "c m' 3 3", "mix": "c c' 1 1", "head": "5 c'"}
    return SymmetrySpec.parse(rows, sizes={"c": 10, "m": 14}, statistics=["mean"])


def attention() -> SymmetrySpec:
    """Heads with grouped queries, values inside, a gated unit and a residual stream."""
    rows = {
        "embed": "20 d",
        "q": "(kv rep 4) d'",
        "k": "(kv 4) d'",
        "v": "(kv dv) d'",
        "o": "d (kv rep dv)'",
        "gate_up": "m^0 + m d'",
        "down": "d m'",
        "head": "20 d'",
    }
    groups: dict[str, Any] = {
        "d": {"size": 16},
        "kv": {"size": 3},
        "rep": {"size": 2, "per": "kv"},
        "dv": {"size": 5, "per": "kv", "symmetry": "linear"},
        "m": {"size": 11},
    }
    return SymmetrySpec.parse(rows, groups=groups)


def heads() -> SymmetrySpec:
    """Plain attention: nothing couples the query-key dimensions with the value-output ones."""
    rows = {"embed": "20 d", "q": "(head dk) d'", "k": "(head dk') d'", "v": "(head dv) d'", "o": "d (head dv)'", "head": "20 d'"}
    inside: dict[str, Any] = {"size": 6, "per": "head", "symmetry": "linear"}
    groups: dict[str, Any] = {"d": {"size": 16, "symmetry": "orthogonal"}, "head": {"size": 4}, "dk": inside, "dv": inside}
    return SymmetrySpec.parse(rows, groups=groups)


ARCHITECTURES = {
    "chain": chain(),
    "odd chain": chain(symmetry="sign"),
    "residual": residual(),
    "attention": attention(),
    "heads": heads(),
}


def draw(spec: SymmetrySpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Standard normal weights of a spec's shapes."""
    return {name: torch.randn(spec.shape(name), generator=generator) for name in spec.tensors}


def noisy(weights: dict[str, Tensor], noise: float, generator: torch.Generator) -> dict[str, Tensor]:
    """The weights with normal noise added."""
    return {name: tensor + noise * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}
