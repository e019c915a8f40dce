"""How `key=value` settings of methods and measures are read: as YAML does, checked against their defaults."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from weightspace.cli.options import pairs
from weightspace.errors import RecordError, UnknownNameError


def settings_of(texts: Iterable[str], defaults: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Read numbers, booleans, words and lists.

    Args:
        texts: `key=value`.
        defaults: what may be set, with the values that stand where nothing is.
        owner: whose settings they are, for messages: "method 'weight'".

    Raises:
        UnknownNameError: there is no such setting.
        RecordError: a value of another type than the default's.
    """
    import yaml

    found: dict[str, Any] = {}
    for key, text in pairs(texts, "option").items():
        if key not in defaults:
            raise UnknownNameError.of(f"option of {owner}", key, defaults)
        value = yaml.safe_load(text)
        wanted = {type(defaults[key])} - {type(None)} or {int, float, str}
        if float in wanted and isinstance(value, str | int) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                value = float(value)  # YAML takes 1e9 for a word
        if tuple in wanted and isinstance(value, list):
            value = tuple(value)
        if type(value) not in wanted:
            raise RecordError(f"option '{key}' of {owner} has the value '{text}'; expected one like {defaults[key]!r}")
        found[key] = value
    return found
