"""Small tables for notebooks: escaped, bounded in rows and letters, in the colours of the page around them."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

from weightspace.errors import one_line

MOST_ROWS = 20
MOST_COLUMNS = 12
LONGEST = 80  # letters of a cell
_CELL = "padding:1px 10px 1px 0;text-align:{};vertical-align:top;font-variant-numeric:tabular-nums"


def page(title: str, *parts: str) -> str:
    """What a notebook shows of a thing: a line in bold, then tables."""
    return f'<div style="overflow-x:auto"><p style="margin:0 0 4px"><b>{_text(title, 400)}</b></p>{"".join(parts)}</div>'


def facts(rows: Mapping[str, Any]) -> str:
    """Names and values in two columns; what is None is left out."""
    return _table([], [[name, value] for name, value in rows.items() if value is not None])


def rows(given: Iterable[Mapping[str, Any]], count: int | None = None, *, columns: Sequence[str] | None = None) -> str:
    """A table of the first rows, and a line that says how many more there are.

    Args:
        given: rows of equal keys; no more than are shown are asked for when `count` is known.
        count: how many there are.
        columns: that are shown; by default all that a notebook has room for.
    """
    shown = list(islice(given, MOST_ROWS)) if count is not None else list(given)
    total = len(shown) if count is None else count
    shown = shown[:MOST_ROWS]
    every = list(columns) if columns is not None else list(shown[0]) if shown else []
    names = every[:MOST_COLUMNS]
    more = [f"… {total - len(shown):,} more rows"] if total > len(shown) else []
    more += [f"… {len(every) - len(names):,} more columns"] if len(every) > len(names) else []
    body = _table(names, [[row.get(name) for name in names] for row in shown])
    return body + (f'<p style="margin:2px 0;opacity:.7">{"; ".join(more)}</p>' if more else "")


def _table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    if not body:
        return '<p style="margin:2px 0;opacity:.7">nothing</p>'
    numeric = [all(_is_number(row[at]) or row[at] is None for row in body) for at in range(len(body[0]))]
    sides = ["right" if is_number else "left" for is_number in numeric]
    top = "".join(
        f'<th style="{_CELL.format(side)};font-weight:600;opacity:.75">{_text(name)}</th>' for name, side in zip(head, sides, strict=False)
    )
    lines = "".join(
        f'<tr style="background:none">{"".join(f"""<td style="{_CELL.format(side)}">{_cell(one)}</td>""" for one, side in zip(row, sides, strict=True))}</tr>'
        for row in body
    )
    start = '<table style="border-collapse:collapse;border:0;margin:0 0 4px;color:inherit;background:none">'
    return f"{start}{f'<tr>{top}</tr>' if head else ''}{lines}</table>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else _text(str(value))


def _text(text: str, longest: int = LONGEST) -> str:
    """Text as text: no markup, no control characters, no end of a name that nobody reads."""
    return escape(one_line(text, longest), quote=True)
