"""Memory that tensors share: names of one tensor are ties; tensors that overlap in part cannot move on their own."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def tied(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """For each further name of a tensor the first one: the same object, or the same view of the same memory."""
    first: dict[object, str] = {}
    out: dict[str, str] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if _has_memory(tensor) else id(tensor)
        owner = first.setdefault(place, name)
        if owner != name:
            out[name] = owner
    return out


def overlapping(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of tensors that share some memory but are not one view of it (a transpose, a range of rows); ties count once.

    A tensor some of whose own entries are one, as after `expand`, is paired with itself.
    """
    ties = tied(tensors)
    by_storage: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if name not in ties and _has_memory(tensor):
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    alone = [(name, name) for names in by_storage.values() for name in names if _repeats(tensors[name])]
    return alone + [pair for names in by_storage.values() if len(names) > 1 for pair in _pairs(tensors, names)]


def _has_memory(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and tensor.layout == torch.strided and not tensor.is_meta and tensor.data_ptr() != 0


def _repeats(tensor: Tensor) -> bool:
    return any(step == 0 and length > 1 for length, step in zip(tensor.shape, tensor.stride(), strict=True))


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the one after its last."""
    first, item = int(tensor.storage_offset()), tensor.element_size()
    last = first + sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return first * item, (last + 1) * item


def _pairs(tensors: Mapping[str, Tensor], names: list[str]) -> Iterator[tuple[str, str]]:
    """Parts of one flat buffer lie apart; ranges of columns have spans that cross but no common byte, so bytes are compared."""
    spans = {name: _span(tensors[name]) for name in names}
    for k, one in enumerate(names):
        for other in names[k + 1 :]:
            (start, end), (begin, stop) = spans[one], spans[other]
            if max(start, begin) < min(end, stop) and bool((_bytes(tensors[one]) & _bytes(tensors[other])).any()):
                yield one, other


def _bytes(tensor: Tensor) -> Tensor:
    """Which bytes of its storage a tensor occupies."""
    item = tensor.element_size()
    marks = torch.zeros(tensor.untyped_storage().nbytes(), dtype=torch.bool)
    shape, strides = (*tensor.shape, item), (*(step * item for step in tensor.stride()), 1)
    marks.as_strided(shape, strides, tensor.storage_offset() * item).fill_(True)
    return marks


def sharing_note(pair: tuple[str, str]) -> str:
    """What a spec's notes say of a pair that overlaps."""
    one, other = pair
    if one == other:
        return f"entries of tensor '{one}' share storage; its axes are fixed"
    return f"tensors '{one}' and '{other}' share storage in part; their axes are fixed"
