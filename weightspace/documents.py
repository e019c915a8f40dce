"""Plain values from YAML or JSON text: nothing is executed, and no name may come twice."""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from weightspace.errors import SymmetryError, one_line

MAX_CHARACTERS = 1 << 26


def load(text: str, where: str, wanted: str = "'groups' and 'tensors'") -> list[dict[str, Any]]:
    """Read the documents of a YAML or JSON text, each a mapping; nothing but plain values is made.

    Args:
        text: of the file.
        where: it was found, for messages.
        wanted: what the mappings should hold, for messages.

    Raises:
        SymmetryError: it is neither, or names a key twice.
    """
    if len(text) > MAX_CHARACTERS:
        raise SymmetryError(f"{where} has {len(text)} characters; expected a spec of at most {MAX_CHARACTERS}")
    try:
        if text.lstrip().startswith("{"):
            try:
                documents = [json.loads(text, object_pairs_hook=_once)]
            except json.JSONDecodeError:  # YAML's own braces
                documents = list(yaml.load_all(text, _Loader))
        else:
            documents = list(yaml.load_all(text, _Loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, SymmetryError):
            raise SymmetryError(f"{where}: {error}") from None
        said = " ".join(str(error).split())
        raise SymmetryError(f"{where} is neither YAML nor JSON ({one_line(said, 200)}); mend it") from None
    for document in documents:
        if not isinstance(document, dict):
            raise SymmetryError(f"{where} holds a {type(document).__name__}; expected a mapping with {wanted}")
    return documents


def text_of(source: Path | str) -> tuple[str, str]:
    """What to call a source in messages, and its text.

    Raises:
        SymmetryError: it is neither text nor the path of a file that can be read.
    """
    if not isinstance(source, str | os.PathLike):
        raise SymmetryError(f"expected the path of a YAML or JSON file, or its text, found {type(source).__name__}; give one of them")
    if isinstance(source, str) and not source.strip():
        raise SymmetryError("the text of the spec is empty; give the path of a YAML or JSON file, or its text")
    if isinstance(source, str) and _is_text(source):
        return "the spec", source
    path = Path(source)
    try:
        return str(path), path.read_text("utf-8")
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SymmetryError(f"{path} cannot be read as a spec ({said}); give the path of a YAML or JSON file, or its text") from None


def _is_text(source: str) -> bool:
    """Whether it is a document rather than a path: of several lines, in braces or with `name: value`, unless a file has that very name."""
    looks = source.lstrip().startswith("{") or re.search(r":\s", source) is not None
    return "\n" in source or (looks and not os.path.exists(source))  # noqa: PTH110 - Path.exists raises where a name is too long


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping in which no key comes twice."""
    made: dict[Any, Any] = {}
    for key, value in pairs:
        if key in made:
            raise SymmetryError(f"'{one_line(str(key), 80)}' comes twice; remove one")
        made[key] = value
    return made


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values only, and no key twice."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    pairs = [(loader.construct_object(key, deep=True), loader.construct_object(value, deep=True)) for key, value in node.value]
    for key, _ in pairs:
        if isinstance(key, (list, dict)):
            raise SymmetryError(f"a name is a {type(key).__name__}; expected text")
    return _once(pairs)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
