"""A specification as people look at it: a table in a terminal or a notebook, and what differs between two."""

from collections.abc import Sequence
from typing import Any, cast

from weightspace import html as tables
from weightspace.axes import show
from weightspace.spec import NeuronGroup, SymmetrySpec

COLUMNS = ("group", "size", "kind", "symmetry", "per")


def table(spec: SymmetrySpec) -> str:
    """The groups and the axes of every tensor, in columns."""
    notes = [f"note: {note}" for note in spec.notes]
    return "\n".join([_head(spec), *_columns(_tensors(spec)), *_columns([COLUMNS, *_groups(spec)]), *notes])


def html(spec: SymmetrySpec) -> str:
    """The same in two tables for a notebook."""
    groups = (dict(zip(COLUMNS, row, strict=True)) for row in _groups(spec))
    axes = ({"tensor": name, "axes": shown} for name, shown in _tensors(spec))
    notes = [tables.rows([{"note": note} for note in spec.notes])] if spec.notes else []
    return tables.page(_head(spec)[1:-1], tables.rows(groups, len(spec.groups)), tables.rows(axes, len(spec.tensors)), *notes)


def differences(one: SymmetrySpec, other: SymmetrySpec) -> list[str]:
    """What another spec says differently, a line each."""
    lines = []
    for what, mine, theirs in (
        ("group", one.groups, other.groups),
        ("tensor", dict(_tensors(one)), dict(_tensors(other))),
        ("alias", one.aliases, other.aliases),
        ("gain", one.gains, other.gains),
        ("statistics", dict.fromkeys(one.statistics, "yes"), dict.fromkeys(other.statistics, "yes")),
    ):
        left, right = cast("dict[str, Any]", mine), cast("dict[str, Any]", theirs)
        for name in dict.fromkeys([*left, *right]):
            if left.get(name) != right.get(name):
                lines.append(f"{what} {name}: {_said(left.get(name))} -> {_said(right.get(name))}")
    return lines


def _head(spec: SymmetrySpec) -> str:
    count = len(spec.movable)
    return (
        f"<SymmetrySpec: {len(spec.tensors)} tensors, {count} neuron group{'s' * (count != 1)}, "
        f"2^{spec.log2_order:.1f} permutations, {'proved' if spec.proved else 'not proved'}>"
    )


def _tensors(spec: SymmetrySpec) -> list[tuple[str, str]]:
    return [(name, show(axes)) for name, axes in spec.tensors.items()]


def _groups(spec: SymmetrySpec) -> list[tuple[str, ...]]:
    return [(g.name, str(g.size), g.kind, g.symmetry, g.per or "") for g in spec.groups.values()]


def _said(thing: Any) -> str:
    if isinstance(thing, NeuronGroup):
        return " ".join(str(part) for part in (thing.size, thing.kind, thing.symmetry, f"per {thing.per}" if thing.per else "") if part)
    return "nothing" if thing is None else f"'{thing}'"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
