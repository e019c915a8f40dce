"""Chance that depends on nothing but a seed and what is drawn for: the same on any device, with any number of workers, in any order."""

from dataclasses import dataclass, replace
from math import prod

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
        return torch.from_numpy((self._words(index, shape) >> 8).astype(np.float32)).mul_(2.0**-24)

    def keeps(self, index: int, shape: tuple[int, ...], share: float) -> Tensor:
        """Draw which entries of one input are kept, each with the same probability; the same entries each time.

        Args:
            index: which input.
            shape: of what is drawn: rows of the tensor.
            share: the probability, exact to 2^-32.

        Returns:
            True where an entry is kept, on the CPU.
        """
        words = self._words(index, shape)
        # The bound 2^32 itself does not fit into a word, and no word reaches it.
        kept = np.ones(shape, np.bool_) if share >= 1 else words < np.uint32(min(round(share * 2**32), 2**32 - 1))
        return torch.from_numpy(kept)

    def _words(self, index: int, shape: tuple[int, ...]) -> NDArray[np.uint32]:
        """32 random bits for each entry: two from each step of a generator that is moved on to the first entry."""
        digest = blake3(f"{self.seed}\0{self.tensor}\0{self.keys[index]}".encode()).digest()
        generator = np.random.PCG64(list(np.frombuffer(digest, np.uint32)))
        step, odd = divmod(self.row * prod(shape[1:]), 2)
        count = prod(shape)
        drawn = generator.advance(step).random_raw((odd + count + 1) // 2)
        return np.asarray(drawn).astype("<u8", copy=False).view(np.uint32)[odd : odd + count].reshape(shape)
