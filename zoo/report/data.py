"""What a report says of a zoo, as plain lists and numbers for one block of JSON; of a large zoo, the first part."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

from weightspace.zoo import query
from weightspace.zoo.model_table import COLUMNS
from weightspace.zoo.query import Connection, arrow
from weightspace.zoo.report.plane import plane
from weightspace.zoo.zoo import Zoo

MAX_MODELS = 20_000  # rows of the table
MAX_TENSORS = 50_000  # of the models, in order, whose tensors, tags, files and recipes go along
MAX_EDGES = 20_000
MAX_TEXT = 1_000  # characters of one text
MAX_RECIPE = 6_000

_ID_DIGITS = 16
_USUAL = ("name", "num_params", "step")  # and metrics, as columns that are shown at first
_USUAL_METRICS = 2
_LABELS = {"num_params": "parameters", "num_bytes": "size", "num_tensors": "tensors", "is_finite": "finite", "base_model": "base model"}
_ALWAYS = ("name", "id")
_LEFT_OUT = ("model_id", "architecture_id", "path")
_ID = "model_id in (select unnest(?))"

_HEADLINE = """\
with chosen as (select model_id, num_params, run from model_table{where}
)
select count(*)::bigint as models, coalesce(sum(num_params), 0)::bigint as parameters,
       (select count(*) from files where model_id in (select model_id from chosen)) as files,
       (select coalesce(sum(size), 0)::bigint from files where model_id in (select model_id from chosen)) as bytes,
       (select count(distinct tensor_id) from model_tensors where model_id in (select model_id from chosen)) as "distinct tensors",
       count(distinct run) as "training runs", (select count(*) from quarantine) as quarantined
from chosen"""


def gather(zoo: Zoo, where: str | None = None) -> dict[str, Any]:
    """Read what the page shows.

    Args:
        zoo: what to report on.
        where: SQL condition on `model_table`; all models if left out.

    Returns:
        Values that JSON knows: no NaN, no dates, no bytes. Models are numbered by their row of the table, tensors by their first use.

    Raises:
        CatalogError: the condition is wrong, or there is no catalog.
    """
    with zoo.reading() as connection:
        [headline] = arrow(connection, _HEADLINE.format(where=f"\nwhere {where}" if where else "")).to_pylist()
        models = query.models(connection, where, limit=MAX_MODELS)
        model_ids: list[int] = models["model_id"].to_pylist()
        sizes = accumulate(models["num_tensors"].to_pylist())
        detailed = model_ids[: sum(size <= MAX_TENSORS for size in sizes)]
        rows = {number: row for row, number in enumerate(model_ids)}
        chart = plane(connection, model_ids)
        about, recipes = _about(connection, detailed)
        usual, others = _shown(models)
        return {
            "headline": headline,
            "columns": [_column(name, models[name], name in usual) for name in (*usual, *others)],
            **_tensors(connection, detailed),
            "recipes": recipes,
            "about": about,
            "edges": _edges(connection, model_ids),
            "map": {
                "rows": [rows[number] for number in chart.model_ids],
                "x": _numbers(chart.points[:, 0].tolist()),
                "y": _numbers(chart.points[:, 1].tolist()),
                "axes": list(chart.axes),
                "source": _text(chart.source),
            },
        }


def block(data: Mapping[str, Any]) -> str:
    """Write the data as JSON that can stand in a page: no text in it can end the block or begin a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(models: pa.Table) -> tuple[list[str], list[str]]:
    """Columns that say something: those that are shown at first, and the others; metrics by how many models have them."""
    said = [name for name in models.column_names if name not in _LEFT_OUT and (name in _ALWAYS or models[name].null_count < len(models))]
    metrics = sorted((name for name in said if name not in COLUMNS), key=lambda name: models[name].null_count)
    usual = [name for name in _USUAL if name in said]
    first = [*usual[:1], *metrics[:_USUAL_METRICS], *usual[1:]]
    rest = [*(name for name in said if name in COLUMNS), *metrics]
    return first, [name for name in rest if name not in first]


def _column(name: str, values: pa.ChunkedArray, is_usual: bool) -> dict[str, Any]:
    """One column of the table; texts that repeat are written once."""
    is_metric, is_number = name not in COLUMNS, pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    listed: list[Any] = values.to_pylist()
    made: dict[str, Any] = {
        "name": _text(name),
        "label": _text(_LABELS.get(name, name.replace("_", " ") if is_metric else name)),
        "type": "number" if is_number else "text",
        "metric": is_metric,
        "usual": is_usual,
        "colours": name not in _ALWAYS,
    }
    if is_number:
        return made | {"values": _numbers(listed)}
    texts = [None if value is None else value[:_ID_DIGITS] if name == "id" else _text(_said(value)) for value in listed]
    distinct = {text: code for code, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    if 2 * len(distinct) > len(texts):
        return made | {"values": texts}
    return made | {"values": list(distinct), "codes": [-1 if text is None else distinct[text] for text in texts]}


def _tensors(connection: Connection, model_ids: Sequence[int]) -> dict[str, Any]:
    """Which tensors stand where, and what the catalog knows of each; names are kept once for all models that share them."""
    listed = arrow(
        connection, f"select model_id, name, tensor_id from model_tensors where {_ID} order by model_id, position", [list(model_ids)]
    )
    names: dict[int, list[str]] = {number: [] for number in model_ids}
    held: dict[int, list[int]] = {number: [] for number in model_ids}
    places: dict[int, int] = {}
    for number, name, tensor in zip(*(listed[column].to_pylist() for column in listed.column_names), strict=True):
        names[number].append(_text(name, 300))
        held[number].append(places.setdefault(tensor, len(places)))
    layouts = {layout: place for place, layout in enumerate(dict.fromkeys(map(tuple, names.values())))}
    statistics = arrow(
        connection,
        "select tensor_id, dtype, shape, numel, num_zero, minimum, maximum, l2, std, kurtosis from tensors where tensor_id in (select unnest(?))",
        [list(places)],
    )
    ids = statistics["tensor_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda at: places[ids[at]])
    columns = {name: [values[at] for at in order] for name in statistics.column_names[1:] for values in (statistics[name].to_pylist(),)}
    return {
        "layouts": [list(layout) for layout in layouts],
        "held": [[layouts[tuple(names[number])], *held[number]] for number in model_ids],
        "tensors": {name: values if name in ("dtype", "shape") else _numbers(values) for name, values in columns.items()},
        "measures": _measures(connection, places),
    }


def _measures(connection: Connection, places: Mapping[int, int]) -> dict[str, dict[str, float]]:
    """What measures say of tensors, by measure and tensor: the last written, where parameters differ."""
    taken = arrow(
        connection,
        """select tensor_id, measure, key, arg_max(value, rowid) as value from measurements
        where tensor_id in (select unnest(?)) and value is not null and isfinite(value) group by all order by measure, key, tensor_id""",
        [list(places)],
    )
    found: dict[str, dict[str, float]] = {}
    for one in taken.to_pylist():
        found.setdefault(_measure(one), {})[str(places[one["tensor_id"]])] = _number(one["value"])
    return found


def _measure(one: Mapping[str, Any]) -> str:
    return _text(one["measure"] if one["key"] in ("", "value", one["measure"]) else f"{one['measure']}.{one['key']}")


def _about(connection: Connection, model_ids: Sequence[int]) -> tuple[list[dict[str, Any]], list[str]]:
    """Tags, files, measurements and recipes of models; recipes are numbered, for many models may share one."""
    about: dict[int, dict[str, Any]] = {number: {} for number in model_ids}
    asked = [list(model_ids)]
    for one in arrow(connection, f"select model_id, key, value from tags where {_ID} order by model_id, key", asked).to_pylist():
        about[one["model_id"]].setdefault("tags", {})[_text(one["key"])] = _text(one["value"] or "")
    for one in arrow(connection, f"select model_id, path, format, size from files where {_ID} order by file_id", asked).to_pylist():
        about[one["model_id"]].setdefault("files", []).append([_text(one["path"]), one["format"], one["size"]])
    of_models = f"select model_id, measure, key, arg_max(value, rowid) as value from measurements where {_ID} and isfinite(value)"
    for one in arrow(
        connection, f"{of_models} and tensor_id is null group by all order by measure, key limit {MAX_TENSORS}", asked
    ).to_pylist():
        about[one["model_id"]].setdefault("measured", {})[_measure(one)] = _number(one["value"])
    made = arrow(
        connection, f"select model_id, recipe_id, recipe from recipes join models using (recipe_id) where {_ID} order by model_id", asked
    )
    recipes: dict[int, int] = {}
    texts: list[str] = []
    for one in made.to_pylist():
        if one["recipe_id"] not in recipes:
            recipes[one["recipe_id"]] = len(texts)
            texts.append(_text(json.dumps(json.loads(one["recipe"]), indent=1), MAX_RECIPE))
        about[one["model_id"]]["recipe"] = recipes[one["recipe_id"]]
    return list(about.values()), texts


def _edges(connection: Connection, model_ids: Sequence[int]) -> list[list[str]]:
    """Who comes from whom, where one of the two is in the table: names of parent and child, and the kind of descent."""
    found = arrow(
        connection,
        f"""select p.name as parent, c.name as child, edges.kind from edges join models p on p.model_id = parent_id
        join models c on c.model_id = child_id where parent_id in (select unnest($1)) or child_id in (select unnest($1))
        order by all limit {MAX_EDGES}""",
        [list(model_ids)],
    )
    return [[_text(one["parent"]), _text(one["child"]), _text(one["kind"])] for one in found.to_pylist()]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        ", ".join(map(str, value)) if isinstance(value, list) else f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)
    )


def _text(value: str, most: int = MAX_TEXT) -> str:
    return value if len(value) <= most else f"{value[: most - 1]}…"


def _numbers(values: Iterable[Any]) -> list[Any]:
    return [None if value is None else _number(value) for value in values]


def _number(value: Any) -> Any:
    """Six digits of a number are what a page can show; what is not finite is unknown to JSON."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
