"""`weightspace show`: one model as people want to see it."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from weightspace.cli import cells
from weightspace.cli.layers import Layer, collapsed, single
from weightspace.cli.options import CATALOG, All, Format, Model, OutputFormat, ZooFolder, zoo_at
from weightspace.cli.output import Column, print_data, print_rich, print_table, rows_of, say
from weightspace.cli.pictures import bar, blocks
from weightspace.cli.progress import progress
from weightspace.errors import FormatError

if TYPE_CHECKING:
    from weightspace.checkpoint import Checkpoint
    from weightspace.zoo.look import Look

PLACE = 14
MANY = 24  # tensors from which on repeated layers are shown as one
_LONG_BEGIN = 12  # letters that all names share, from which on they are said once
_LONG = 240  # letters of a recipe
_HISTOGRAM_OF = 4  # of repeated tensors, so many are sampled

_COLUMNS = {
    "name": Column("tensor", cells.plain, whole=False, least=44),
    "times": Column("×", lambda value: "" if value == 1 else str(value), right=True, style="dim"),
    "shape": Column("shape", cells.shape, rank=1),
    "dtype": Column("dtype", style="dim", rank=4),
    "params": Column("elements", cells.count, right=True),
    "share": Column("share", lambda value: "" if value is None else f"{_percent(value):>6} {bar(value)}", rank=2),
    "mean": Column("mean", lambda value: _statistic(value), right=True, rank=5),
    "std": Column("std", lambda value: _statistic(value), right=True, rank=3),
    "l2": Column("l2", lambda value: _statistic(value), right=True, rank=4),
    "zeros": Column("zeros", lambda value: _percent(value), right=True, rank=6),
    "note": Column("", cells.plain, style="yellow"),
    "histogram": Column("histogram", cells.plain, style="cyan", rank=2),
}


def show(model: Model, everything: All = False, zoo: ZooFolder = None, format: OutputFormat = Format.table) -> None:
    """Show one model: what is known of it, then its layers.

    Works for files that are not catalogued too; such a file is read once. Repeated layers share a row, with their statistics taken together, unless --all is given. JSON holds everything, CSV a row for every tensor.

    Examples:
      weightspace show base
      weightspace show tuned.safetensors --all
      weightspace show base --format json
    """
    with progress("reading"):
        look = zoo_at(zoo).look(model)
    if format is Format.csv:
        print_data(look.page.tensors, format)
    elif format is Format.json:
        print_data([_everything(look)], format)
    else:
        _print_head(look, everything=everything)
        _print_tensors(look, every=everything)


def _everything(look: "Look") -> dict[str, Any]:
    page = look.page
    files = [{**row, "metadata": json.loads(row["metadata"]) if row["metadata"] else None} for row in rows_of(page.files)]
    return {
        **page.model,
        "is_catalogued": look.is_catalogued,
        "tags": page.tags,
        "parents": [{"name": name, "kind": kind} for name, kind in page.parents],
        "recipe": page.recipe,
        "metrics": list(rows_of(page.metrics)),
        "files": files,
        "tensors": list(rows_of(page.tensors)),
    }


def _print_head(look: "Look", *, everything: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for what, value in _facts(look, everything=everything):
        grid.add_row(Text(what), Text(value))
    print_rich(Text(cells.safe(look.page.model["name"]), style="bold"))
    print_rich(grid)


def _facts(look: "Look", *, everything: bool) -> Iterator[tuple[str, str]]:
    """What there is to say of a model, in order; what is not known is not mentioned."""
    page = look.page
    one = page.model
    tensors = list(rows_of(page.tensors))
    sizes: Counter[str] = Counter()
    for row in tensors:
        sizes[row["dtype"]] += row["nbytes"]
    yield "id", f"{one['id']}"
    yield "kind", ", ".join(filter(None, (one["kind"], cells.short(one.get("family")), one["format"])))
    yield "parameters", f"{one['num_params']:,} in {cells.counted(len(tensors), 'tensor')}, {cells.size(one['num_bytes'])}"
    yield (
        "dtypes",
        ", ".join(
            dtype if len(sizes) == 1 else f"{dtype} {100 * size / max(1, sizes.total()):.0f}%" for dtype, size in sizes.most_common()
        ),
    )
    if one["is_finite"] is None:
        yield "weights", "not read: only the header is known"
    elif not one["is_finite"]:
        bad = sum(row["num_nan"] + row["num_inf"] for row in tensors)
        yield "not finite", f"{cells.counted(bad, 'element')} NaN or infinite; 'weightspace ls --quarantined' says more"
    for label, key in (
        ("licence", "licence"),
        ("base model", "base_model"),
        ("datasets", "datasets"),
        ("languages", "languages"),
        ("task", "task"),
    ):
        if one.get(key):
            yield label, cells.short(one[key])
    if one.get("run") or one.get("step") is not None:
        facts = [cells.short(one.get("run"))] + [f"{key} {one[key]}" for key in ("step", "seed") if one.get(key) is not None]
        yield "run", ", ".join(filter(None, facts))
    for name, kind in page.parents:
        yield "made from", f"{cells.safe(name)} ({cells.safe(kind)})"
    if page.recipe:
        yield "recipe", _recipe(page.recipe, whole=everything)
    if page.tags:
        yield (
            "labels",
            ", ".join(f"{cells.safe(key)}={cells.safe(value)}" if value else cells.safe(key) for key, value in page.tags.items()),
        )
    for name, values in _metrics(list(rows_of(page.metrics))):
        yield name, values
    for place in rows_of(page.files):
        known = ", ".join(filter(None, (cells.size(place["size"]), cells.day(place["modified"]))))
        yield "file", f"{cells.safe(place['path'])}  {known}"
    if not look.is_catalogued and page.model["path"].startswith("hf:"):
        yield "catalog", "not asked, since this is what the Hub has now; 'weightspace hub ingest' takes it in"
    elif not look.is_catalogued:
        yield "catalog", "not in it, or changed since; 'weightspace ingest' takes it in"
    elif look.checkpoint is None:
        yield "catalog", "the file is gone; what is shown here was known before"


def _recipe(recipe: Mapping[str, Any], *, whole: bool) -> str:
    """How a model was made, as YAML in one line, the kind first."""
    import yaml

    said = {key: recipe[key] for key in sorted(recipe, key=lambda key: (key not in ("kind", "merge_method"), key))}
    text = cells.safe(yaml.safe_dump(said, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize).strip()[1:-1])
    return text if whole or len(text) <= _LONG else f"{text[:_LONG]}… (--all shows the rest)"


def _metrics(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """One line a split, each metric at its latest step."""
    latest: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        metrics = latest.setdefault(row["split"] or "", {})
        before = metrics.get(row["name"])
        if before is None or (row["step"] is None) or (before["step"] is not None and row["step"] >= before["step"]):
            metrics[row["name"]] = row
    for split, metrics in sorted(latest.items()):
        said = ", ".join(f"{cells.safe(name)} {cells.number(row['value'])}" for name, row in metrics.items())
        yield f"{cells.safe(split)} metrics".strip(), said


def _print_tensors(look: "Look", *, every: bool) -> None:
    tensors = list(rows_of(look.page.tensors))
    is_long = len(tensors) > MANY and not every
    layers = collapsed(tensors) if is_long else single(tensors)
    total = sum(layer.numel for layer in layers)
    begin = _shared([layer.name for layer in layers]) if sys.stdout.isatty() else ""  # elsewhere names are looked for
    rows = [_row(layer, total, look.checkpoint) for layer in layers]
    # What would stand in every row alike is left out.
    nothing: dict[str, Any] = {"times": 1, "note": "", "histogram": "", "zeros": 0, "dtype": rows[0]["dtype"] if rows else None}
    columns = {key: column for key, column in _COLUMNS.items() if key not in nothing or any(row[key] != nothing[key] for row in rows)}
    print_rich("")
    if begin:
        rows = [row | {"name": f"…{row['name'][len(begin) :]}"} for row in rows]
        say(f"every name begins with {cells.safe(begin)}", style="dim")
    print_table(rows, columns)
    if len(layers) < len(tensors):
        say(f"{len(tensors):,} tensors in {len(layers):,} rows; --all shows each", style="dim")


def _shared(names: Sequence[str]) -> str:
    """What all names begin with, up to the end of a part, where it is long enough to be in the way."""
    begin = os.path.commonprefix(list(names)) if len(names) > 1 else ""  # noqa: RUF071 - of letters, not of folders
    ends = [match.end() for match in re.finditer(r"::|__|[./:]", begin)]
    return begin[: ends[-1]] if ends and ends[-1] >= _LONG_BEGIN else ""


def _row(layer: Layer, total: int, checkpoint: "Checkpoint | None") -> dict[str, Any]:
    is_tied = not layer.owned
    note = f"= {layer.tensors[0]['alias_of']}" if is_tied else f"{layer.num_not_finite:,} not finite" if layer.num_not_finite else ""
    return {
        "name": layer.name,
        "times": len(layer.tensors),
        "shape": layer.tensors[0]["shape"],
        "dtype": layer.tensors[0]["dtype"],
        "params": layer.numel,
        "share": None if is_tied else layer.numel / max(1, total),
        "mean": layer.mean,
        "std": layer.std,
        "l2": layer.l2,
        "zeros": layer.zero_share,
        "note": note,
        "histogram": "" if checkpoint is None or checkpoint.path is None or is_tied else _histogram(layer, checkpoint),
    }


def _histogram(layer: Layer, checkpoint: "Checkpoint") -> str:
    from weightspace.zoo.histogram import histogram, sample

    some = layer.owned[:: -(-len(layer.owned) // _HISTOGRAM_OF)]
    try:
        made = histogram(
            [sample(checkpoint.info[one["name"]], checkpoint.storages[one["name"]]) for one in some if one["name"] in checkpoint.info]
        )
    except FormatError:  # the file changed under us; the rest of the page still stands
        return ""
    return blocks(made.counts) if made else ""


def _statistic(value: int | float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(share: int | float) -> str:
    return "" if share == 0 else "<0.1%" if share < 0.001 else f"{100 * share:.1f}%"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=CATALOG)(show)
