"""Picking one output of an operation that has several."""

from typing import Any

from weightspace.tracing.reader import Reader, rule


@rule("getitem")
def getitem(t: Reader, values: Any, index: int) -> Any:
    """One of several outputs."""
    return values[index]
