"""Printing: data on stdout as a table, JSON or CSV, talk on stderr."""

import csv
import io
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.cli import cells
from weightspace.cli.options import Format

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure
    from rich.console import RenderableType

MOST_ROWS = 1000  # a terminal shows no more of one table; pipes, JSON and CSV get every row
MEASURED_ROWS = 100_000  # of which the widths of columns are taken in a pipe
_GAP = "  "

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        header: what stands above it.
        show: how a value is written.
        right: whether it is set to the right, as numbers are.
        style: rich style on a terminal.
        whole: never wrapped: it keeps its width, or goes.
        least: where it may wrap, the width below which it is no longer good to read.
        rank: on a terminal too narrow for all, columns of the highest rank go first; 0 always stays.
    """

    header: str
    show: Callable[[Any], str] = cells.short
    right: bool = False
    style: str = ""
    whole: bool = True
    least: int = 24
    rank: int = 0


def say(text: str, *, style: str = "") -> None:
    """Write one line of talk to stderr."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(text, style=style))


def print_data(data: "pa.Table | Sequence[Row]", format: Format, columns: Mapping[str, Column] | None = None) -> None:
    """Print rows in the format asked for.

    Args:
        data: an Arrow table, or rows of equal keys.
        format: a table shows `columns`; JSON and CSV hold every column of the data, unrounded.
        columns: columns of the table by key, and the header of a CSV without rows; by default all, plainly.
    """
    if format is Format.json:
        write(_json(rows_of(data)))
    elif format is Format.csv:
        write(_csv(names_of(data) or list(columns or {}), rows_of(data)))
    else:
        print_table(rows_of(data), columns or plain_columns(data))


def print_figure(figure: "Figure", path: Path) -> None:
    """Draw a figure into a file, and say so."""
    from weightspace.plotting import save

    save(figure, path)
    say(f"drew {cells.safe(str(path))}")


def write(chunks: Iterable[str]) -> None:
    """Write text to stdout."""
    for chunk in chunks:
        sys.stdout.write(chunk)


def names_of(data: "pa.Table | Sequence[Row]") -> list[str]:
    """Names of the columns; repeated ones get a number, so that none is lost."""
    if isinstance(data, Sequence):
        return list(data[0]) if data else []
    made: dict[str, None] = {}
    for name in data.column_names:
        fresh = name
        for number in itertools.count(1):
            if fresh not in made:
                break
            fresh = f"{name}_{number}"
        made[fresh] = None
    return list(made)


def rows_of(data: "pa.Table | Sequence[Row]") -> Iterator[Row]:
    """Rows one by one; an Arrow table is taken apart in slices, so that a large one is never a list as well."""
    if isinstance(data, Sequence):
        yield from data
        return
    import pyarrow as pa

    table = data.rename_columns(names_of(data))
    for at, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":  # Python's own times end at microseconds
            table = table.set_column(at, field.name, table.column(at).cast(pa.timestamp("us", field.type.tz), safe=False))
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def plain_columns(data: "pa.Table | Sequence[Row]") -> dict[str, Column]:
    """Columns for data of which nothing else is known: numbers to the right, text may wrap."""
    if isinstance(data, Sequence):
        first = data[0] if data else {}
        return {
            name: Column(cells.safe(name), right=isinstance(value, int | float), whole=isinstance(value, int | float))
            for name, value in first.items()
        }
    import pyarrow.types as kinds

    numeric = [kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind) for kind in data.schema.types]
    return {
        name: Column(cells.safe(name), right=is_number, whole=is_number) for name, is_number in zip(names_of(data), numeric, strict=True)
    }


def _json(rows: Iterable[Row]) -> Iterator[str]:
    before = "["
    for row in rows:
        yield f"{before}\n  {cells.json_text(dict(row))}"
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _csv(names: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    if not names:
        return
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for values in itertools.chain([names], ([row[name] for name in names] for row in rows)):
        writer.writerow([cells.plain(value) for value in values])
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def print_table(rows: Iterable[Row], columns: Mapping[str, Column]) -> None:
    """Print a table: coloured and fitted to the width on a terminal; plain, whole and aligned elsewhere."""
    shown = iter([column.show(row.get(key)) for key, column in columns.items()] for row in rows)
    if sys.stdout.isatty():
        lines = list(itertools.islice(shown, MOST_ROWS))
        _print_rich(lines, list(columns.values()))
        rest = sum(1 for _ in shown)
        if rest:
            say(f"{rest:,} more rows; narrow the question, or take all with --format csv or through a pipe", style="dim")
    else:
        write(_aligned(shown, list(columns.values())))


def _aligned(lines: Iterator[Sequence[str]], columns: Sequence[Column]) -> Iterator[str]:
    """Lines in columns as wide as the first of them need; what is wider further down stands out, so that no long table is held in memory."""
    from rich.cells import cell_len

    first = list(itertools.islice(lines, MEASURED_ROWS))
    headers = [[column.header for column in columns]] if first and any(column.header for column in columns) else []
    widths = [max(map(cell_len, column)) for column in zip(*headers, *first, strict=True)]
    for line in itertools.chain(headers, first, lines):
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        filled = (space + cell if column.right else cell + space for cell, space, column in zip(line, spaces, columns, strict=True))
        yield _GAP.join(filled).rstrip() + "\n"


def _print_rich(lines: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    if not lines:
        return
    widths = [max(cell_len(text) for text in (column.header, *(line[at] for line in lines))) for at, column in enumerate(columns)]
    needs = [width if column.whole else min(width, column.least) for width, column in zip(widths, columns, strict=True)]
    kept = fitting(needs, [column.rank for column in columns], terminal_width())
    if sum(needs[at] + len(_GAP) for at in kept) - len(_GAP) > terminal_width():
        _print_records(lines, columns)
        return
    table = Table(
        box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold", show_header=any(column.header for column in columns)
    )
    for at in kept:
        column = columns[at]
        table.add_column(
            Text(column.header),
            justify="right" if column.right else "left",
            style=column.style,
            no_wrap=column.whole,
            overflow="fold",
            min_width=needs[at],
        )
    for line in lines:
        table.add_row(*(Text(line[at]) for at in kept))
    print_rich(table)
    left_out = [column.header for at, column in enumerate(columns) if at not in kept]
    if left_out:
        say(f"too narrow for: {', '.join(left_out)}", style="dim")


def _print_records(lines: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    """Print rows too wide for the terminal one under the other, a line a value; empty values are left out."""
    from rich.table import Table
    from rich.text import Text

    for number, line in enumerate(lines):
        grid = Table.grid(padding=(0, len(_GAP), 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for column, cell in zip(columns, line, strict=True):
            if cell:
                grid.add_row(Text(column.header), Text(cell, style=column.style))
        if number:
            print_rich("")
        print_rich(grid)


def fitting(needs: Sequence[int], ranks: Sequence[int], width: int) -> list[int]:
    """Which columns fit a width, those of the highest rank being given up first, from the right.

    Example:
        >>> fitting([10, 10, 10], [0, 1, 2], 25)
        [0, 1]
    """
    kept = list(range(len(needs)))
    while sum(needs[at] + len(_GAP) for at in kept) - len(_GAP) > width and any(ranks[at] for at in kept):
        kept.remove(max(kept, key=lambda at: (ranks[at], at)))
    return kept


def terminal_width() -> int:
    """Columns of the terminal; without one, as many as anything needs."""
    from rich.console import Console

    return Console().width if sys.stdout.isatty() else 10_000


def print_rich(what: "RenderableType") -> None:
    """Print something made of rich parts: coloured on a terminal, plain text of its natural width elsewhere."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False, markup=False, emoji=False).print(what)
        return
    # Through a buffer, because rich ends the process when a pipe closes.
    buffer = io.StringIO()
    Console(file=buffer, width=terminal_width(), color_system=None, highlight=False, markup=False, emoji=False).print(what)
    write(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())
