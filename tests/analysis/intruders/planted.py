"""Bases, updates and adapters made by code, and counts by the definition, written out slowly."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.checkpoint import Checkpoint


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed + sum(size)))


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    made: Tensor = torch.linalg.qr(drawn(rows, columns, seed=seed).double())[0]
    return made


def with_spectrum(values: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """A matrix in float32 with these singular values and random vectors."""
    count = len(values)
    return ((orthonormal(rows, count, seed) * values.double()) @ orthonormal(columns, count, seed + 1).T).float()


def decaying(rows: int = 48, columns: int = 40, seed: int = 0) -> Tensor:
    """A base whose singular values are well apart."""
    return with_spectrum(10 * 0.9 ** torch.arange(min(rows, columns)), rows, columns, seed)


def rank_one(size: tuple[int, int], sigma: float, seed: int = 7) -> Tensor:
    """A direction of its own."""
    u, v = (drawn(one, seed=seed + at) for at, one in enumerate(size))
    return sigma * torch.outer(u / u.norm(), v / v.norm())


def spread(base: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """A direction that is as like to each singular vector of a base as to any other: 1 / sqrt(their number)."""
    u, s, vh = torch.linalg.svd(base.double(), full_matrices=False)
    signs = drawn(2, len(s), seed=seed).sign().double() / len(s) ** 0.5
    return (sigma * torch.outer(u @ signs[0], signs[1] @ vh)).float()


def counted(base: Tensor, tuned: Tensor, k: int = 10, epsilon: float = 0.5, side: str = "left") -> int:
    """Intruders by the paper's definition, vector by vector, in float64."""
    before, after = (np.linalg.svd(one.double().numpy(), full_matrices=False) for one in (base, tuned))
    known, new = (one[0].T if side == "left" else one[2] for one in (before, after))
    return sum(max(abs(float(old @ vector)) for old in known) < epsilon for vector in new[:k])


def adapter(shapes: dict[str, tuple[int, int]], size: float = 1.0, rank: int = 2, **config: Any) -> Checkpoint:
    """A PEFT adapter of modules whose weights are (out, in)."""
    tensors: dict[str, Tensor] = {}
    for at, (module, (rows, columns)) in enumerate(shapes.items()):
        place = f"base_model.model.{module}"
        tensors[f"{place}.lora_A.weight"] = drawn(rank, columns, seed=at) * size**0.5
        tensors[f"{place}.lora_B.weight"] = drawn(rows, rank, seed=at + 50) * size**0.5
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(shapes), **config}
    return Checkpoint.of(tensors, kind="adapter", metadata={"adapter_config": settings})
