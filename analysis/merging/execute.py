"""Carrying a plan out, one tensor at a time and of large ones a slab at a time: read, combine, round once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weightspace import dtypes, identity
from weightspace.analysis.merging.chance import Chance
from weightspace.analysis.merging.embeddings import Gathered
from weightspace.analysis.merging.health import Measuring
from weightspace.analysis.merging.method import Slab
from weightspace.analysis.merging.plan import Part, Plan, Step
from weightspace.analysis.merging.recipe import Source
from weightspace.checkpoint import Checkpoint, Content, TensorInfo, content_of, tensor_bytes
from weightspace.errors import MergeError, WeightSpaceError, one_line
from weightspace.linalg import one_thread
from weightspace.storage import FileSpan, Produced, Storage, Strided, is_contiguous
from weightspace.storage import part as part_of

SLAB = 1 << 18  # elements of a slab: what is computed on it stays in a core's second-level cache
KEPT = 1 << 26  # bytes of a tensor's slabs that are kept between passes, in place of being read again

Evidence = Mapping[tuple[Source, str], Mapping[str, Tensor]]
"""State dicts of what data say, by the input and the name that a recipe has for them."""


@dataclass(frozen=True)
class Run:
    """A plan with the models that it is carried out on.

    Attributes:
        plan: what to do.
        models: by source; those that the plan was made for, or acted on since.
        evidence: what data say.
        device: where values are combined.
        ids: of the inputs' content: what chance tells them apart by.
        ended: set to stop the work at the next slab.
        digests: hashes of the inputs' tensors that were read from their first to their last byte on the way.
    """

    plan: Plan
    models: Mapping[Source, Checkpoint]
    evidence: Evidence = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ids: Mapping[Source, str] = field(default_factory=dict)
    ended: Event = field(default_factory=Event)
    digests: dict[Content, bytes] = field(default_factory=dict)

    def pieces(self, step: Step, measuring: Measuring | None = None) -> Iterator[Tensor]:
        """Make one tensor of the result, a run of rows after another, in its own dtype on the CPU; of one that is copied, bytes.

        Raises:
            MergeError: the method cannot do it; the message names the tensor.
        """
        if step.is_copy:
            yield self._copied(step)
            return
        slabs = _StepSlabs(self, step)
        element = torch_dtype(step.dtype)
        try:
            combine = self.plan.method.apply(slabs, step.parameters)
            for slab in slabs:
                rounded = combine(slab).to(element)
                if measuring is not None:
                    measuring.add(rounded.to(slab.tensors[0].dtype), [*slab.tensors, *([] if slab.base is None else [slab.base])])
                yield rounded.cpu()
        except MergeError as error:
            raise MergeError(f"tensor '{one_line(step.name, 80)}': {error}") from None
        except WeightSpaceError:
            raise
        except RuntimeError as error:
            raise MergeError(
                f"tensor '{one_line(step.name, 80)}': method '{self.plan.method.name}' failed ({one_line(str(error), 200)})"
            ) from error

    def _copied(self, step: Step) -> Tensor:
        first, *others = (self.models[part.source].raw(part.name) for part in step.parts)
        for part, other in zip(step.parts[1:], others, strict=True):
            if other != first:
                raise MergeError(
                    f"tensor '{one_line(step.name, 80)}' holds {step.dtype}, other numbers in '{step.parts[0].source}' than in "
                    f"'{part.source}'; integers are not merged: merge the models that they were quantized from, or make them equal"
                )
        return torch.frombuffer(first, dtype=torch.uint8) if first else torch.empty(0, dtype=torch.uint8)

    def expect_copies(self) -> None:
        """See that what is copied is the same in all models, before anything is made.

        Raises:
            MergeError: it is not.
        """
        for step in self.plan.steps:
            if step.is_copy and len(step.parts) > 1:
                self._copied(step)

    def lazily(self) -> Checkpoint:
        """The result as a checkpoint whose tensors are computed when they are read."""
        info: dict[str, TensorInfo] = {step.name: step.info for step in self.plan.steps}
        storages: dict[str, Storage] = {step.name: Produced(step.info.nbytes, partial(self._bytes, step)) for step in self.plan.steps}
        for name, owner in self.plan.aliases.items():
            info[name] = replace(info[owner], name=name, alias_of=owner)
            storages[name] = storages[owner]
        return Checkpoint(info, storages, "memory", recipe=self.plan.recipe.to_dict(), parents=tuple(self.ids.values()))

    def _bytes(self, step: Step) -> memoryview:
        with one_thread():
            pieces = list(self.pieces(step))
        return tensor_bytes(pieces[0] if len(pieces) == 1 else torch.cat(pieces))


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of a catalog's name.

    Example:
        >>> torch_dtype("BF16")
        torch.bfloat16
    """
    found: torch.dtype = getattr(torch, str(dtypes.dtype(name).torch))
    return found


@dataclass(frozen=True)
class _StepSlabs:
    """The slabs of one step, read anew at each iteration unless they are small enough to be kept."""

    run: Run
    step: Step
    _kept: list[Slab] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.step.shape

    def __iter__(self) -> Iterator[Slab]:
        if self._kept:
            yield from self._kept
            return
        bounds = self._bounds()
        element = self._element
        size = dtypes.numel(self.shape) * len(self.step.all_parts) * element.itemsize
        keep = len(bounds) == 1 or (self.run.plan.method.summary is not None and size <= KEPT)
        rows = [_Rows(self.run.models[part.source], part, self.run.digests) for part in self.step.all_parts]
        chance = Chance(
            self.run.plan.recipe.seed,
            self.step.name,
            0,
            tuple(self.run.ids.get(part.source, str(at)) for at, part in enumerate(self.step.parts)),
        )
        made = []
        for start, end in bounds:
            if self.run.ended.is_set():
                raise MergeError("the merge was stopped; run it again, and it goes on where it stopped")
            values = [self._widened(one.read(start, end), element) for one in rows]
            base = values.pop() if self.step.base is not None else None
            slab = Slab(tuple(values), base, chance.at(start), self._evidence(start, end), self.step.name)
            if keep:
                made.append(slab)
            yield slab
        self._kept.extend(made)

    def _bounds(self) -> list[tuple[int, int]]:
        """First and last row of each slab; tensors of fewer than two axes are not cut, nor are they for methods that want the whole."""
        rows = self.shape[0] if len(self.shape) > 1 else 1
        if self.run.plan.method.whole or len(self.shape) < 2 or not rows:
            return [(0, rows)]
        height = max(1, SLAB // max(1, dtypes.numel(self.shape[1:])))
        return [(start, min(start + height, rows)) for start in range(0, rows, height)]

    @property
    def _element(self) -> torch.dtype:
        infos = (self.run.models[part.source].info[part.name] for part in self.step.all_parts)
        double = self.run.plan.recipe.dtype == "F64" or any(info.dtype == "F64" for info in infos)
        return torch.float64 if double else torch.float32

    def _widened(self, tensor: Tensor, element: torch.dtype) -> Tensor:
        """Bring values into the dtype that is computed in, through the one that the recipe wants its inputs in."""
        wanted = self.run.plan.recipe.dtype
        tensor = tensor.to(self.run.device)
        return (tensor if wanted is None else tensor.to(torch_dtype(wanted))).to(element)

    def _evidence(self, start: int, end: int) -> Mapping[str, tuple[Tensor | None, ...]]:
        """What data say of these rows: cut as the tensor is where it has its shape."""
        made: dict[str, tuple[Tensor | None, ...]] = {}
        for key, places in self.step.evidence.items():
            found = [
                None if place is None else self.run.evidence[part.source, place].get(part.name)
                for place, part in zip(places, self.step.parts, strict=True)
            ]
            cut = [one if one is None or tuple(one.shape) != self.shape or one.ndim < 2 else one[start:end] for one in found]
            made[key] = tuple(one if one is None else one.to(self.run.device, self._element) for one in cut)
        return made


def _in_one_piece(storage: Storage) -> Storage:
    """The span of a file that a view without gaps is, as tensors of torch's own files are."""
    if isinstance(storage, Strided) and is_contiguous(storage.shape, storage.stride):
        return part_of(storage.base, storage.offset * storage.itemsize, storage.nbytes)
    return storage


class _Rows:
    """Runs of rows of one stored tensor: out of the file where it lies there as it is, otherwise out of the whole tensor, read once."""

    def __init__(self, checkpoint: Checkpoint, part: Part, digests: dict[Content, bytes]) -> None:
        self.checkpoint, self.name, self.info = checkpoint, part.name, checkpoint.info[part.name]
        self.storage = _in_one_piece(checkpoint.storages[part.name])
        self.element: Any = dtypes.dtype(self.info.dtype)
        self._gathered = self.storage.reader() if isinstance(self.storage, Gathered) else None
        self._whole: Tensor | None = None
        self._content, self._digests = content_of(checkpoint, part.name), digests
        is_known = self._content is None or self._content in digests
        self._hasher = None if is_known else identity.tensor_hasher(self.info.dtype, self.info.shape)
        self._left = self.info.nbytes

    def read(self, start: int, end: int) -> Tensor:
        """Read the rows from `start` to before `end`."""
        if self._gathered is not None and len(self.info.shape) > 1:
            return self._gathered(start, end)
        plain = isinstance(self.storage, FileSpan) and self.element.kind == "float" and self.element.bits >= 8 and self.info.nbytes
        if not plain:
            self._whole = self.checkpoint[self.name] if self._whole is None else self._whole
            return self._whole[start:end] if self._whole.ndim > 1 else self._whole
        assert isinstance(self.storage, FileSpan)
        shape = (end - start, *self.info.shape[1:]) if len(self.info.shape) > 1 else self.info.shape
        size = self.element.bits // 8
        raw = np.empty(dtypes.numel(shape) * size, np.uint8)
        offset = start * dtypes.numel(self.info.shape[1:]) * size
        self.storage.file.read_into(raw.data, self.storage.offset + offset)
        self._take(raw)
        return torch.from_numpy(raw).view(getattr(torch, self.element.torch)).reshape(shape)

    def _take(self, raw: npt.NDArray[np.uint8]) -> None:
        """Hash what was read, so that the model's id needs no reading of its own; slabs come in order, from the first."""
        if self._hasher is None or self._content is None:
            return
        self._hasher.update(raw.data)
        self._left -= raw.nbytes
        if not self._left:
            self._digests[self._content] = self._hasher.digest()
            self._hasher = None
