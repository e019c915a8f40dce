"""`weightspace diff`: what changed between two models."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.cli import cells
from weightspace.cli.options import CATALOG, All, Format, Model, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, print_rich
from weightspace.cli.progress import progress

if TYPE_CHECKING:
    from weightspace.zoo.diff import TensorDiff

PLACE = 16
DIFFERENT = 1

_COLUMNS = {
    "status": Column("", style="yellow"),
    "tensor": Column("tensor", cells.plain, whole=False),
    "now": Column("now", whole=False, rank=1),
    "shape": Column("shape", rank=3),
    "dtype": Column("dtype", rank=4),
    "relative_l2": Column("relative L2", cells.number, right=True),
    "cosine": Column("cosine", lambda value: "" if value is None else f"{value:.6f}".rstrip("0").rstrip("."), right=True, rank=2),
    "max_abs": Column("max abs", cells.number, right=True, rank=5),
    "rank": Column("rank", right=True, rank=6),
}


def diff(
    a: Model,
    b: Model,
    everything: All = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when anything differs, as git diff does.")] = False,
    zoo: ZooFolder = None,
    format: OutputFormat = Format.table,
) -> None:
    """Compare two models tensor by tensor.

    Tells what is the same, moved, renamed, reshaped, cast, resized, changed (how far, in which direction, by which rank), added and removed. Prints what is not the same, or everything with --all.

    Examples:
      weightspace diff base.safetensors tuned.safetensors
      weightspace diff base.safetensors tuned.safetensors --all --format json
    """
    with progress("comparing"):
        found = list(zoo_at(zoo).diff(a, b))
    counts = Counter(one.status for one in found)
    listed = [one for one in found if everything or one.status != "same"]
    if format is Format.table:
        print_rich(_summary(counts))
        if listed:
            table_rows = [_shown(one) for one in listed]
            # A column in which nothing stands is left out: `now` without renames, `rank` without matrices.
            print_data(
                table_rows,
                format,
                {key: column for key, column in _COLUMNS.items() if any(row[key] not in (None, "") for row in table_rows)},
            )
    else:
        print_data([_row(one) for one in listed], format)
    if exit_code and set(counts) - {"same", "moved"}:
        raise typer.Exit(DIFFERENT)


def _summary(counts: Mapping[str, int]) -> str:
    from weightspace.zoo.diff import STATUSES

    total = cells.counted(sum(counts.values()), "tensor")
    if set(counts) <= {"same"}:
        return f"{total}, all the same"
    return f"{total}: {', '.join(f'{counts[status]:,} {status}' for status in STATUSES if counts[status])}"


def _row(one: "TensorDiff") -> dict[str, Any]:
    return {
        "status": one.status,
        "name": one.name,
        "new_name": one.new_name,
        "a_dtype": one.a and one.a.dtype,
        "a_shape": one.a and list(one.a.shape),
        "b_dtype": one.b and one.b.dtype,
        "b_shape": one.b and list(one.b.shape),
        "relative_l2": one.relative_l2,
        "cosine": one.cosine,
        "max_abs": one.max_abs,
        "rank": one.rank,
    }


def _shown(one: "TensorDiff") -> dict[str, Any]:
    row, measured = _row(one), one.status not in ("same", "moved", "renamed")
    return {
        "status": one.status,
        "tensor": one.name,
        "now": one.new_name,
        "shape": _change(cells.shape(row["a_shape"]), cells.shape(row["b_shape"])),
        "dtype": _change(row["a_dtype"] or "", row["b_dtype"] or ""),
        **{key: row[key] if measured else None for key in ("relative_l2", "cosine", "max_abs", "rank")},
    }


def _change(before: str, after: str) -> str:
    return before or after if before == after or not (before and after) else f"{before} → {after}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(diff)
