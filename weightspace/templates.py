"""Names with variables: `layers.{i}.fc1.weight` stands for the tensors of every layer, `h{i-1}` for the group before.

`{i}` is a whole number, `{tower:text|vision}` one of the words given, `{*}` anything; in what is filled in, `{i+1}` and `{i-1}`
count on, and `{i!}` is the last there is. A brace that is meant is doubled.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from weightspace.errors import SymmetryError

Bindings = Mapping[str, str]

_PART = re.compile(r"\{\{|\}\}|\{(?P<any>\*)\}|\{(?P<name>[A-Za-z]\w*)(?::(?P<words>[^{}]*))?\}|(?P<stray>[{}])|[^{}]+")
_FILLED = re.compile(r"\{\{|\}\}|\{(?P<name>[A-Za-z]\w*)(?P<step>[+-]\d+|!)?\}|(?P<stray>[{}])")


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

    @cached_property
    def counts(self) -> tuple[str, ...]:
        """Names of those variables that are whole numbers, in order of the alphabet."""
        return tuple(sorted(part["name"] for part in _PART.finditer(self.text) if part["name"] and part["words"] is None))

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


def fill(text: str, bindings: Bindings, lasts: Mapping[str, int] | None = None) -> str:
    """Put values in place of variables.

    Args:
        text: what to fill in.
        bindings: the variables' values.
        lasts: the greatest number that each variable has anywhere.

    Raises:
        SymmetryError: a variable without a value, or a count below 0.

    Example:
        >>> fill("h{i} h{i-1}'", {"i": "3"})
        "h3 h2'"
    """

    def value(part: re.Match[str]) -> str:
        name, step = part["name"], part["step"] or ""
        if name is None:
            raise SymmetryError(f"'{text}' has a '{part[0][0]}' that is no variable; write '{{i}}', '{{i+1}}', '{{i-1}}' or '{{i!}}'")
        given = (lasts or {}).get(name) if step == "!" else bindings.get(name)
        if given is None:
            raise SymmetryError(f"'{text}' has the variable '{name}', which nothing gives a value; use it in the tensor's name")
        if step in ("", "!"):
            return str(given)
        counted = int(given) + int(step) if str(given).isdigit() else -1
        if counted < 0:
            raise SymmetryError(f"'{text}' counts to {given}{step} for {name} = {given}; write a row of its own for that one")
        return str(counted)

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
        SymmetryError: a row that is not optional stands for nothing, or is missing for a layer that another row has.
    """
    known = list(names)
    plain = {row.template.name: row for row in rows if row.template.is_plain}
    templates = [row for row in rows if not row.template.is_plain]
    chosen: dict[str, tuple[Row, Bindings]] = {}
    lasts: dict[str, int] = {}
    for name in known:
        matching = ((row, bindings) for row in templates if (bindings := row.template.match(name)) is not None)
        found = (plain[name], {}) if name in plain else next(matching, None)
        if found is not None:
            chosen[name] = found
            for variable, value in found[1].items():
                lasts[variable] = max(lasts.get(variable, 0), int(value) if value.isdigit() else 0)
    _check_complete(rows, known, chosen)
    return {name: fill(row.axes, bindings, lasts) for name, (row, bindings) in chosen.items()}


def _check_complete(rows: Sequence[Row], names: Sequence[str], chosen: Mapping[str, tuple[Row, Bindings]]) -> None:
    """Whatever is not optional is there, for all numbers that another row of the same variables was chosen for."""
    present = set(names)
    everywhere: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
    for name, (row, bindings) in chosen.items():
        if not row.is_optional:
            everywhere.setdefault(row.template.counts, {})[_numbers(row, bindings)] = name
    for row in (row for row in rows if not row.is_optional):
        template = row.template
        if template.is_plain:
            if template.name not in present:
                raise SymmetryError(
                    f"the spec has a row for tensor '{template.name}', which is not there; take the spec of this architecture"
                )
            continue
        own = {_numbers(row, found) for name in names if (found := template.match(name)) is not None}
        lacking = sorted(set(everywhere.get(template.counts, {})) - own)
        if not own or lacking:
            numbers = zip(template.counts, lacking[0], strict=True) if lacking else ()
            where = ", ".join(f"{v} = {x}" for v, x in numbers)
            beside = f" for {where}, where '{everywhere[template.counts][lacking[0]]}' is" if where else ""
            raise SymmetryError(
                f"the spec has a row for tensors '{template.text}', and there is none{beside}; take the spec of this architecture, "
                "or mark the row as optional with '?'"
            )


def _numbers(row: Row, bindings: Bindings) -> tuple[str, ...]:
    return tuple(bindings[variable] for variable in row.template.counts)


__all__ = ["Row", "Template", "escaped", "expand", "fill"]
