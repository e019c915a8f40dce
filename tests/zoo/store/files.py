"""What tests of the store share: files in memory, families of models, and what a store's folder holds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch

from weightspace.storage import BLOCK, Memory
from weightspace.zoo import Zoo


@dataclass(frozen=True)
class Buffer:
    """A file that is some bytes."""

    data: bytes

    @property
    def path(self) -> PurePath:
        return PurePath("buffer")

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        return self.data[offset : offset + count]

    def read_into(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self.data[offset : offset + len(buffer)]

    def blocks(self, offset: int, count: int, size: int = BLOCK) -> Iterator[memoryview]:
        return Memory(self.data[offset : offset + count]).blocks(size)


Tensors = dict[str, torch.Tensor]


def network(seed: int, dtype: torch.dtype = torch.float32, width: int = 64) -> Tensors:
    """A network of two layers."""
    drawn = torch.Generator().manual_seed(seed)
    made = {"embed": (100, width), "up.weight": (2 * width, width), "up.bias": (2 * width,), "down.weight": (width, 2 * width)}
    return {name: (0.02 * torch.randn(shape, generator=drawn)).to(dtype) for name, shape in made.items()}


def tuned(base: Tensors, seed: int, scale: float = 1e-4) -> Tensors:
    """A fine-tune of it, with the embedding frozen."""
    drawn = torch.Generator().manual_seed(seed)
    moved = {name: (one.float() + scale * torch.randn(one.shape, generator=drawn)).to(one.dtype) for name, one in base.items()}
    return {**moved, "embed": base["embed"]}


def family(zoo: Zoo, *, children: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0, width: int = 64) -> dict[str, str]:
    """Put a base and its fine-tunes into a zoo; ids by name. All but the last know their parent."""
    name = f"base{seed}"
    base = network(seed, dtype, width)
    made = {name: zoo.add(base, name)}
    for at in range(children):
        child = f"{name}-{at}"
        made[child] = zoo.add(tuned(base, 100 * seed + at + 1), child, parents=[name] if at < children - 1 else ())
    return made


def held(zoo: Zoo, suffix: str = "") -> dict[str, bytes]:
    """Files of the store by name."""
    store = zoo.catalog.home / "store"
    return {path.name: path.read_bytes() for path in sorted(store.rglob(f"*{suffix}")) if path.is_file()}


def stored_files(zoo: Zoo) -> dict[str, Path]:
    """Paths in the store by model id."""
    return {path.stem: path for path in (zoo.catalog.home / "store").glob("*/[0-9a-f]*")}
