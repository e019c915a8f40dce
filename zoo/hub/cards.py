"""Cards for what is pushed: what it holds, where it comes from, what was measured, and what nobody knows of it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from weightspace.errors import one_line
from weightspace.zoo.hub.kinds import MOST, kind_of

SHOWN = 50  # models in the card of a zoo, metrics or parents in that of a model
MOST_RECIPE = 8000  # characters of a recipe in a card


def zoo_card(repo: str, tables: Mapping[str, pa.Table]) -> str:
    """The card of a data set that is a zoo."""
    models = tables["models"].to_pylist()
    licences = sorted({one["licence"] for one in models if one["licence"]})
    front = {"tags": ["weightspace", "model-zoo"], **({"license": licences[0].lower()} if len(licences) == 1 else {})}
    metrics = _metrics(tables.get("metrics"))
    lines = [
        f"# {_plain(repo)}",
        "",
        f"A zoo of {len(models):,} models ({sum(one['num_params'] or 0 for one in models):,} parameters, {tables['tensors'].num_rows:,} distinct tensors).",
        "",
        f"`weightspace hub pull {_plain(repo)}` makes it a zoo again, with the same ids. `tables/` are Parquet, keyed by content; `weights/` holds each tensor once, "
        "under its hash.",
        "",
        "| model | parameters | architecture | measured |",
        "|-|-|-|-|",
    ]
    for one in models[:SHOWN]:
        lines.append(
            f"| {_plain(one['name'])} | {one['num_params']:,} | {_plain(one['family'] or '')} | {_plain(metrics.get(one['id'], ''))} |"
        )
    lines += ["", f"and {len(models) - SHOWN:,} more"] if len(models) > SHOWN else []
    lines += ["", "Licences: " + (", ".join(map(_plain, licences)) or "none declared") + "."]
    return _front(front) + "\n".join(lines) + "\n"


def model_card(
    name: str, row: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], parents: Sequence[str], said: Mapping[str, str]
) -> str:
    """The card of one model: what it is, where it comes from, its settings, what was measured, and what nobody knows of it.

    Args:
        name: of the repository.
        row: of the table `models`.
        metrics: rows of the table `metrics` about it.
        parents: names or ids of the models that it was made from.
        said: what its file says of itself.
    """
    kind = kind_of(said, str(row["kind"]))
    lines = [f"# {_plain(name)}", "", *_sentences(kind.what)]
    lines += [f"{row['num_params']:,} parameters in {row['num_tensors']:,} tensors; id `{row['id']}`."]
    lines += ["", f"Architecture: {_plain(row['family'])}."] if row["family"] else []
    lines += ["", "```", *(one.format(repo=f"hf:{name}", name=name) for one in kind.use), "```"] if kind.use else []
    lines += ["", "## Measured", "", *_measured(metrics)]
    lines += ["", "## Where it comes from", "", *_sentences(kind.learned)]
    shown = ", ".join(map(_plain, parents[:SHOWN])) + (f" and {len(parents) - SHOWN:,} more" if len(parents) > SHOWN else "")
    lines += [f"Made from {shown}."] if parents else ["No parents are recorded."]
    lines += _settings(kind.settings)
    lines += _recipe(row["recipe"])
    limits = [*kind.limits, "What is not written here was not measured by whoever pushed this; " + _finite(row["is_finite"])]
    lines += ["", "## Limits", "", *limits]
    return _front(_model_front(row, kind.tag)) + "\n".join(lines) + "\n"


def _model_front(row: Mapping[str, Any], tag: str | None) -> dict[str, Any]:
    front: dict[str, Any] = {"tags": ["weightspace", *([tag] if tag else [])], "library_name": row["library"] or "weightspace"}
    said = (("license", (row["licence"] or "").lower()), ("base_model", row["base_model"]), ("pipeline_tag", row["task"]))
    front |= {key: value for key, value in said if value}
    return front | ({"datasets": row["datasets"]} if row["datasets"] else {})


def _sentences(said: Sequence[str]) -> list[str]:
    return [" ".join(_plain(one) for one in said), ""] if said else []


def _measured(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    if not metrics:
        return ["Nothing was recorded."]
    rows = [f"| {_plain(one['name'])} | {_plain(one['split'] or '')} | {one['value']:.6g} |" for one in metrics[:SHOWN]]
    more = ["", f"and {len(metrics) - SHOWN:,} more"] if len(metrics) > SHOWN else []
    return ["| measured | split | value |", "|-|-|-|", *rows, *more]


def _settings(settings: Mapping[str, Any] | None) -> list[str]:
    if not settings:
        return []
    rows = [f"| {_plain(key)} | {_plain(json.dumps(value, default=str))} |" for key, value in list(settings.items())[:MOST]]
    return ["", "| setting | value |", "|-|-|", *rows]


def _recipe(text: str | None) -> list[str]:
    """The recipe, where it is short enough to be read; it stands in the file's metadata in any case."""
    if not text:
        return []
    shown = json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=True).replace("```", "` ` `")
    if len(shown) > MOST_RECIPE:
        return ["", "Its recipe stands in the metadata of its file."]
    return ["", "```json", shown, "```"]


def _finite(said: bool | None) -> str:
    if said is None:
        return "the weights were not read."
    return "all weights are finite numbers." if said else "**some weights are NaN or infinite**."


def _metrics(table: pa.Table | None) -> dict[str, str]:
    """A few metrics of each model, in words."""
    out: dict[str, list[str]] = {}
    for one in table.to_pylist() if table is not None else ():
        if one["model"] and len(out.setdefault(one["model"], [])) < 3:
            split = f"{one['split']} " if one["split"] else ""
            out[one["model"]].append(f"{split}{one['name']} {one['value']:.4g}")
    return {model: ", ".join(found) for model, found in out.items()}


def _plain(text: str) -> str:
    """Text that markdown and HTML take as it is."""
    out = one_line(str(text), 200)
    for sign, stand in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
        ("`", "\\`"),
        ("[", "\\["),
        ("]", "\\]"),
        ("*", "\\*"),
        ("_", "\\_"),
    ):
        out = out.replace(sign, stand)
    return out


def _front(said: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(said), sort_keys=True, allow_unicode=True)}---\n"


__all__ = ["model_card", "zoo_card"]
