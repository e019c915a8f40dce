"""Small networks in files, as public model zoos keep them."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

HOSTILE = b"cos\nsystem\n(S'touch hacked'\ntR."
"""A pickle that would run a command, were it unpickled."""


def siren(seed: int, prefix: str = "seq.{}", widths: tuple[int, ...] = (2, 4, 4, 1)) -> dict[str, torch.Tensor]:
    """A state dict of linear layers, named by a pattern."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for at, (inner, outer) in enumerate(itertools.pairwise(widths)):
        state[f"{prefix.format(at)}.weight"] = torch.randn(outer, inner, generator=draw)
        state[f"{prefix.format(at)}.bias"] = torch.randn(outer, generator=draw)
    return state


def save(what: Mapping[str, Any], path: Path) -> Path:
    """Write with torch.save, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(what), path)
    return path


def hostile(path: Path) -> Path:
    """Write a pickle that would run a command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(HOSTILE)
    return path
