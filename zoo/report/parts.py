"""Parts of a page that stand in its HTML: text made harmless, tables, sections."""

import html
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

Row = Mapping[str, Any]

_BREAKS = re.compile(r"[/._]")  # where a long name may wrap

_ONE_LINE = 32  # characters of a cell that are never broken over lines


def text(value: str) -> str:
    """Text from anywhere, harmless in a page: escaped, and without control characters or marks that turn text around."""
    return html.escape("".join(one if one.isprintable() or one == "\n" else f"\\u{ord(one):04x}" for one in value))


def shown(value: Any) -> str:
    """A value of the catalog, as HTML."""
    if value is None:
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return f"{value:,}"
    return _BREAKS.sub("\\g<0><wbr>", text(str(value)))


def section(title: str, body: str, name: str) -> str:
    """A section that `#name` leads to."""
    return f'<section id="{name}">\n<h2>{text(title)}</h2>\n{body}\n</section>\n'


def table(rows: Sequence[Row]) -> str:
    """A table of rows with equal keys; columns of numbers are set to the right."""
    if not rows:
        return "<p>No rows.</p>"
    numeric = {name for name in rows[0] if all(row[name] is None or isinstance(row[name], int | float | Decimal) for row in rows)}
    head = "".join(f"<th{' class=n' if name in numeric else ''}>{text(name)}</th>" for name in rows[0])
    lines = "\n".join("<tr>" + "".join(_cell(value, name in numeric) for name, value in row.items()) + "</tr>" for row in rows)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>\n'


def _cell(value: Any, is_number: bool) -> str:
    kind = " class=n" if is_number else " class=s" if len(str(value)) <= _ONE_LINE else ""
    return f"<td{kind}>{shown(value)}</td>"
