"""The recipes that we and mergekit both carry out, as they are written and with the precision changed."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FOLDER = Path(__file__).parent / "recipes"

PROMISED = {"linear": 2, "slerp": 2, "task_arithmetic": 2, "ties": 8, "sce": 8, "breadcrumbs": 8, "della": 8, "dare_ties": 8}
"""How many times less processor time than mergekit we promise to take."""

PRECISIONS = {
    "as written": "dtype: bfloat16",
    "float32 inside": "dtype: float32\nout_dtype: bfloat16",
    "float64 throughout": "dtype: float64",
}
"""What stands where a recipe says `dtype: bfloat16`."""

CHANCE = ("dare_ties", "della")
"""Recipes that leave to chance what is kept: two tools never draw alike."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as a user of mergekit writes it; its paths are those of the models beside it."""

    name: str

    @cached_property
    def text(self) -> str:
        """As it is written."""
        return (FOLDER / f"{self.name}.yml").read_text(encoding="utf-8")

    @property
    def models(self) -> set[str]:
        """The folders that it reads."""
        return set(re.findall(r"model: \./(\w+)", self.text))

    @property
    def needs_chance(self) -> bool:
        """Whether what it keeps is drawn."""
        return self.name in CHANCE

    def at(self, precision: str, *, certain: bool = False) -> str:
        """The text with another precision.

        Args:
            precision: one of `PRECISIONS`.
            certain: whether to keep all where chance would decide what is kept.
        """
        text = self.text.replace(PRECISIONS["as written"], PRECISIONS[precision])
        return re.sub(r"density: [\d.]+", "density: 1.0", text) if certain and self.needs_chance else text


RECIPES = {path.stem: Recipe(path.stem) for path in sorted(FOLDER.glob("*.yml"))}
