"""Tokens: the rows of a network's layers cut into pieces of one length, and put together again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.metanets.batch import WeightBatch


@dataclass(frozen=True, eq=False)
class Tokens:
    """Networks of one architecture as sequences.

    A row holds all that belongs to one member of a layer's first axis, which in torch's layout is one output: its weights, its bias, its
    running statistics. Rows longer than a token are cut, shorter ones filled up with zeros (Schürholt et al., arXiv:2406.09997).

    Attributes:
        values: (networks, tokens, size).
        is_real: where a token holds values of the network, and not what fills it up.
        positions: of each token: its number, the number of its layer, its number in the layer.
        lengths: of the row that each token was cut from.
    """

    values: Float[Tensor, "networks tokens size"]
    is_real: Bool[Tensor, "tokens size"]
    positions: Int[Tensor, "tokens 3"]
    lengths: Int[Tensor, " tokens"]

    @property
    def size(self) -> int:
        """Values in a token."""
        return self.values.shape[-1]


def layers(batch: WeightBatch) -> list[list[str]]:
    """Tensors that share their rows: of one layer, with first axes of one size.

    Example:
        >>> from weightspace.spec import SymmetrySpec
        >>> spec = SymmetrySpec.parse({"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h'"}, sizes={"h": 3})
        >>> layers(WeightBatch.stack([{"a.weight": torch.zeros(3, 4), "a.bias": torch.zeros(3), "b.weight": torch.zeros(2, 3)}], spec))
        [['a.weight', 'a.bias'], ['b.weight']]
    """
    found: dict[tuple[str, int], list[str]] = {}
    for name, tensor in batch.tensors.items():
        if tensor[0].numel():
            found.setdefault((name.rpartition(".")[0], _rows(tensor)), []).append(name)
    return list(found.values())


def longest_row(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> int:
    """Length of the longest row of tensors, given by name and shape.

    Example:
        >>> longest_row([("a.weight", (3, 4)), ("a.bias", (3,)), ("b.weight", (2, 3))])
        5
    """
    rows: dict[tuple[str, int], int] = {}
    for name, shape in shapes:
        key = (name.rpartition(".")[0], shape[0] if shape else 1)
        rows[key] = rows.get(key, 0) + torch.Size(shape[1:]).numel()
    return max(rows.values(), default=1)


def tokenise(batch: WeightBatch, size: int) -> Tokens:
    """Cut networks into tokens.

    Args:
        batch: the networks.
        size: values in a token.
    """
    values, real, lengths, places = [], [], [], []
    for number, names in enumerate(layers(batch)):
        rows = torch.cat([batch.tensors[name].reshape(len(batch), _rows(batch.tensors[name]), -1) for name in names], -1)
        count, length = rows.shape[1:]
        pieces = -(-length // size)
        padded = torch.nn.functional.pad(rows, (0, pieces * size - length))
        values.append(padded.reshape(len(batch), count * pieces, size))
        real.append((torch.arange(pieces * size) < length).reshape(pieces, size).repeat(count, 1))
        lengths.append(torch.full((count * pieces,), length))
        places.append(torch.stack([torch.full((count * pieces,), number), torch.arange(count * pieces)], 1))
    place = torch.cat(places)
    positions = torch.cat([torch.arange(len(place))[:, None], place], 1)
    found = torch.cat(values, 1)
    return Tokens(found, *(one.to(found.device) for one in (torch.cat(real), positions, torch.cat(lengths))))


def detokenise(values: Float[Tensor, "networks tokens size"], batch: WeightBatch) -> WeightBatch:
    """Put tokens together: networks with the shapes of `batch`; the inverse of `tokenise`."""
    size, start, made = values.shape[-1], 0, dict(batch.tensors)
    for names in layers(batch):
        counts = [batch.tensors[name][0].numel() // _rows(batch.tensors[name]) for name in names]
        rows = _rows(batch.tensors[names[0]])
        stop = start + rows * -(-sum(counts) // size)
        row = values[:, start:stop].reshape(len(values), rows, -1)[..., : sum(counts)]
        for name, part in zip(names, torch.split(row, counts, -1), strict=True):
            made[name] = part.reshape(batch.tensors[name].shape)
        start = stop
    return replace(batch, tensors=made)


def _rows(stacked: Tensor) -> int:
    """Size of the first axis of stacked tensors; a number has one row."""
    return stacked.shape[1] if stacked.dim() > 1 else 1


__all__ = ["Tokens", "detokenise", "layers", "longest_row", "tokenise"]
