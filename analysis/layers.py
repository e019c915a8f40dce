"""The matrices of a checkpoint: which tensors are layers, what they are, and how each lies as (out, in)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from weightspace import dtypes
from weightspace.adapters.layout import Layout
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.dtypes import widened

Kind = Literal["dense", "kernel", "embedding"]

_EMBEDDING = re.compile(r"(^|[./:_])(\w*embed\w*|wte|wpe|shared)([./:_]|$)", re.IGNORECASE)
_KERAS = frozenset({"keras_h5", "keras"})


@dataclass(frozen=True)
class Layer:
    """One weight with at least two axes.

    Attributes:
        name: of the tensor.
        kind: a dense matrix, a convolution's kernel, or an embedding's table.
        shape: as stored.
        is_transposed: whether inputs come first: the Conv1D of GPT-2, and Keras's kernels.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    is_transposed: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs, times the cells of a kernel) of its matrix."""
        rows = self.shape[-1] if self.is_transposed else self.shape[0]
        count = 1
        for length in self.shape:
            count *= length
        return rows, count // rows if rows else 0

    def matrix(self, tensor: Tensor) -> Tensor:
        """Lay a tensor out as (out, in times cells), in float32 or wider; a view of it where that can be."""
        wide = widened(tensor)
        return wide.reshape(-1, wide.shape[-1]).T if self.is_transposed else wide.flatten(1)

    def tensor(self, matrix: Tensor) -> Tensor:
        """Lay a matrix out as the tensor is stored; the inverse of `matrix`."""
        return matrix.T.reshape(self.shape) if self.is_transposed else matrix.reshape(self.shape)


def layers(checkpoint: Checkpoint, *, embeddings: bool = False) -> list[Layer]:
    """The weights of a checkpoint that are matrices or kernels, in file order, from headers alone.

    Vectors (however many axes they have), integers, empty tensors and the further names of tied ones are no layers. A dense weight whose bias is as long as its
    last axis lies (in, out), and so do those beside it; a table is taken for an embedding by its name.

    Args:
        checkpoint: opened.
        embeddings: whether to take tables of embeddings, too.

    Example:
        >>> import torch
        >>> layers(Checkpoint.of({"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3), "embed.weight": torch.ones(5, 2)}))
        [Layer(name='fc.weight', kind='dense', shape=(3, 2), is_transposed=False)]
    """
    layout = Layout(checkpoint.info)
    made = (_layer(info, layout, is_keras=checkpoint.format in _KERAS) for info in checkpoint.info.values())
    return [one for one in made if one is not None and (embeddings or one.kind != "embedding")]


def common(checkpoints: Iterable[Checkpoint], *, embeddings: bool = False) -> list[Layer]:
    """The layers that all checkpoints have under one name and in one shape, in the order of the first."""
    first, *others = checkpoints
    return [
        layer for layer in layers(first, embeddings=embeddings) if all(_shape(other.info, layer.name) == layer.shape for other in others)
    ]


def _shape(info: Mapping[str, TensorInfo], name: str) -> tuple[int, ...] | None:
    return info[name].shape if name in info else None


def _layer(info: TensorInfo, layout: Layout, *, is_keras: bool) -> Layer | None:
    kind = dtypes.dtype(info.dtype).kind
    if kind not in ("float", "quantized") or len(info.shape) < 2 or not info.numel or info.alias_of is not None:
        return None
    if len(info.shape) > 2:
        if sum(length > 1 for length in info.shape) < 2:
            return None  # a vector with axes to broadcast along
        return Layer(info.name, "kernel", info.shape, is_keras)
    if _EMBEDDING.search(info.name):
        return Layer(info.name, "embedding", info.shape)
    return Layer(info.name, "dense", info.shape, layout.is_transposed(info.name, default=is_keras))
