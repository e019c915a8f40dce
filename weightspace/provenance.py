"""How a file says what its weights were made from: the recipe, and the ids of its parents, in its own metadata."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

RECIPE, PARENTS = "weightspace.recipe", "weightspace.parents"
HEX = set("0123456789abcdef")
MAX_PARENTS, MAX_CHARACTERS = 1000, 1 << 20  # more than any recipe of ours has
MAX_DEPTH = 32  # of a recipe: what nests deeper is none of ours


def stated(recipe: Mapping[str, Any], parents: Sequence[str]) -> dict[str, str]:
    """Metadata that says how weights were made.

    Args:
        recipe: everything that is needed to make them again; its `kind` says what was done (merge, match, repair, ...).
        parents: ids of the models that went in, in hex.

    Example:
        >>> stated({"kind": "merge"}, [])
        {'weightspace.recipe': '{"kind":"merge"}', 'weightspace.parents': '[]'}
    """
    return {
        RECIPE: json.dumps(recipe, sort_keys=True, separators=(",", ":")),
        PARENTS: json.dumps(list(parents), separators=(",", ":")),
    }


def told(metadata: Mapping[str, Any]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """What metadata say of how weights were made: the recipe and the parents' ids; nothing where they say it in no form of ours."""
    recipe, parents = _json(metadata.get(RECIPE)), _json(metadata.get(PARENTS))
    ids = parents if isinstance(parents, list) else []
    known = tuple(one for one in ids[:MAX_PARENTS] if isinstance(one, str) and len(one) == 64 and set(one) <= HEX)
    return (recipe if isinstance(recipe, dict) else None), known


def _json(text: Any) -> Any:
    try:
        made = json.loads(text, parse_constant=_refuse) if isinstance(text, str) and len(text) <= MAX_CHARACTERS else None
        json.dumps(made, ensure_ascii=False, allow_nan=False).encode("utf-8")
        return made if _depth(made) <= MAX_DEPTH else None
    except (ValueError, RecursionError):  # lone surrogates are ValueErrors too
        return None


def _refuse(constant: str) -> None:
    """NaN and the like stand in no JSON."""
    raise ValueError(constant)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
