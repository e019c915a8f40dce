"""Small networks, and specs of them, that proofs are tried on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.spec import SymmetrySpec

MLP = {"0.weight": "a 5", "0.bias": "a", "2.weight": "b a'", "2.bias": "b", "4.weight": "3 b'", "4.bias": "3"}
INPUT = torch.zeros(4, 5)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def mlp(activation: Callable[[], nn.Module], last: Callable[[], nn.Module] | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 6), (last or activation)(), nn.Linear(6, 3))


def mlp_spec(rows: dict[str, str] | None = None, **symmetries: str) -> SymmetrySpec:
    groups = {"a": {"size": 7, "symmetry": symmetries.get("a", "none")}, "b": {"size": 6, "symmetry": symmetries.get("b", "none")}}
    return SymmetrySpec.parse({**MLP, **(rows or {})}, groups=groups)


class Attention(nn.Module):
    """Two heads, values and keys of three."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6, bias) for _ in range(3))
        self.o = nn.Linear(6, 4, bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 3)).transpose(-2, -3) for part in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(-2, -3).flatten(-2))  # type: ignore[no-any-return]


def attention_spec(bias: bool = False, **symmetries: str) -> SymmetrySpec:
    rows = {"q": "(h k)", "k": "(h k')", "v": "(h v)", "o": "4"}
    tensors = {f"{name}.weight": f"{row} {'6' if name != 'o' else chr(40) + 'h v' + chr(39) + chr(41)}" for name, row in rows.items()}
    tensors |= {f"{name}.bias": row for name, row in rows.items()} if bias else {}
    groups: dict[str, Any] = {"h": {"size": 2}} | {
        name: {"size": 3, "per": "h", "symmetry": symmetries.get(name, "none")} for name in ("k", "v")
    }
    return SymmetrySpec.parse(tensors, groups=groups)


class Normed(nn.Module):
    """A residual stream under RMSNorm, computed in float32 as language models do."""

    def __init__(self, entering: int = 7, gains: bool = False) -> None:
        super().__init__()
        self.e, self.a, self.b, self.o = (nn.Linear(*widths, bias=False) for widths in ((entering, 5), (5, 6), (6, 5), (5, 3)))
        self.g, self.g2 = (nn.Parameter(torch.ones(5)) if gains else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        x = x + self.b(nn.functional.gelu(self.a(self._normed(x, self.g))))
        return self.o(self._normed(x, self.g2))  # type: ignore[no-any-return]

    def _normed(self, x: Tensor, gain: Tensor | None) -> Tensor:
        wide = x.to(torch.float32)
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return normed if gain is None else normed * gain


def normed_spec(entering: int = 7, gains: bool = False, symmetry: str = "orthogonal") -> SymmetrySpec:
    rows = {"e.weight": f"s {entering}", "a.weight": "m s'", "b.weight": "s m'", "o.weight": "3 s'"} | (
        {"g": "s", "g2": "s"} if gains else {}
    )
    return SymmetrySpec.parse(rows, groups={"s": {"size": 5, "symmetry": symmetry}, "m": {"size": 6}})


class LowRank(nn.Module):
    """A weight with a low-rank update beside it, under a non-linearity each."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.down, self.up = (nn.Parameter(torch.zeros(shape)) for shape in ((4, 6), (2, 6), (4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w.T) + x @ self.down.T @ self.up.T


LOW_RANK = SymmetrySpec.parse({"w": "4 6", "down": "r 6", "up": "4 r'"}, groups={"r": {"size": 2, "symmetry": "linear"}})


class Tied(nn.Module):
    """A language model in small: a lookup table that is also the last layer, and outputs of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("frequencies", torch.arange(1, 7).float(), persistent=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> Any:
        x = self.norm(self.embed(tokens)) * mask[..., None]
        return {"logits": self.head(x), "pooled": (x.pow(2).mean((1, 2)), [mask]), "guess": self.head(x).argmax(-1)}


class BatchNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x))))  # type: ignore[no-any-return]


BATCH_NORMED = {"conv.weight": "c^0 2 3 3", "conv.bias": "c^0", "norm.weight": "c", "norm.bias": "c"}
BATCH_NORMED |= {"norm.running_mean": "c^0", "norm.running_var": "c^0", "out.weight": "2 c' 1 1", "out.bias": "2"}
