"""Embeddings under a common vocabulary: each row is fetched from where it lies when it is read."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from weightspace import dtypes
from weightspace.analysis.merging.tokenizer import MEAN, PADDING, ZERO, Common, Source
from weightspace.checkpoint import Checkpoint, TensorInfo, tensor_bytes
from weightspace.errors import MergeError
from weightspace.storage import BLOCK, FileSpan, Memory, Storage, part, read
from weightspace.vocabulary import Vocabulary

RUN = 1 << 23  # bytes put together at a time

Reader = Callable[[int, int], Tensor]
"""Gives the rows from the first number to before the second."""

_NAMED = re.compile(
    r"(?:.*\.)?(?:embed_tokens|embed_in|embed_out|wte|tok_embeddings|token_embd|token_embeddings?|tokens_embed|word_embeddings?|embeddings?"
    r"|emb|shared|lm_head|head|output|output_projection|decoder|predictions|vocab_projector)(?:\.weight|\.bias)?"
)


def vocabulary_tensors(checkpoint: Checkpoint, vocabulary: Vocabulary) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find the tensors whose rows stand for tokens: embeddings, heads and their biases, by name and by the number of rows.

    Returns:
        Their names; and those of other tensors that have as many rows, which are left as they are.

    Raises:
        MergeError: there is none.
    """
    named = {name: info.shape[0] for name, info in checkpoint.info.items() if info.shape and len(info.shape) < 3 and _NAMED.fullmatch(name)}
    fitting = [count for name, count in named.items() if len(checkpoint.info[name].shape) == 2 and count >= vocabulary.size]
    rows = vocabulary.rows if vocabulary.rows is not None or not fitting else min(fitting)
    fits = {name for name, count in named.items() if count == rows}
    fits |= {info.alias_of or info.name for info in checkpoint.info.values() if info.name in fits}
    found = tuple(name for name, info in checkpoint.info.items() if name in fits or info.alias_of in fits)
    if not any(len(checkpoint.info[name].shape) == 2 for name in found):
        wanted = f"{vocabulary.rows} rows, as its config says" if vocabulary.rows is not None else f"{vocabulary.size} rows or more"
        raise MergeError(
            f"{checkpoint.path or 'a model'}: expected an embedding with {wanted}, found none among {dict(list(named.items())[:4])}; "
            "leave tokenizer_source out, or correct vocab_size in its config.json"
        )
    others = tuple(name for name, info in checkpoint.info.items() if info.shape and info.shape[0] == rows and name not in found)
    return found, others


def with_vocabulary(
    checkpoint: Checkpoint, common: Common, index: int, all_inputs: Sequence[Checkpoint], embedding_names: Sequence[str]
) -> Checkpoint:
    """Bring the embeddings of one input to a common vocabulary, lazily; tied ones stay tied.

    Of a tensor that another input does not have, its rows are those of its one embedding: there the head is tied.

    Args:
        checkpoint: the input.
        common: the vocabulary, made of the same inputs.
        index: of this input among them.
        all_inputs: before any of them was brought to it, in the same order.
        embedding_names: what `vocabulary_tensors` found in this input.

    Raises:
        MergeError: an input that rows are taken from has no such tensor, or one of another width.
    """
    info, storages = dict(checkpoint.info), dict(checkpoint.storages)
    for name in (name for name in embedding_names if info[name].alias_of is None):
        gathered = storages[name] = _gathered(common, index, all_inputs, name, embedding_names)
        info[name] = TensorInfo(name, dtypes.from_torch(str(gathered.dtype)).name, (common.rows, *gathered.shape))
    for name in embedding_names:
        if owner := info[name].alias_of:
            info[name] = replace(info[owner], name=name, alias_of=owner)
            storages[name] = storages[owner]
    return replace(checkpoint, info=info, storages=storages, format="memory", path=None, files=(), extras={})


def with_one_vocabulary(
    checkpoints: Sequence[Checkpoint], sources: Sequence[Source], common: Common
) -> tuple[tuple[Checkpoint, ...], tuple[str, ...]]:
    """Bring all inputs of a merge to a common vocabulary.

    Args:
        checkpoints: the inputs.
        sources: what the vocabulary was made of, in the same order.
        common: the vocabulary.

    Returns:
        The inputs as they are merged; and what is to be said of it, a line each.

    Raises:
        MergeError: as `vocabulary_tensors` and `with_vocabulary`.
    """
    shared = next(vocabulary for _, vocabulary in sources if vocabulary is not None)
    made, notes = [], []
    for index, ((name, own), checkpoint) in enumerate(zip(sources, checkpoints, strict=True)):
        names, others = vocabulary_tensors(checkpoint, own or replace(shared, rows=None))
        made.append(with_vocabulary(checkpoint, common, index, checkpoints, names))
        notes.append(f"vocabulary of '{name}': {common.describe(index)}")
        if others:
            notes.append(
                f"'{name}': as many rows as the vocabulary, but no embedding by its name, and left as it is: {', '.join(others[:4])}"
            )
    return tuple(made), tuple(notes)


@dataclass(frozen=True)
class Gathered:
    """The rows of one tensor of one input, in the order of a common vocabulary.

    Attributes:
        common: the vocabulary.
        index: of the input.
        sources: the tensor in each input that rows are taken from, by index: the checkpoint and the name there.
        shape: of one row.
        dtype: the narrowest that holds the values of all sources.
    """

    common: Common
    index: int
    sources: dict[int, tuple[Checkpoint, str]]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return self.common.rows * self._width

    @property
    def _width(self) -> int:
        return dtypes.numel(self.shape) * self.dtype.itemsize

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Put rows together, some megabytes at a time, and cut them into blocks."""
        reader, height = self.reader(), max(1, RUN // max(1, self._width))
        for start in range(0, self.common.rows, height):
            yield from Memory(tensor_bytes(reader(start, min(start + height, self.common.rows)))).blocks(size)

    def reader(self) -> Reader:
        """Give what reads runs of rows, without holding more than these, where the inputs lie in files as they are.

        An input whose bytes are computed or compressed is held as a whole for as long as the reader is.
        """
        takers = {index: _Taker(checkpoint, name) for index, (checkpoint, name) in self.sources.items()}
        kept, donor = self.common.kept(self.index), self.common.donor
        padding: list[Tensor] = []

        def rows(start: int, end: int, with_padding: bool = True) -> Tensor:
            out = torch.zeros((end - start, *self.shape), dtype=self.dtype)
            own, kinds = kept[start:end], np.where(kept[start:end] < 0, donor[start:end], ZERO)
            _put(out, own >= 0, partial(_taken, takers[self.index], own))
            for other, taker in takers.items():
                _put(out, kinds == other, partial(_taken, taker, self.common.donor_row[start:end]))
            _put(out, kinds == MEAN, lambda at: self._mean(takers, self.common.places[:, start:end][:, at]))
            if with_padding and (kinds == PADDING).any():
                padding.extend([] if padding else [self._padding(lambda a, b: rows(a, b, False))])
                out[torch.from_numpy(kinds == PADDING)] = padding[0]
            return out

        return rows

    def _mean(self, takers: "dict[int, _Taker]", places: Int64[np.ndarray, "inputs rows"]) -> Tensor:
        """The mean over the inputs that have a row, in float32 or more."""
        total = torch.zeros((places.shape[1], *self.shape), dtype=_wider(self.dtype, torch.float32))
        for index, taker in takers.items():
            at = np.flatnonzero(places[index] >= 0)
            if at.size:
                total[torch.from_numpy(at)] += taker.take(places[index][at]).to(total)
        count = torch.from_numpy((places >= 0).sum(0)).to(total)
        return total / count.reshape(-1, *(1,) * len(self.shape))

    def _padding(self, reader: Reader) -> Tensor:
        """The mean of all rows that stand for tokens."""
        total, height = torch.zeros(self.shape, dtype=torch.float64), max(1, RUN // max(1, self._width))
        for start in range(0, self.common.rows, height):
            total += reader(start, min(start + height, self.common.rows)).sum(0, dtype=torch.float64)
        return (total / int((self.common.donor != PADDING).sum())).to(self.dtype)


def _taken(taker: "_Taker", rows: Int64[np.ndarray, " rows"], at: np.ndarray) -> Tensor:
    return taker.take(rows[at])


def _put(out: Tensor, chosen: np.ndarray, rows: Callable[[np.ndarray], Tensor]) -> None:
    """Write rows into their places, where there are any."""
    at = np.flatnonzero(chosen)
    if at.size:
        out[torch.from_numpy(at)] = rows(at).to(out.dtype)


def _gathered(common: Common, index: int, inputs: Sequence[Checkpoint], name: str, embedding_names: Sequence[str]) -> Gathered:
    taken = common.donor[common.kept(index) < 0]
    wanted = {index, *(int(one) for one in np.unique(taken) if one >= 0)}
    if (taken == MEAN).any():
        wanted |= set(np.flatnonzero((common.places[:, common.donor == MEAN] >= 0).any(1)).tolist())
    shape = inputs[index].info[name].shape[1:]
    sources: dict[int, tuple[Checkpoint, str]] = {}
    for one in sorted(wanted):
        own = name if name in inputs[one].info else _tied(common.names[one], inputs[one], name, embedding_names)
        if inputs[one].info[own].shape[1:] != shape:
            raise MergeError(
                f"tensor '{own}' has rows of shape {inputs[one].info[own].shape[1:]} in '{common.names[one]}' but {shape} in "
                f"'{common.names[index]}'; merge models of one architecture"
            )
        sources[one] = inputs[one], own
    return Gathered(common, index, sources, shape, reduce(_wider, (_element(*source) for source in sources.values())))


def _tied(model: str, checkpoint: Checkpoint, name: str, embedding_names: Sequence[str]) -> str:
    """The tensor that a head which is not there is tied to."""
    there = [other for other in embedding_names if other in checkpoint.info and len(checkpoint.info[other].shape) == 2]
    if len(there) != 1 or name.endswith("bias"):
        raise MergeError(f"model '{model}' has no tensor '{name}', of which others take rows; merge models of one architecture")
    return there[0]


def _element(checkpoint: Checkpoint, name: str) -> torch.dtype:
    element = dtypes.dtype(checkpoint.info[name].dtype)
    if element.kind not in ("float", "quantized") or (element.kind == "float" and element.torch is None):
        raise MergeError(f"tensor '{name}' has dtype {element.name}, whose rows cannot be moved; save its values as F16 first")
    return torch.float32 if element.kind == "quantized" else getattr(torch, str(element.torch))


def _wider(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    if a == b:
        return a
    return torch.promote_types(*(one if one.itemsize > 1 else torch.float32 for one in (a, b)))


class _Taker:
    """Rows of one stored tensor, in any order."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self.checkpoint, self.name, self.info = checkpoint, name, checkpoint.info[name]
        self.storage: Storage = checkpoint.storages[name]
        self.element: Any = dtypes.dtype(self.info.dtype)

    def take(self, rows: Int64[np.ndarray, " rows"]) -> Tensor:
        """Read these rows: neighbours in one piece."""
        if self.element.kind == "quantized" or not isinstance(self.storage, FileSpan | Memory):
            return self._whole[torch.from_numpy(rows)]
        width = self.info.nbytes // max(1, self.info.shape[0])
        raw = bytearray(len(rows) * width)
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for start, end in pairwise(cuts):
            raw[start * width : end * width] = read(part(self.storage, int(rows[start]) * width, (end - start) * width))
        return torch.frombuffer(raw, dtype=torch.uint8).view(getattr(torch, self.element.torch)).reshape(len(rows), *self.info.shape[1:])

    @cached_property
    def _whole(self) -> Tensor:
        return self.checkpoint[self.name]
