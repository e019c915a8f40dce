"""New weights: generators fitted on networks or through tasks, drawn from, and judged beside what embarrasses them."""

from weightspace.analysis.generation.drawing import generate, sample
from weightspace.analysis.generation.fitting import fit
from weightspace.analysis.generation.generator import Kind, WeightGenerator, Wish, generators, weight_generator
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.saving import checkpoint_of_generator, load_generator, save_generator
from weightspace.analysis.generation.target import Target

__all__ = [
    "Kind",
    "Material",
    "Target",
    "WeightGenerator",
    "Wish",
    "checkpoint_of_generator",
    "fit",
    "generate",
    "generators",
    "load_generator",
    "sample",
    "save_generator",
    "weight_generator",
]
