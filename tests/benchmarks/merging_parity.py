"""How far two merged models are from each other."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

CHUNK = 1 << 22
"""Elements that are compared at once."""

MANY = 100_000
"""Elements over which chance averages out."""


@dataclass(frozen=True)
class Difference:
    """Between two models, tensor by tensor.

    Attributes:
        largest: of all |a - b|, relative to the root mean square of the tensor.
        where: the tensor that has it.
        rounding: share of elements that differ at all.
        beyond: share of elements that differ by more than one unit in the last place of bfloat16.
        strength: the largest relative difference of the norm of what was added to the base, in tensors of `MANY` elements; None without a base.
        dtypes: both, where a tensor has not the same in both.
    """

    largest: float
    where: str
    rounding: float
    beyond: float
    strength: float | None = None
    dtypes: str = ""

    def __str__(self) -> str:
        if self.strength is not None:
            return f"{self.strength:.1e} in norm{self.dtypes}"
        return (f"{self.largest:.1e}, {100 * self.beyond:.2g}%" if self.rounding else "0") + self.dtypes


class Folder:
    """The tensors of a folder of safetensors files by name, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        self._open = ExitStack()
        for path in sorted(folder.glob("*.safetensors")):
            file = self._open.enter_context(safe_open(path, "pt"))
            self._files |= dict.fromkeys(file.keys(), file)
        if (index := folder / "model.safetensors.index.json").exists():
            listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            if listed != set(self._files):
                raise ValueError(f"{folder}: the index and the files disagree about {sorted(listed ^ set(self._files))[:3]}")

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._files)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def compare(first: Path, second: Path, base: Path | None = None) -> Difference:
    """Compare two folders of safetensors files.

    Args:
        first: one.
        second: the other, which differences are relative to.
        base: what both were added to; given, the strength of what was added is compared too.

    Raises:
        ValueError: their names or shapes differ.
    """
    worst, where, differ, beyond, total, strength, dtypes = 0.0, "", 0, 0, 0, 0.0, ""
    with Folder(first) as a, Folder(second) as b, ExitStack() as stack:
        if a.names != b.names:
            raise ValueError(f"one of them alone has {sorted(a.names ^ b.names)[:3]}")
        origin = stack.enter_context(Folder(base)) if base else None
        for name in sorted(a.names):
            x, y = a[name], b[name]
            if x.shape != y.shape:
                raise ValueError(f"{name}: {tuple(x.shape)} and {tuple(y.shape)}")
            if x.dtype != y.dtype:
                dtypes = f" ({x.dtype} and {y.dtype})".replace("torch.", "")
            largest, unequal, far = _differences(x, y)
            relative = largest / (_norm(y) / y.numel() ** 0.5 or 1.0)
            if relative > worst:
                worst, where = relative, name
            differ, beyond, total = differ + unequal, beyond + far, total + y.numel()
            if origin is not None and y.numel() >= MANY:
                added = _norm(y, origin[name])
                strength = max(strength, abs(_norm(x, origin[name]) / added - 1) if added else 0.0)
    return Difference(worst, where, differ / total, beyond / total, strength if base else None, dtypes)


def _differences(x: Tensor, y: Tensor) -> tuple[float, int, int]:
    """The largest difference, how many elements differ, and how many by more than one unit in the last of bfloat16's eight places."""
    largest, unequal, far = 0.0, 0, 0
    for one, other in _chunks(x, y):
        gap = (one - other).abs()
        if gap.isnan().any():
            return float("nan"), x.numel(), x.numel()
        unit = torch.ldexp(torch.ones_like(other), torch.frexp(other).exponent - 8)
        largest = max(largest, gap.max().item())
        unequal += int((gap > 0).sum())
        far += int((gap > 1.001 * unit).sum())
    return largest, unequal, far


def _norm(x: Tensor, origin: Tensor | None = None) -> float:
    parts = _chunks(x, x.new_zeros(()).expand(x.shape) if origin is None else origin)
    return float(sum(torch.sum(torch.square(one - other), dtype=torch.float64) for one, other in parts) ** 0.5)


def _chunks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    x, y, dtype = x.reshape(-1), y.reshape(-1), torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    for start in range(0, x.numel(), CHUNK):
        yield x[start : start + CHUNK].to(dtype), y[start : start + CHUNK].to(dtype)
