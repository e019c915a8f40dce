"""A folder with models, where recipes are tried."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.analysis.merging.small_models import StateDict, decoder, write

Recipe = dict[str, Any] | str


@dataclass
class Bench:
    """A folder with models `a`, `b` and `base`, where recipes are tried."""

    place: Path
    out: str = "out"
    options: tuple[str, ...] = ()
    made: list[Path] = field(default_factory=list)

    def model(self, name: str, tensors: StateDict | None = None, /, **more: torch.Tensor) -> str:
        """Save a model; the same tensors for the same name unless they are given."""
        path = write({**(tensors if tensors is not None else decoder(2, sum(name.encode()))), **more}, self.place / name)
        return str(path)

    def linear(self, *models: Any, **more: Any) -> dict[str, Any]:
        """A recipe that takes anything, of two sound models where none are named."""
        return {"merge_method": "linear", "models": list(models or (self.model("a"), self.model("b"))), "parameters": {"weight": 1}, **more}

    def tuned(self, method: str = "task_arithmetic", **more: Any) -> dict[str, Any]:
        """A recipe with a base."""
        return {**self.linear(merge_method=method, base_model=self.model("base")), **more}

    def file(self, name: str, content: str | bytes) -> str:
        """A file of any content."""
        (self.place / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return str(self.place / name)


def content(place: Path) -> dict[str, bytes]:
    """Every file, what interrupted merges leave under hidden names aside."""
    found = (path for path in place.rglob("*") if path.is_file() and ".partial" not in str(path))
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


def written(recipe: Recipe, place: Path) -> Path:
    path = place / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else json.dumps(recipe))
    return path
