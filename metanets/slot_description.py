"""What a slot is, as numbers that mean the same in every architecture: kind, role, depth, sizes and symmetries, and which inputs it touches."""

import math
import zlib
from functools import lru_cache
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.metanets.layout import Layout, Slot
from weightspace.spec import Continuous

WORD = 8
"""Length of the vector of a word."""
WAVES = 6
"""Frequencies of a place's code."""
PLACE = 2 * WAVES
"""Length of a place's code."""
ROLES = ("q", "k", "v", "o", "qkv", "gate", "up", "down")
NUMBERS = 2 * WORD + 8 + 2 * (2 + len(get_args(Continuous)))
"""Length of a slot's description."""


@lru_cache(maxsize=4096)
def word(text: str) -> tuple[float, ...]:
    """A vector for a word, drawn from its checksum, so that it is the same in every architecture, and none is unknown."""
    generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
    return tuple(torch.randn(WORD, generator=generator, dtype=torch.float64).tolist())


@lru_cache(maxsize=1024)
def place_codes(count: int) -> Float[Tensor, "places codes"]:
    """A code for each place in an order: sines and cosines of wavelengths from 4 to about 4,000."""
    angle = torch.arange(count, dtype=torch.float64)[:, None] * (math.pi / 2) / 4 ** torch.arange(WAVES, dtype=torch.float64)
    return torch.cat([angle.sin(), angle.cos()], 1)


def describe(layout: Layout, slot: Slot) -> Float[Tensor, " numbers"]:
    """A slot's kind, role, part, place in depth, and the sizes and symmetries of both its sides."""
    depth = slot.depth / max(1, layout.depth - 1)
    numbers = [*word(slot.kind), *word(f"role {slot.role if slot.role in ROLES else 'other'}"), float(min(slot.part, 3))]
    numbers += [depth, math.sin(math.pi * depth), math.cos(math.pi * depth), math.log1p(slot.depth), math.log(layout.depth)]
    numbers += [math.log1p(slot.cells), float(len(slot.tips))]
    for read in (False, True):
        groups = [layout.groups[slot.groups[j]] for j in range(len(slot.groups)) if (j in slot.sources) == read]
        numbers += [sum(math.log1p(group.size) for group in groups), float(any(group.kind == "fixed" for group in groups))]
        numbers += [float(any(group.symmetry == symmetry for group in groups)) for symmetry in get_args(Continuous)]
    return torch.tensor(numbers, dtype=torch.float64)


__all__ = ["NUMBERS", "PLACE", "WAVES", "describe", "place_codes", "word"]
