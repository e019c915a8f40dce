"""Names with variables: `layers.{i}.fc1.weight` stands for the tensors of every layer, `h{i-1}` for the group before.

`{i}` is a whole number, `{tower:text|vision}` one of the words given, `{*}` anything; in what is filled in, `{i+1}` and `{i-1}`
count on. A brace that is meant is doubled.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from weightspace.errors import SymmetryError

Bindings = Mapping[str, str]

_PART = re.compile(r"\{\{|\}\}|\{(?P<any>\*)\}|\{(?P<name>[A-Za-z]\w*)(?::(?P<words>[^{}]*))?\}|(?P<stray>[{}])|[^{}]+")
_FILLED = re.compile(r"\{\{|\}\}|\{(?P<name>[A-Za-z]\w*)(?P<step>[+-]\d+)?\}|(?P<stray>[{}])")


@dataclass(frozen=True)
class Template:
    """A name that may have variables.

    Attributes:
        text: as it is written.
    """

    text: str

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Names of its variables, in order."""
        return tuple(self._pattern.groupindex)

    @property
    def is_plain(self) -> bool:
        """Whether it stands for one name alone."""
        return not self.variables and "{*}" not in self.text

    @property
    def name(self) -> str:
        """The one name that a plain template stands for."""
        return self.text.replace("{{", "{").replace("}}", "}")

    def match(self, name: str) -> Bindings | None:
        """The variables' values in a name, or None when it is not one that the template stands for."""
        found = self._pattern.fullmatch(name)
        return None if found is None else found.groupdict()

    def ends(self, name: str) -> str | None:
        """What stands before the template's end part in a longer name, `model.` in `model.layers.0.weight`; None when it does not end so."""
        found = self._suffix.fullmatch(name)
        return None if found is None else found[1]

    @cached_property
    def _suffix(self) -> re.Pattern[str]:
        return re.compile(rf"((?:.*\.)?)(?:{self._pattern.pattern})", re.DOTALL)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        made, seen = [], set()
        for part in _PART.finditer(self.text):
            if part["stray"]:
                raise SymmetryError(f"name '{self.text}' has a '{part['stray']}' that is no variable; double it if it is meant")
            if part["any"]:
                made.append(".*")
            elif part["name"] in seen:
                made.append(f"(?P={part['name']})")
            elif part["name"]:
                seen.add(part["name"])
                words = "|".join(map(re.escape, part["words"].split("|"))) if part["words"] is not None else "0|[1-9][0-9]*"
                made.append(f"(?P<{part['name']}>{words})")
            else:
                made.append(re.escape(part[0][0] if part[0] in ("{{", "}}") else part[0]))
        return re.compile("".join(made), re.DOTALL)


def escaped(name: str) -> str:
    """The template that stands for one name alone."""
    return name.replace("{", "{{").replace("}", "}}")


def fill(text: str, bindings: Bindings) -> str:
    """Put values in place of variables.

    Raises:
        SymmetryError: a variable without a value, or a count below 0.

    Example:
        >>> fill("h{i} h{i-1}'", {"i": "3"})
        "h3 h2'"
    """

    def value(part: re.Match[str]) -> str:
        if part["stray"] or part[0] in ("{{", "}}"):
            raise SymmetryError(f"'{text}' has a '{part[0][0]}' that is no variable; write '{{i}}', '{{i+1}}' or '{{i-1}}'")
        if part["name"] not in bindings:
            raise SymmetryError(f"'{text}' has the variable '{part['name']}', which the tensor's name does not have; add it there")
        given = bindings[part["name"]]
        if not part["step"]:
            return given
        if not given.isdigit() or int(given) + int(part["step"]) < 0:
            raise SymmetryError(f"'{text}' counts to {given}{part['step']} for {part['name']} = {given}; write a row of its own for that one")
        return str(int(given) + int(part["step"]))

    return _FILLED.sub(value, text)


@dataclass(frozen=True)
class Row:
    """One line of a spec's file: a name or template, and what is said of it.

    Attributes:
        template: which names.
        axes: their axes.
        is_optional: whether there may be none.
    """

    template: Template
    axes: str
    is_optional: bool = False

    @classmethod
    def of(cls, name: str, axes: str) -> "Row":
        """Read a row; a `?` at the end of the name marks it optional, `??` is one question mark."""
        marks = len(name) - len(name.rstrip("?"))
        return cls(Template(name[: len(name) - marks] + "?" * (marks // 2)), axes, marks % 2 == 1)

    @staticmethod
    def named(name: str) -> str:
        """How one plain name is written, so that `of` reads it."""
        marks = len(name) - len(name.rstrip("?"))
        return escaped(name) + "?" * marks


def expand(rows: Sequence[Row], names: Iterable[str]) -> dict[str, str]:
    """Say the axes of each name that a row stands for: a plain row before templates, and those in their order.

    Raises:
        SymmetryError: a row that is not optional stands for nothing, or is missing for a layer that others of its variables have.
    """
    known = list(names)
    plain = {row.template.name: row for row in rows if row.template.is_plain}
    templates = [row for row in rows if not row.template.is_plain]
    made: dict[str, str] = {}
    for name in known:
        if name in plain:
            made[name] = plain[name].axes
            continue
        for row in templates:
            bindings = row.template.match(name)
            if bindings is not None:
                made[name] = fill(row.axes, bindings)
                break
    _check_complete(rows, known)
    return made


def _check_complete(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Whatever is not optional is there, in every layer alike."""
    found: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
    needed = [row for row in rows if not row.is_optional]
    present = set(names)
    layers: list[tuple[Row, set[tuple[str, ...]]]] = []
    for row in needed:
        template = row.template
        if template.is_plain:
            if template.name not in present:
                raise SymmetryError(f"the spec has a row for tensor '{template.name}', which is not there; take the spec of this architecture")
            continue
        matches = {name: bindings for name in names if (bindings := template.match(name)) is not None}
        if not matches:
            raise SymmetryError(f"the spec has a row for tensors '{template.text}', and there is none; take the spec of this architecture")
        own = {tuple(bindings[v] for v in sorted(template.variables)): name for name, bindings in matches.items()}
        layers.append((row, set(own)))
        found.setdefault(tuple(sorted(template.variables)), {}).update(own)
    for row, own_layers in layers:
        everywhere = found[tuple(sorted(row.template.variables))]
        lacking = sorted(set(everywhere) - own_layers)
        if lacking:
            where = ", ".join(f"{v} = {x}" for v, x in zip(sorted(row.template.variables), lacking[0], strict=True))
            raise SymmetryError(
                f"the spec has a row for tensors '{row.template.text}', and there is none for {where}, where '{everywhere[lacking[0]]}' is; "
                "take the spec of this architecture, or mark the row as optional with '?'"
            )


__all__ = ["Row", "Template", "escaped", "expand", "fill"]
