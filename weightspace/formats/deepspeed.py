"""DeepSpeed ZeRO folders: every parameter cut out of the flat float32 partitions that the ranks' optimizers keep."""

import re
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

from weightspace.checkpoint import Checkpoint, TensorInfo, tied
from weightspace.containers import torch_tree
from weightspace.containers.archive import Archive
from weightspace.containers.pickles import Call, Value
from weightspace.containers.plain import Plain
from weightspace.containers.torch_tensors import ITEMSIZE, Tensor
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format, torch_zip
from weightspace.storage import Pieces, SourceFile, Storage, part

_OPTIMIZER = re.compile(r"(?:\w+_)?zero_pp_rank_(\d{1,5})_mp_rank_(\d+)_optim_states\.pt")
_MODEL = re.compile(r"(?:zero_pp_rank_(\d{1,5})_)?mp_rank_(\d+)_model_states\.pt")
_COMPLETE = "bring the files of all ranks of one step together"


def sniff(path: Path, head: bytes) -> bool:
    """A folder with the states of a model and of its partitioned optimizer."""
    if head or not path.is_dir():
        return False
    names = [one.name for one in path.iterdir() if one.name.endswith("_states.pt")]
    return any(map(_OPTIMIZER.fullmatch, names)) and any(map(_MODEL.fullmatch, names))


def claims(folder: Path) -> frozenset[Path]:
    """The states of all ranks."""
    return frozenset(one for one in folder.iterdir() if _OPTIMIZER.fullmatch(one.name) or _MODEL.fullmatch(one.name))


@checkpoint_format("deepspeed", sniff=sniff, claims=claims)
def open_deepspeed(path: Path) -> Checkpoint:
    """Find where in the ranks' flat partitions each parameter lies; nothing is put together before it is read.

    Raises:
        FormatError: a rank is missing, model parallelism, or partitions that do not hold the shapes that the model states.
    """
    ranks, models = _by_rank(path, _OPTIMIZER), _by_rank(path, _MODEL)
    optimizers = [_Rank(ranks[rank], "optimizer_state_dict") for rank in range(len(ranks)) if rank in ranks]
    stage, world = optimizers[0].number("zero_stage"), optimizers[0].number("partition_count")
    if world != len(ranks) or len(optimizers) != world:
        raise FormatError(f"expected the optimizer states of {world} ranks, found {len(ranks)}", reason="missing", advice=_COMPLETE)
    if 0 not in models:
        raise FormatError("the model states of rank 0 are not there", reason="missing", advice=_COMPLETE)
    model = _Rank(models[0], None)
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    flats = [one.tensors_of(key) for one in optimizers]
    shapes = model.shapes("param_shapes")
    cut = _cut_stage3(flats, shapes) if stage == 3 else _cut_stage2(flats, shapes)
    tensors = {**model.buffers(), **dict(cut), **_frozen(model, models, stage, world)}
    info = {name: TensorInfo(name, one.dtype, one.shape) for name, one in tensors.items()}
    storages: dict[str, Storage] = {name: one.bytes for name, one in tensors.items()}
    shared = {name: owner for name, owner in _strings(model.state.get("shared_params")).items() if owner in info and name not in info}
    info = tied(info, shared)
    storages.update((name, storages[info[name].alias_of or name]) for name in shared)
    plain = Plain(lambda value: "<tensor>" if model.tensors.is_tensor(value) else None)
    said = {name: plain(value) for name, value in model.state.items() if isinstance(name, str) and isinstance(value, int | float | str)}
    extras = {key: one for index, rank in enumerate(optimizers) for key, one in rank.optimizer(index).items()}
    files = (*(ranks[rank] for rank in range(world)), *(models[rank] for rank in sorted(models)))
    metadata = {**said, "zero_stage": stage, "world_size": world}
    return Checkpoint(info, storages, "deepspeed", path=path, files=files, metadata=metadata, extras=extras)


def _by_rank(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for one in folder.iterdir():
        match = pattern.fullmatch(one.name)
        if match:
            if int(match[2]):
                raise FormatError(
                    "it is split over model-parallel ranks", reason="unsupported", advice="convert it with DeepSpeed's ds_to_universal"
                )
            found[int(match[1] or 0)] = one
    return found


class _Rank:
    """One file of states."""

    def __init__(self, path: Path, key: str | None) -> None:
        found, self.tensors = torch_zip.read(Archive(SourceFile.at(path)))
        self.path = path
        state = found.value.get(key) if key and isinstance(found.value, dict) else found.value
        if not isinstance(state, dict):
            raise FormatError(f"{path.name} holds no states", advice=_COMPLETE)
        self.state: dict[Value, Value] = state

    def number(self, key: str) -> int:
        """A count, or the largest of a list of counts; an enum's call counts as its value."""
        value = self.state.get(key)
        if isinstance(value, Call) and value.args:
            value = value.args[0]
        if isinstance(value, list) and value and all(type(one) is int for one in value):
            value = max(value)
        if type(value) is not int:
            raise FormatError(f"{self.path.name} has no '{key}'", reason="unsupported", advice="save it with a newer DeepSpeed")
        return value

    def tensors_of(self, key: str) -> list[Tensor]:
        """A list of flat tensors."""
        value = self.state.get(key)
        if not isinstance(value, list) or not all(self.tensors.is_tensor(one) for one in value):
            raise FormatError(f"{self.path.name} has no tensors in '{key}'", reason="unsupported", advice="save it with a newer DeepSpeed")
        return [self.tensors.tensor(one) for one in value]

    def shapes(self, key: str) -> list[dict[str, tuple[int, ...]]]:
        """The names and shapes of parameters, one mapping a group."""
        value = self.state.get(key)
        groups = value if isinstance(value, list) else [value] if isinstance(value, dict) else []
        for group in groups:
            if not isinstance(group, dict) or not all(isinstance(name, str) and _is_shape(shape) for name, shape in group.items()):
                raise FormatError(f"{self.path.name} has something else than names and shapes in '{key}'", advice=_COMPLETE)
        return groups

    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers, which are not partitioned."""
        module, names = self.state.get("module"), self.state.get("buffer_names")
        wanted = set(names) if isinstance(names, list) and all(isinstance(one, str) for one in names) else set()
        entries = module.items() if isinstance(module, dict) else ()
        return {name: self.tensors.tensor(value) for name, value in entries if name in wanted and self.tensors.is_tensor(value)}

    def optimizer(self, rank: int) -> dict[str, TensorInfo]:
        """Describe the rank's optimizer state, without the partitions that are the weights."""
        weights = ("fp32_flat_groups", "single_partition_of_fp32_groups")
        rest = {key: value for key, value in self.state.items() if key not in weights}
        return torch_tree.described(self.tensors, rest, ("optimizer", f"rank{rank}"))


def _is_shape(value: Value) -> bool:
    return isinstance(value, tuple) and all(type(n) is int and 0 <= n < 1 << 40 for n in value)


def _strings(value: Value) -> dict[str, str]:
    """Pairs of names, as a mapping or a list of pairs."""
    pairs = value.items() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {one[0]: one[1] for one in pairs if len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], str)}


def _cut_stage2(flats: list[list[Tensor]], shapes: list[dict[str, tuple[int, ...]]]) -> Iterator[tuple[str, Tensor]]:
    """Stages 1 and 2: a group's parameters follow one another in the ranks' partitions laid end to end, padding last."""
    if any(len(one) != len(shapes) for one in flats):
        raise FormatError(f"expected {len(shapes)} groups of partitions, found {len(flats[0])}", advice=_COMPLETE)
    for index, group in enumerate(shapes):
        line = [one[index] for one in flats]
        at = 0
        for name, shape in group.items():
            yield name, _span(name, line, at, shape)
            at += prod(shape)


def _cut_stage3(flats: list[list[Tensor]], shapes: list[dict[str, tuple[int, ...]]]) -> Iterator[tuple[str, Tensor]]:
    """Stage 3: every rank holds an equal slice of each parameter, padded; a rank's slices follow one another."""
    at = 0
    for name, shape in ((name, shape) for group in shapes for name, shape in group.items()):
        each = -(-prod(shape) // len(flats))
        slices = [_span(name, one, at, (each,)) for one in flats]
        yield name, _span(name, slices, 0, shape)
        at += each


def _span(name: str, line: list[Tensor], at: int, shape: tuple[int, ...]) -> Tensor:
    """Take a run of elements out of flat tensors laid end to end."""
    kind, count = line[0].dtype, prod(shape)
    itemsize = ITEMSIZE[kind]
    pieces: list[tuple[tuple[int, ...], tuple[int, ...], Storage]] = []
    filled = begin = 0
    for one in line:
        size = prod(one.shape)
        start, stop = max(at, begin), min(at + count, begin + size)
        if start < stop:
            pieces.append(((filled,), (stop - start,), part(one.bytes, (start - begin) * itemsize, (stop - start) * itemsize)))
            filled += stop - start
        begin += size
    if filled != count or any(one.dtype != kind for one in line):
        raise FormatError(
            f"the partitions hold {filled} of the {count} elements of '{one_line(name, 80)}'", reason="missing", advice=_COMPLETE
        )
    whole = pieces[0][2] if len(pieces) == 1 else Pieces(itemsize, (count,), tuple(pieces))
    return Tensor(kind, shape, whole, name)


def _frozen(model: _Rank, models: dict[int, Path], stage: int, world: int) -> dict[str, Tensor]:
    """Parameters that were not trained: whole in stages 1 and 2, sliced like the others in stage 3."""
    fragments, shapes = model.state.get("frozen_param_fragments"), model.shapes("frozen_param_shapes")
    if not shapes or not isinstance(fragments, dict):
        return {}
    if stage != 3:
        return {name: model.tensors.tensor(value) for name, value in fragments.items() if model.tensors.is_tensor(value)}
    if len(models) != world:
        raise FormatError(f"expected the model states of {world} ranks, found {len(models)}", reason="missing", advice=_COMPLETE)
    others = [model, *(_Rank(models[rank], None) for rank in range(1, world))]
    made: dict[str, Tensor] = {}
    for name, shape in shapes[0].items():
        line = [one.tensors.tensor(one.state["frozen_param_fragments"][name]) for one in others]
        made[name] = _span(name, [replace(one, shape=(prod(one.shape),)) for one in line], 0, shape)
    return made
