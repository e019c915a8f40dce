"""Repeated layers shown as one: tensors whose names differ only in a number, of one shape and dtype."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"(?<![^./:\[\]])\d+(?![^./:\[\]])")  # a part of a name that is a number and nothing else


@dataclass(frozen=True)
class Layer:
    """Tensors shown in one row.

    Attributes:
        name: the tensor's name, or the pattern that all names fit, as in `layers.{0..11}.weight`.
        tensors: rows of a model's page, in order.
    """

    name: str
    tensors: tuple[Mapping[str, Any], ...]

    @property
    def owned(self) -> list[Mapping[str, Any]]:
        """Those that are no alias of another."""
        return [one for one in self.tensors if one["alias_of"] is None]

    @property
    def numel(self) -> int:
        """Elements of all of them, tied ones once."""
        return sum(one["numel"] for one in self.owned)

    @property
    def finite(self) -> int:
        """Elements that are neither NaN nor infinite; the statistics are over these."""
        return sum(_finite(one) for one in self.tensors)

    @property
    def num_not_finite(self) -> int:
        """Elements that are NaN or infinite."""
        return sum(int(one["num_nan"] or 0) + int(one["num_inf"] or 0) for one in self.tensors)

    @property
    def zero_share(self) -> float:
        """Share of elements that are zero."""
        zeros, all_of_them = (sum(int(one[key] or 0) for one in self.tensors) for key in ("num_zero", "numel"))
        return zeros / max(1, all_of_them)

    @property
    def mean(self) -> float | None:
        """Mean over all elements."""
        if not self.finite or any(one["mean"] is None for one in self.tensors if _finite(one)):
            return None
        return float(sum(one["mean"] * _finite(one) for one in self.tensors if _finite(one))) / self.finite

    @property
    def std(self) -> float | None:
        """Standard deviation over all elements."""
        mean = self.mean
        if mean is None or any(one["std"] is None for one in self.tensors if _finite(one)):
            return None
        return math.sqrt(
            sum((one["std"] ** 2 + (one["mean"] - mean) ** 2) * _finite(one) for one in self.tensors if _finite(one)) / self.finite
        )

    @property
    def l2(self) -> float | None:
        """L2 norm of all of them together."""
        norms = [one["l2"] for one in self.tensors]
        return None if any(one is None for one in norms) else math.hypot(*norms)


def _finite(tensor: Mapping[str, Any]) -> int:
    return int(tensor["numel"] - (tensor["num_nan"] or 0) - (tensor["num_inf"] or 0))


def collapsed(tensors: Iterable[Mapping[str, Any]]) -> list[Layer]:
    """Put repeated tensors together, each group where its first member stands.

    Example:
        >>> rows = [{"name": f"blocks.{i}.w", "shape": [2], "dtype": "F32"} for i in range(3)]
        >>> [layer.name for layer in collapsed(rows)]
        ['blocks.{0..2}.w']
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in tensors:
        groups.setdefault((_NUMBER.sub("#", one["name"]), tuple(one["shape"]), one["dtype"]), []).append(one)
    return [Layer(_pattern([one["name"] for one in group]), tuple(group)) for group in groups.values()]


def single(tensors: Iterable[Mapping[str, Any]]) -> list[Layer]:
    """Keep every tensor by itself."""
    return [Layer(one["name"], (one,)) for one in tensors]


def _pattern(names: Sequence[str]) -> str:
    """Write names that differ in numbers as one, every number that varies as its range or list."""
    columns = iter(zip(*(map(int, _NUMBER.findall(name)) for name in names), strict=True))
    return _NUMBER.sub(lambda _: _range(sorted(set(next(columns)))), names[0])


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    listed = list(map(str, numbers))
    return "{" + ",".join(listed if len(listed) <= 6 else [*listed[:4], "…", listed[-1]]) + "}"
