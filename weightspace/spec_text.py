"""A symmetry specification as YAML or JSON text: read with templates and missing sizes filled in, and written.

    groups:
      stream: {}                                       # its size is solved from the checkpoint's shapes
      h{i}: {symmetry: scale}                          # one for every i that a row below brings up
      head{i}: {size: [num_attention_heads, n_head]}   # what shapes cannot tell, by its name in config.json
      dk{i}: {symmetry: linear, per: "head{i}"}
      pad: {size: other}                               # as large as another group
      gate{i}: {symmetry: {hidden_act: {relu: scale}}} # by what the configuration says, else none
    tensors:
      layers.{i}.fc1.weight: h{i} stream'              # a row for every layer that the checkpoint has
      layers.{i}.fc1.bias?: h{i}                       # `?`: may be absent
      head.weight: _ stream'                           # `_`: a fixed axis as long as the tensor says
      tied.weight?: _ other'
    aliases: {tied.weight: embed.weight}               # name: the name whose row it shares
    statistics: ["{*}.running_mean"]
    gains: {"layers.{i}.norm": ["layers.{i}.fc1.weight"]}  # of norms, each with the tensors that read what it scales

An alias with a row of its own is tied only where the checkpoint says so or lacks it; the groups of the two rows then are one.
`proved: true` in a file is read over: a file can claim anything, so a spec that was read has to be proved again.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import yaml

from weightspace.axes import Axis, Leaf, Product, Sum, leaves, parse
from weightspace.checkpoint import Checkpoint
from weightspace.documents import load, text_of
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import Continuous, Kind, NeuronGroup, SymmetrySpec
from weightspace.spec_sizes import BLANK, Configuration, Header, headers, solve, without_blanks
from weightspace.templates import Row, Template, escaped, expand, fill

if TYPE_CHECKING:
    import torch

KEYS = ("groups", "tensors", "aliases", "statistics", "gains", "notes", "proved")
CONFIGURATION = "configuration: "
"""How the note begins that says which values of a configuration a spec was made with."""


def _is_size(value: Any) -> bool:
    words = value if isinstance(value, list) and value else [value]
    return (isinstance(value, int) and not isinstance(value, bool)) or all(isinstance(word, str) for word in words)


def _is_symmetry(value: Any) -> bool:
    if not isinstance(value, dict):
        return value in get_args(Continuous)
    return all(isinstance(words, dict) and all(word in get_args(Continuous) for word in words.values()) for words in value.values())


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "size": ("a whole number, or names of the configuration", _is_size),
    "kind": ("permutable or fixed", lambda value: value in get_args(Kind)),
    "symmetry": (f"{', '.join(get_args(Continuous))}, or which by a value of the configuration", _is_symmetry),
    "per": ("the name of a group", lambda value: isinstance(value, str)),
}


def read(
    source: Path | str, checkpoint: "Checkpoint | Mapping[str, torch.Tensor] | None" = None, sizes: Mapping[str, Any] | None = None
) -> SymmetrySpec:
    r"""Read a spec from a YAML or JSON file, or from its text.

    Args:
        source: a path, or text: several lines, or one that begins with `{` or has a `name: value`.
        checkpoint: what its templates, blanks and missing sizes are filled in from, and checked against.
        sizes: sizes of groups, or values of the configuration, by name; these count first.

    Raises:
        SymmetryError: text that is no spec, sizes that nothing tells, or another architecture.

    Example:
        >>> read("tensors: {a: h in, b: out h'}\ngroups: {h: {size: 3}, in: {size: 2, kind: fixed}, out: {size: 1, kind: fixed}}\n")
        <SymmetrySpec: 2 tensors, 1 neuron group, 2^2.6 permutations, not proved>
        a  h in
        b  out h'
        group  size  kind        symmetry  per
        h      3     permutable  none
        in     2     fixed       none
        out    1     fixed       none
    """
    where, text = text_of(source)
    documents = load(text, where)
    if len(documents) != 1:
        raise SymmetryError(f"{where} holds {len(documents)} documents; expected one spec")
    if checkpoint is None:
        return build(documents[0], None, Configuration.of(None, sizes), where)
    spec = build(documents[0], headers(checkpoint), Configuration.of(checkpoint, sizes), where)
    spec.check(checkpoint)
    return spec


def write(spec: SymmetrySpec) -> str:
    """Print a spec as the YAML that `read` reads back to an equal one."""
    document = spec.to_dict()
    document["tensors"] = {Row.named(name): axes for name, axes in document["tensors"].items()}
    for key in ("aliases", "statistics"):
        if key in document:
            known = document[key]
            document[key] = {escaped(a): b for a, b in known.items()} if isinstance(known, dict) else list(map(escaped, known))
    if "gains" in document:
        document["gains"] = {escaped(gain): list(map(escaped, readers)) for gain, readers in document["gains"].items()}
    parts = [
        yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=None if key == "groups" else False, width=1 << 20)
        for key, value in document.items()
    ]
    return "".join(parts)


def build(
    document: Mapping[str, Any], known: Mapping[str, Header] | None, configuration: Configuration, where: str = "the spec"
) -> SymmetrySpec:
    """Make the spec that a document describes.

    Args:
        document: as a file has it.
        known: the tensors of a checkpoint; without them the document must be complete.
        configuration: where sizes are looked up that shapes do not tell.
        where: what to call the document in messages.

    Raises:
        SymmetryError: the document is malformed, sizes are not told, or the tensors are of another architecture.
    """
    _check_keys(document, where)
    rows = [Row.of(name, _axes_text(name, axes, where)) for name, axes in _mapping(document, "tensors", where).items()]
    given = {Template(name): _fields(name, fields, where) for name, fields in _mapping(document, "groups", where).items()}
    ties = [(Template(name), _word(owner, f"alias '{name}'", where)) for name, owner in _mapping(document, "aliases", where).items()]
    if known is None:
        return _plain(document, rows, given, ties, configuration, where)
    tensors = {name: parse(text) for name, text in expand(rows, known).items()}
    aliases, same = _ties(tensors, rows, ties, known)
    tensors = {name: tuple(_renamed(axis, same) for axis in axes) for name, axes in tensors.items() if name not in aliases}
    names = dict.fromkeys(leaf.group for axes in tensors.values() for axis in axes for leaf in leaves(axis) if leaf.group != BLANK)
    described = {name: _described(name, given, where) for name in names}
    solved = _sizes(tensors, known, described, configuration, where)
    groups = {name: _group(name, solved[name], fields, configuration, where) for name, fields in described.items() if solved[name]}
    plain = [template.name for template in given if template.is_plain]
    ordered = {name: groups[name] for name in dict.fromkeys([*plain, *groups]) if name in groups}
    notes = _notes(document, where)
    if configuration.asked:
        notes += (CONFIGURATION + ", ".join(f"{name} = {value}" for name, value in configuration.asked.items()),)
    return SymmetrySpec(
        ordered,
        {name: without_blanks(name, axes, known[name].shape, solved) for name, axes in tensors.items()},
        aliases,
        frozenset(_statistics(document, tensors, rows, where)),
        notes,
        gains=_gains(document, tensors, rows, aliases, where),
    )


def _plain(
    document: Mapping[str, Any],
    rows: list[Row],
    given: Mapping[Template, Mapping[str, Any]],
    ties: list[tuple[Template, str]],
    configuration: Configuration,
    where: str,
) -> SymmetrySpec:
    """The spec of a document that needs no checkpoint to be filled in."""
    blanks = BLANK not in [template.name for template in given]  # a group may have that name
    for row in rows:
        lacks = blanks and row.template.is_plain and any(leaf.group == BLANK for axis in parse(row.axes) for leaf in leaves(axis))
        if row.is_optional or not row.template.is_plain or lacks:
            what = "is optional" if row.is_optional else f"has a blank '{BLANK}'" if lacks else "has variables"
            raise SymmetryError(f"{where}: the row of tensor '{row.template.text}' {what}; give a checkpoint to fill it in from")
    groups = {}
    for template, fields in given.items():
        count = _told(template.name, fields, configuration) if template.is_plain else None
        if count is None:
            raise SymmetryError(f"{where}: nothing tells the size of group '{template.text}'; write 'size:', or give a checkpoint")
        groups[template.name] = _group(template.name, count, fields, configuration, where)
    tensors = {row.template.name: parse(row.axes) for row in rows}
    aliases = {template.name: owner for template, owner in ties}
    statistics = frozenset(_statistics(document, tensors, rows, where))
    return SymmetrySpec(
        groups, tensors, aliases, statistics, _notes(document, where), gains=_gains(document, tensors, rows, aliases, where)
    )


def _ties(
    tensors: Mapping[str, tuple[Axis, ...]], rows: list[Row], ties: list[tuple[Template, str]], known: Mapping[str, Header]
) -> tuple[dict[str, str], dict[str, str]]:
    """Which names share a row, and which groups of their rows are one."""
    aliases: dict[str, str] = {}
    same: dict[str, str] = {}
    for name, header in known.items():
        first = header.alias_of
        if first is not None and first in tensors and name in tensors:
            aliases[name] = first
            _identify(name, tensors[name], first, tensors[first], same)
    for template, owner in ties:
        matching = [name for name in known if template.match(name) is not None] or ([template.name] if template.is_plain else [])
        for name in matching:
            row = next((row for row in rows if row.template.match(name) is not None), None)
            if row is None:
                aliases.setdefault(name, owner)
            elif name not in known and owner in tensors:
                bindings = row.template.match(name) or {}
                _identify(name, parse(fill(row.axes, bindings)), owner, tensors[owner], same)
    return aliases, same


def _identify(name: str, axes: tuple[Axis, ...], owner: str, others: tuple[Axis, ...], same: dict[str, str]) -> None:
    """Groups at equal places of two rows become one, the owner's."""
    mine = [leaf.group for axis in axes for leaf in leaves(axis)]
    theirs = [leaf.group for axis in others for leaf in leaves(axis)]
    if len(axes) != len(others) or [group == BLANK for group in mine] != [group == BLANK for group in theirs]:
        raise SymmetryError(f"tensor '{name}' is tied to '{owner}', but their axes differ in form; write the same form in both rows")
    for group, other in zip(mine, theirs, strict=True):
        if group != other:
            same[group] = other


def _renamed(axis: Axis, names: Mapping[str, str]) -> Axis:
    if not names:
        return axis
    if isinstance(axis, Leaf):
        return Leaf(names.get(axis.group, axis.group), axis.dual, axis.power)
    if isinstance(axis, Product):
        return Product(tuple(_renamed(factor, names) for factor in axis.factors))
    return Sum(tuple(_renamed(term, names) for term in axis.terms)) if isinstance(axis, Sum) else axis


def _described(name: str, given: Mapping[Template, Mapping[str, Any]], where: str) -> dict[str, Any]:
    """What the document says of a group: by its plain name first, then by the first template that stands for it."""
    for template in sorted(given, key=lambda one: not one.is_plain):
        bindings = template.match(name)
        if bindings is not None:
            return {key: _filled(value, bindings) for key, value in given[template].items()}
    raise UnknownNameError.of(f"neuron group ({where})", name, [template.text for template in given])


def _filled(value: Any, bindings: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return fill(value, bindings)
    return [_filled(one, bindings) for one in value] if isinstance(value, list) else value


def _sizes(
    tensors: Mapping[str, tuple[Axis, ...]],
    known: Mapping[str, Header],
    described: Mapping[str, Mapping[str, Any]],
    configuration: Configuration,
    where: str,
) -> dict[str, int]:
    """Sizes of all groups: what is told first, then what shapes tell; a clear word on what neither does."""
    equal = {name: str(fields["size"]) for name, fields in described.items() if str(fields.get("size")) in described}
    told = {name: _told(name, fields, configuration) for name, fields in described.items() if name not in equal}
    shapes = {name: header.shape for name, header in known.items()}
    solved = solve(tensors, shapes, {name: count for name, count in told.items() if count is not None}, equal)
    for name, fields in described.items():
        if name not in solved:
            formulas = _formulas(fields.get("size"))
            ask = f"'{formulas[0]}' is in no config.json beside it: add one, or give sizes={{'{formulas[0]}': ...}}" if formulas else ""
            raise SymmetryError(
                f"{where}: the shapes do not tell the size of group '{name}'; {ask or f'write its size, or give sizes={{{name!r}: ...}}'}"
            )
    return solved


def _told(name: str, fields: Mapping[str, Any], configuration: Configuration) -> int | None:
    """The size that is written, given or configured."""
    given = configuration.sources[0].get(name)
    if given is not None:
        return int(given)
    if isinstance(fields.get("size"), int):
        return cast(int, fields["size"])
    return next((n for formula in _formulas(fields.get("size")) if (n := configuration.number(formula)) is not None), None)


def _formulas(size: Any) -> list[str]:
    return [str(one) for one in (size if isinstance(size, list) else [size])] if size is not None and not isinstance(size, int) else []


def _group(name: str, count: int, fields: Mapping[str, Any], configuration: Configuration, where: str) -> NeuronGroup:
    symmetry = fields.get("symmetry", "none")
    if isinstance(symmetry, dict):
        said = [values.get(str(configuration.get(key))) for key, values in symmetry.items()]
        symmetry = next((one for one in said if one is not None), "none")
    return NeuronGroup(name, count, fields.get("kind", "permutable"), symmetry, fields.get("per"))


def _statistics(document: Mapping[str, Any], tensors: Mapping[str, object], rows: Sequence[Row], where: str) -> list[str]:
    """The names among a spec's tensors that are running statistics."""
    templates = map(Template, _words(document.get("statistics"), "'statistics'", where))
    return [name for template in templates for name in _standing(template, tensors, rows)]


def _gains(
    document: Mapping[str, Any], tensors: Mapping[str, object], rows: Sequence[Row], aliases: Mapping[str, str], where: str
) -> dict[str, tuple[str, ...]]:
    """The gains of norms among a spec's tensors, each with the tensors that read what it scales; tied ones by the name with the row."""
    made: dict[str, tuple[str, ...]] = {}
    for gain, readers in _mapping(document, "gains", where).items():
        template, wanted = Template(gain), list(map(Template, _words(readers, f"gain '{gain}'", where)))
        for name in _standing(template, tensors, rows):
            bindings = template.match(name) or {}
            named = [aliases.get(one, one) for one in (one.name if one.is_plain else fill(one.text, bindings) for one in wanted)]
            made[name] = tuple(one for one in dict.fromkeys(named) if not _is_left_out(one, tensors, rows))
    return made


def _standing(template: Template, tensors: Mapping[str, object], rows: Sequence[Row]) -> list[str]:
    """The tensors that a template stands for; a plain name without a row is kept, for the spec to judge."""
    names = [template.name] if template.is_plain else [name for name in tensors if template.match(name) is not None]
    return [name for name in names if not _is_left_out(name, tensors, rows)]


def _is_left_out(name: str, tensors: Mapping[str, object], rows: Sequence[Row]) -> bool:
    """Whether a tensor is one that may be absent, and is."""
    return name not in tensors and any(row.is_optional and row.template.match(name) is not None for row in rows)


def _notes(document: Mapping[str, Any], where: str) -> tuple[str, ...]:
    notes = document.get("notes") or []
    if not isinstance(notes, list):
        raise SymmetryError(f"{where}: 'notes' is {notes!r}; expected a list of lines")
    return tuple(map(str, notes))


def _check_keys(document: Mapping[str, Any], where: str) -> None:
    unknown = [str(key) for key in document if key not in KEYS]
    if unknown:
        raise SymmetryError(f"{where} has a part '{unknown[0]}'; expected {', '.join(KEYS)}")
    if document.get("tensors") is None:
        raise SymmetryError(f"{where} has no rows under 'tensors'; write the axes of each tensor there")


def _mapping(document: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise SymmetryError(f"{where}: '{key}' is a {type(value).__name__}; expected names with what is said of them")
    for name in value:
        _word(name, f"a name under '{key}'", where)
    return value


def _word(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str):
        raise SymmetryError(f"{where}: {what} is {value!r}; expected text, so put it into quotes")
    return value


def _words(value: Any, what: str, where: str) -> list[str]:
    if not isinstance(value, list | None):
        raise SymmetryError(f"{where}: {what} is a {type(value).__name__}; expected a list of tensor names")
    return [_word(one, f"a name of {what}", where) for one in value or ()]


def _axes_text(name: str, axes: Any, where: str) -> str:
    if axes is None or (isinstance(axes, int) and not isinstance(axes, bool)):
        return "" if axes is None else str(axes)
    if not isinstance(axes, str):
        raise SymmetryError(f"{where}: the axes of tensor '{name}' are {axes!r}; expected text such as 'h in'")
    return axes


def _fields(name: str, fields: Any, where: str) -> Mapping[str, Any]:
    """See that what is said of a group has the right form."""
    if isinstance(fields, int) and not isinstance(fields, bool):
        return {"size": fields}
    fields = {} if fields is None else fields
    if not isinstance(fields, dict):
        raise SymmetryError(f"{where}: group '{name}' is {fields!r}; expected its size, or a mapping of size, kind, symmetry and per")
    for key, value in fields.items():
        if key not in _FIELDS:
            raise SymmetryError(f"{where}: group '{name}' has a field '{key}'; expected size, kind, symmetry or per")
        expected, fits = _FIELDS[key]
        if not fits(value):
            raise SymmetryError(f"{where}: '{key}' of group '{name}' is {value!r}; expected {expected}")
    return fields
