"""Chance that depends on nothing but a seed and what is drawn for: the same on any device, with any number of workers, in any order."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Chance:
    """Draws for one run of rows of one tensor.

    Every entry of a tensor has its own place in one stream of numbers for each input, so that it makes no difference either how a
    tensor is cut into runs of rows.

    Attributes:
        seed: of the merge.
        tensor: its name.
        row: the first row.
        keys: what tells the inputs apart: ids of their content, so that their order makes no difference.
    """

    seed: int = 0
    tensor: str = ""
    row: int = 0
    keys: tuple[str, ...] = ()

    def at(self, row: int) -> "Chance":
        """The same chance at another run of rows."""
        return replace(self, row=row)

    def uniform(self, index: int, shape: tuple[int, ...]) -> Tensor:
        """Draw numbers from 0 to 1 (excluded) for one input: the same each time it is asked for.

        Args:
            index: which input.
            shape: of what is drawn: rows of the tensor.

        Returns:
            float32, on the CPU, in steps of 2^-24, the most that are evenly spaced in this dtype.
        """
        words = self._words(index, shape, np.dtype(np.uint32))
        return torch.from_numpy(np.asarray(words >> 8, np.float32)).mul_(2.0**-24)

    def keeps(self, index: int, shape: tuple[int, ...], share: float) -> Tensor:
        """Draw which entries of one input are kept, each with the same probability; the same entries each time.

        Args:
            index: which input.
            shape: of what is drawn: rows of the tensor.
            share: the probability, exact to 2^-32.

        Returns:
            True where an entry is kept, on the CPU.
        """
        words = self._words(index, shape, np.dtype(np.uint16))
        bound, rest = divmod(round(share * 2**32), 2**16)
        if bound == 2**16:
            return torch.ones(shape, dtype=torch.bool)
        kept = np.asarray(words < bound)
        # 16 bits do for all but one entry of 65,536; where these equal the bound, the place of the entry (Fibonacci hashing) tells.
        on_bound = np.flatnonzero(words == bound)
        places = (on_bound + self._first(shape)).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        kept.reshape(-1)[on_bound] = (places >> np.uint64(48)) < rest
        return torch.from_numpy(kept)

    def _first(self, shape: tuple[int, ...]) -> int:
        """The place of the first entry of these rows in the whole tensor."""
        return self.row * prod(shape[1:])

    def _words(self, index: int, shape: tuple[int, ...], word: np.dtype[Any]) -> NDArray[Any]:
        """Random bits for each entry: several from each step of a generator that is moved on to the first entry."""
        digest = blake3(f"{self.seed}\0{self.tensor}\0{self.keys[index]}".encode()).digest()
        generator = np.random.PCG64(list(np.frombuffer(digest, np.uint32)))
        each = 8 // word.itemsize
        step, skipped = divmod(self._first(shape), each)
        count = prod(shape)
        drawn = np.asarray(generator.advance(step).random_raw(-(-(skipped + count) // each)))
        return drawn.astype("<u8", copy=False).view(word)[skipped : skipped + count].reshape(shape)
