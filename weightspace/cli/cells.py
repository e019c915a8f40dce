"""How one value is written: as text for a table or CSV, and as plain data for JSON."""

import datetime
import decimal
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from weightspace.errors import one_line


def safe(text: str) -> str:
    """Make text from a checkpoint safe to print, whole: control characters, escapes and what is not text are spelled out."""
    return one_line(text, sys.maxsize)


def plain(value: Any) -> str:
    """Write any value as text: nothing for null, hex for bytes, ISO for times, JSON for lists and structs."""
    match value:
        case None:
            return ""
        case str():
            return safe(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case dict() | list():
            return json_text(value)
        case _:
            data = jsonable(value)
            return safe(data) if isinstance(data, str) else json_text(data)


def short(value: Any) -> str:
    """Write a value as `plain` does, but floats with six significant digits and lists of text with commas."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return safe(", ".join(value))
    return plain(value)


def jsonable(value: Any) -> Any:
    """Turn a value into what JSON knows: bytes become hex, times ISO text, maps objects, NaN and infinities null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case bytes():
            return value.hex()
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return value.total_seconds()
        case tuple() if hasattr(value, "nanoseconds"):  # Arrow's interval, which may hold months and so is no time span
            return dict(zip(("months", "days", "nanoseconds"), value, strict=True))
        case Mapping():
            return {str(key): jsonable(one) for key, one in value.items()}
        case list() if value and all(isinstance(one, tuple) and len(one) == 2 for one in value):
            return {plain(key): jsonable(one) for key, one in value}  # how Arrow hands over a map
        case Sequence():
            return [jsonable(one) for one in value]
        case _:
            return str(value)


def json_text(value: Any) -> str:
    """Write JSON on one line; text stays readable, but no control character and no terminal escape passes."""
    text = json.dumps(jsonable(value), ensure_ascii=False)
    # JSON itself escapes only what lies below the space; terminals obey more than that.
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def count(value: int | None) -> str:
    """Write a count: exact with separators below a million, else to three digits.

    Example:
        >>> count(61_706), count(124_439_808)
        ('61,706', '124M')
    """
    if value is None:
        return ""
    return f"{value:,}" if abs(value) < 1_000_000 else _scaled(value, ("", "k", "M", "B", "T"))


def size(value: int | float | None) -> str:
    """Write a number of bytes in decimal units.

    Example:
        >>> size(999), size(247_000), size(4_294_967_296)
        ('999 B', '247 kB', '4.29 GB')
    """
    return "" if value is None else _scaled(value, (" B", " kB", " MB", " GB", " TB", " PB"))


def _scaled(value: int | float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if abs(value) < 999.5:
            return f"{_three_digits(value)}{unit}"
        value /= 1000
    return f"{_three_digits(value)}{units[-1]}"


def _three_digits(value: int | float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"


def number(value: int | float | None) -> str:
    """Write a statistic or metric to four significant digits.

    Example:
        >>> number(0.974321), number(1.0), number(3.2e-7)
        ('0.9743', '1', '3.2e-07')
    """
    return "" if value is None else f"{value:.4g}"


def duration(seconds: int | float) -> str:
    """Write a time span: seconds, or minutes and seconds, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shape(value: Sequence[int] | None) -> str:
    """Write a tensor's shape; a scalar has none.

    Example:
        >>> shape([64, 3, 3])
        '64 × 3 × 3'
    """
    if value is None:
        return ""
    return " × ".join(map(str, value)) or "scalar"


def day(value: datetime.datetime | None) -> str:
    """Write a time to the minute."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun.

    Example:
        >>> counted(1, "model"), counted(1200, "model")
        ('1 model', '1,200 models')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
