"""What is written beside a merged model: a manifest that says exactly how it came to be, its config, and a model card."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import torch
import yaml

from weightspace import dtypes
from weightspace.analysis.merging.health import Measured, warnings
from weightspace.analysis.merging.plan import Plan
from weightspace.analysis.merging.recipe import Recipe
from weightspace.checkpoint import Checkpoint
from weightspace.tied_heads import ties_head

MANIFEST, CARD, RECIPE = "merge.json", "README.md", "recipe.yaml"
_COUNTS = "num_hidden_layers", "n_layer", "num_layers"
_OF_EACH = "layer_types", "no_rope_layers", "layers_block_type"
"""Keys of configs that count layers, and ends of those that list something of each."""


def manifest_path(out: Path) -> Path:
    """Where the manifest of a result lies: in its folder, or beside its file."""
    return out / MANIFEST if out.is_dir() else out.with_name(f"{out.stem}.{MANIFEST}")


@dataclass(frozen=True)
class Report:
    """What came of a merge.

    Attributes:
        id: of the result's content, in hex.
        parents: ids of the models that went in, by what the recipe calls them.
        measured: what each tensor is like.
        hashes: of each tensor's content, in hex.
        notes: what the plan says.
        warnings: signs that something went wrong.
    """

    id: str
    parents: Mapping[str, str]
    measured: Mapping[str, Measured]
    hashes: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Signs of a broken merge, one line each."""
        return tuple(warnings(self.measured))


def manifest(plan: Plan, report: Report) -> str:
    """Everything that is needed to make the model again, and to know that it is the same, as JSON; the same merge gives the same text."""
    said = {
        "id": report.id,
        "recipe": plan.recipe.to_dict(),
        "parents": dict(report.parents),
        "method": {"name": plan.method.name, "paper": plan.method.paper},
        "arithmetic": "float64" if plan.recipe.dtype == "F64" else "float32 (float64 where an input is), rounded once",
        "versions": versions(),
        "notes": list(report.notes),
        "warnings": list(report.warnings),
        "tensors": {name: {"blake3": report.hashes[name], **_finite(asdict(one))} for name, one in report.measured.items()},
    }
    return json_text(said)


def _finite(value: Any) -> Any:
    """Plain values with null in place of numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def json_text(value: Mapping[str, Any]) -> str:
    """JSON for people to read, the same for equal values."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def versions() -> dict[str, str]:
    """What computed: a result may differ in its last bits under others."""
    return {
        "weightspace": version("weightspace"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
    }


def config(plan: Plan, checkpoint: Checkpoint, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result's config: that of the base or the first model, with what the merge changed.

    Args:
        plan: of the merge.
        checkpoint: whose config is taken.
        changes: that a common vocabulary brings.
    """
    given = checkpoint.metadata.get("config")
    if not isinstance(given, Mapping):
        return None
    made = {key: value for key, value in given.items() if key != "_name_or_path"}
    written = {step.dtype for step in plan.steps if not step.is_copy}
    if len(written) == 1:
        made["torch_dtype" if "torch_dtype" in made else "dtype"] = dtypes.dtype(written.pop()).torch
    for stack, origins in plan.layers.items():
        made = _with_layers(made, stack, origins)
    names = {*(step.name for step in plan.steps), *plan.aliases}
    if ties_head(checkpoint) and any(name in names and name not in plan.aliases for name in ("lm_head.weight", "embed_out.weight")):
        made["tie_word_embeddings"] = False
    return {**made, **changes}


def _with_layers(given: Mapping[str, Any], stack: str, origins: Sequence[int]) -> dict[str, Any]:
    """A config that counts the layers of one stack, and describes each of them, as they come out."""
    parts = [key for key in given if key.endswith("_config") and key.removesuffix("_config") in stack and isinstance(given[key], Mapping)]
    part = parts[0] if parts else "text_config"
    if parts or (isinstance(given.get(part), Mapping) and not any(key in given for key in _COUNTS)):
        return {**given, part: _with_layers(given[part], "", origins)}
    side = next((side for side in ("decoder", "encoder") if side in stack), "")
    count = next((key for key in (f"num_{side}_layers", f"{side}_layers", *_COUNTS) if key in given), None)
    if count is None:
        return dict(given)
    each = {
        key: [value[at] for at in origins]
        for key, value in given.items()
        if key.endswith(_OF_EACH) and isinstance(value, list) and len(value) == given[count] and max(origins) < len(value)
    }
    return {**given, count: len(origins), **each}


def card(plan: Plan, report: Report) -> str:
    """A model card: what was merged, how, and what to know of it."""
    parents = [f"- `{name}` (`{id[:12]}`)" for name, id in report.parents.items()]
    size = f", {plan.num_bytes:,} bytes" if report.measured else ""  # an adapter has others
    front = yaml.safe_dump({"tags": ["merge", "weightspace", plan.method.name]}, sort_keys=False)
    lines = [
        f"---\n{front}---",
        f"# {plan.recipe.name or 'A merge'}",
        f"Made with weightspace by the method `{plan.method.name}` ({plan.method.paper}) from:",
        "\n".join(parents),
        f"## Recipe\n\n```yaml\n{recipe_text(plan.recipe)}```",
        f"## What came of it\n\n{len(report.hashes)} tensors{size}, id `{report.id}`.",
        _listed("Warnings", report.warnings),
        _listed("Notes", report.notes),
        "The parents' licences hold for this model too: look at theirs before you share it.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return str(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True))


def _listed(title: str, lines: Sequence[str]) -> str:
    return f"{title}:\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""
