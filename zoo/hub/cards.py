"""Cards for what is pushed: what it holds, where it comes from, what was measured, and what nobody knows of it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from weightspace.errors import one_line

SHOWN = 50  # models in the card of a zoo


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


def model_card(name: str, row: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], parents: Sequence[str]) -> str:
    """The card of one model.

    Args:
        name: of the repository.
        row: of the table `models`.
        metrics: rows of the table `metrics` about it.
        parents: names or ids of the models that it was made from.
    """
    front: dict[str, Any] = {"tags": ["weightspace"], "library_name": row["library"] or "weightspace"}
    front |= {
        key: value
        for key, value in (("license", (row["licence"] or "").lower()), ("base_model", row["base_model"]), ("pipeline_tag", row["task"]))
        if value
    }
    front |= {"datasets": row["datasets"]} if row["datasets"] else {}
    lines = [f"# {_plain(name)}", "", f"{row['num_params']:,} parameters in {row['num_tensors']:,} tensors; id `{row['id']}`."]
    lines += ["", f"Architecture: {_plain(row['family'])}."] if row["family"] else []
    if metrics:
        lines += ["", "| measured | split | value |", "|-|-|-|"]
        lines += [f"| {_plain(one['name'])} | {_plain(one['split'] or '')} | {one['value']:.6g} |" for one in metrics]
    lines += ["", "## Where it comes from", ""]
    lines += [f"Made from {', '.join(map(_plain, parents))}."] if parents else ["No parents are recorded."]
    if row["recipe"]:
        lines += [
            "",
            "```json",
            json.dumps(json.loads(row["recipe"]), indent=1, sort_keys=True, ensure_ascii=True).replace("```", "` ` `"),
            "```",
        ]
    lines += ["", "## Limits", "", "What is not written here was not measured by whoever pushed this; " + _finite(row["is_finite"])]
    return _front(front) + "\n".join(lines) + "\n"


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
