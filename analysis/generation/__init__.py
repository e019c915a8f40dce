"""New weights: generators fitted on networks or through tasks, drawn from, and judged beside what embarrasses them."""

import weightspace.analysis.generation.generators  # noqa: F401 - before the registry of that name, which it would replace
from weightspace.analysis.generation.card.card import Card, evaluation_card
from weightspace.analysis.generation.card.page import page
from weightspace.analysis.generation.drawing import generate, sample
from weightspace.analysis.generation.fitting import fit
from weightspace.analysis.generation.generator import Kind, WeightGenerator, Wish, generators, weight_generator
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.saving import checkpoint_of_generator, load_generator, save_generator
from weightspace.analysis.generation.target import Target

__all__ = [
    "Card",
    "Kind",
    "Material",
    "Target",
    "WeightGenerator",
    "Wish",
    "checkpoint_of_generator",
    "evaluation_card",
    "fit",
    "generate",
    "generators",
    "load_generator",
    "page",
    "sample",
    "save_generator",
    "weight_generator",
]
