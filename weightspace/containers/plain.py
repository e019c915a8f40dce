"""What a pickle says besides tensors, as plain values of bounded size that JSON can hold."""

import math
from collections.abc import Callable
from typing import Any

from weightspace.containers import pickled_numpy
from weightspace.containers.pickles import Call, Global, Opaque, Persistent, Value
from weightspace.errors import FormatError

MAX_TEXT = 1000
MAX_ITEMS = 100
MAX_DEPTH = 8
MAX_VALUES = 5000

Json = bool | int | float | str | list[Any] | dict[str, Any] | None


class Plain:
    """Makes values plain until its budget is spent; `tensor` says how a tensor is shown."""

    def __init__(self, tensor: Callable[[Call], Json | None]) -> None:
        """Start with a full budget; `tensor` returns None for what is no tensor."""
        self._tensor = tensor
        self._left = MAX_VALUES

    def __call__(self, value: Value, depth: int = 0) -> Json:
        """Make one value plain: long texts and lists are cut, unknown objects named by their class."""
        self._left -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if value.bit_length() < 64 else f"<integer of {value.bit_length()} bits>"
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return short(value)
        if isinstance(value, bytes | bytearray):
            return f"<{len(value)} bytes>"
        if isinstance(value, Global):
            return str(value)
        if self._left <= 0 or depth > MAX_DEPTH:
            return "…"
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list | tuple):
            return self._list(value, depth)
        return self._call(value, depth) if isinstance(value, Call) else f"<{type(value).__name__.lower()}>"

    def _list(self, values: list[Value] | tuple[Value, ...], depth: int) -> Json:
        shown = [self(value, depth + 1) for value in values[:MAX_ITEMS]]
        return shown if len(values) <= MAX_ITEMS else [*shown, f"… {len(values) - MAX_ITEMS} more"]

    def _object(self, values: dict[Value, Value], depth: int) -> dict[str, Json]:
        made: dict[str, Json] = {}
        for key, value in values.items():
            if len(made) == MAX_ITEMS:
                made["…"] = f"{len(values) - MAX_ITEMS} more"
                break
            made[key_text(key)] = self(value, depth + 1)
        return made

    def _call(self, value: Call, depth: int) -> Json:
        shown = self._tensor(value)
        if shown is not None:
            return shown
        if not isinstance(value.function, Global):
            return "<object>"
        name = value.function.name
        if name in ("Namespace", "SimpleNamespace") and isinstance(value.state, dict):
            return self._object(value.state, depth)
        if pickled_numpy.is_scalar(value):
            try:
                number = pickled_numpy.scalar(value)
            except (FormatError, ValueError, TypeError):
                return "<numpy scalar>"
            return self(str(number) if isinstance(number, complex) else number)
        if value.function.module.startswith("pathlib"):
            return short("/".join(short(part) for part in value.args[:MAX_ITEMS] if isinstance(part, str)).replace("//", "/"))
        if name in ("set", "frozenset", "deque"):
            return self._list(value.items or (value.args[0] if value.args and isinstance(value.args[0], list | tuple) else []), depth)
        if str(value.function) == "torch.device":
            return ":".join(short(str(part)) for part in value.args[:2] if isinstance(part, str | int))
        if isinstance(value.state, dict):
            return {"class": str(value.function), **self._object(value.state, depth)}
        return f"<{value.function}>"


def short(text: str) -> str:
    """Cut text to a bounded length, in characters that UTF-8 has."""
    begin = text[: MAX_TEXT + 1].encode("utf-8", "replace").decode("utf-8")
    return begin if len(begin) <= MAX_TEXT else f"{begin[: MAX_TEXT - 1]}…"


def key_text(key: Value) -> str:
    """Write a dictionary key as text."""
    if isinstance(key, str):
        return key
    if isinstance(key, tuple):
        return f"({', '.join(repr(key_text(one)) if isinstance(one, str) else key_text(one) for one in key[:MAX_ITEMS])})"[:MAX_TEXT]
    return "<key>" if isinstance(key, Opaque | Call | Persistent) else str(key[:MAX_TEXT] if isinstance(key, bytes) else key)
