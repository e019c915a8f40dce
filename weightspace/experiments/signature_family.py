"""Networks of MNIST images for signatures: a start that tells how an image was turned, and from it networks of clean and of corrupted images."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from weightspace.experiments.signature_bench import Bench, Norms
from weightspace.experiments.signature_models import networks, setting

WIDTH, STEPS = 16, 400
CORRUPTIONS = ("noise", "stripe")
NORMS: Norms = "anew"
"""Batch norms are measured anew on corrupted images, whatever else is done, as the paper does for ResNets."""


@cache
def family(seeds: tuple[int, ...]) -> list[Bench]:
    """Train the networks of each seed."""
    whole = setting("mnist", WIDTH)
    given = replace(
        whole,
        corruptions={name: whole.corruptions[name] for name in CORRUPTIONS},
        learn={name: whole.learn[name] for name in ("a", "b")},
    )
    return [Bench(given, seed, networks(given, seed, STEPS)) for seed in seeds]


def mean(rows: Sequence[dict[str, float]], key: str) -> float:
    """Of one quantity over corruptions."""
    return sum(row[key] for row in rows) / len(rows)
