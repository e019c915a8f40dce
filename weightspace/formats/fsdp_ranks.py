"""One file a rank, as FSDP users save sharded state dicts (`model_world_size_2_rank_0.pt`): DTensors laid together again."""

import re
from math import prod
from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.containers import torch_tree
from weightspace.containers.archive import Archive
from weightspace.containers.pickles import Call, Global, Pickle, Value
from weightspace.containers.torch_tensors import ITEMSIZE, Tensor, Tensors, is_shape
from weightspace.errors import FormatError
from weightspace.formats import checkpoint_format, torch_zip
from weightspace.storage import Pieces, SourceFile, Storage

MAX_DEPTH = 16
_NAME = re.compile(r"(.*)world_size_(\d{1,5})_rank_(\d{1,5})\.pt")
_NOT_WEIGHTS = ("optim", "extra", "sched", "rng")


def sniff(path: Path, head: bytes) -> bool:
    """A folder with files of that name."""
    return not head and path.is_dir() and _files(path) is not None


def claims(folder: Path) -> frozenset[Path]:
    """The files of all ranks, those of optimizers too."""
    return frozenset(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


@checkpoint_format("fsdp", sniff=sniff, claims=claims)
def open_fsdp(path: Path) -> Checkpoint:
    """Read what every rank says of its tensors; the pieces are read when a tensor is.

    Raises:
        FormatError: a rank's file is missing, or the ranks do not fit together.
    """
    world, files = _files(path) or (0, {})
    missing = [rank for rank in range(world) if rank not in files]
    if missing or not files:
        raise FormatError(
            f"expected the files of {world} ranks, that of rank {missing[0] if missing else 0} is not there",
            reason="missing",
            advice="bring the files of all ranks together",
        )
    ordered = tuple(files[rank] for rank in range(world))
    ranks = _Ranks([torch_zip.read(Archive(SourceFile.at(one))) for one in ordered])
    return torch_tree.checkpoint(ranks.first, ranks, format="fsdp", path=path, files=ordered, metadata={"world_size": world})


def _files(folder: Path) -> tuple[int, dict[int, Path]] | None:
    """Find the world size and the weight files by rank; of several sets, the one named 'model' and the largest world."""
    sets: dict[tuple[bool, int, str], dict[int, Path]] = {}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and not match[1].startswith(_NOT_WEIGHTS) and int(match[3]) < int(match[2]):
            sets.setdefault((match[1].startswith("model"), int(match[2]), match[1]), {})[int(match[3])] = path
    best = max(sets, default=None)
    return None if best is None else (best[1], sets[best])


class _Ranks:
    """The pickles of all ranks as one source of tensors: rank 0 names them, every rank gives its part."""

    def __init__(self, files: list[tuple[Pickle, Tensors]]) -> None:
        self._files = files
        self.first, self._tensors = files[0]
        self._keys: dict[int, tuple[Value, ...]] = {}
        self._note(self.first.value, ())

    def _note(self, value: Value, keys: tuple[Value, ...]) -> None:
        if isinstance(value, dict) and len(keys) < MAX_DEPTH:
            for key, inner in value.items():
                self._note(inner, (*keys, key))
        elif self.is_tensor(value):
            self._keys.setdefault(id(value), keys)

    def is_tensor(self, value: Value) -> bool:
        """Whether rank 0 has a tensor here."""
        return self._tensors.is_tensor(value)

    def tensor(self, value: Call) -> Tensor:
        """Lay one tensor together from the local parts of all ranks; a tensor that is no DTensor is rank 0's."""
        if self._tensors.shard(value) is None:
            return self._tensors.tensor(value)
        keys = self._keys.get(id(value))
        if keys is None:
            raise FormatError("a shard lies in a list, expected dictionaries", reason="unsupported", advice="save a plain state dict")
        pieces: dict[tuple[int, ...], tuple[tuple[int, ...], tuple[int, ...], Storage]] = {}
        shape: tuple[int, ...] = ()
        kind = ""
        for rank, (found, tensors) in enumerate(self._files):
            other = found.value
            for key in keys:
                other = other[key]
            shard = tensors.shard(other)
            if shard is None:
                raise FormatError(f"rank {rank} has no shard of it", reason="missing", advice="bring the files of one step together")
            if not is_shape(shard[0]):
                raise FormatError(f"rank {rank} has it with a shape that is no tuple of counts", reason="hostile", advice="do not load it")
            local = tensors.tensor(shard[1])
            if rank and (shard[0], local.dtype) != (shape, kind):
                raise FormatError(
                    f"rank {rank} has it with shape {shard[0]}, rank 0 with {shape}", advice="bring the files of one step together"
                )
            shape, kind = shard[0], local.dtype
            starts, lengths = _box(shape, shard[2], rank, len(self._files), tensors)
            if prod(lengths):
                pieces[starts] = (starts, lengths, local.bytes)
        return Tensor(kind, shape, Pieces(ITEMSIZE[kind], shape, tuple(pieces.values())), keys)


def _box(shape: tuple[int, ...], spec: Value, rank: int, world: int, tensors: Tensors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find which box of a tensor a rank holds: its axes are cut as `torch.chunk` cuts them, one mesh axis after another."""
    placements = spec.state["placements"]
    mesh = (world,) if len(placements) == 1 else _mesh(spec.state["mesh"], tensors)
    if prod(mesh) != world or len(mesh) != len(placements):
        raise FormatError(f"its mesh {mesh} does not fit {world} ranks", reason="unsupported", advice="consolidate it with torch")
    starts, lengths = [0] * len(shape), list(shape)
    left = rank
    for place, (size, rest) in zip(placements, [(n, prod(mesh[i + 1 :])) for i, n in enumerate(mesh)], strict=True):
        coordinate, left = divmod(left, rest)
        name = place.function.name if isinstance(place, Call) and isinstance(place.function, Global) else "?"
        if name == "Replicate":
            continue
        if name != "Shard":
            raise FormatError(
                f"its placement is {name}, expected Shard or Replicate", reason="unsupported", advice="consolidate it with torch"
            )
        axis = place.state["dim"]
        chunk = -(-lengths[axis] // size)
        start = min(coordinate * chunk, lengths[axis])
        starts[axis], lengths[axis] = starts[axis] + start, min(chunk, lengths[axis] - start)
    return tuple(starts), tuple(lengths)


def _mesh(mesh: Call, tensors: Tensors) -> tuple[int, ...]:
    """Read the shape of a device mesh, from its tensor of ranks or from its layout."""
    if "mesh" in mesh.state:
        return tensors.tensor(mesh.state["mesh"]).shape
    return tuple(prod(axis.state["shape"]) for axis in mesh.state["_layout"].state["axes"])
