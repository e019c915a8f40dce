"""A robust weight signature: what training on corrupted data adds to tensors of a model, as a value that is stored in one file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weightspace import dtypes
from weightspace.analysis.signatures.packing import packed_size, unpack
from weightspace.analysis.signatures.quantisation import LEAST, MOST, QUANTISERS, Grid
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import AnalysisError, UnknownNameError, guarded, one_line
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.provenance import MAX_CHARACTERS, stated, told
from weightspace.storage import Storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    _Tensors = Mapping[str, Tensor]
else:
    # Run-time type checkers look into a parametrised mapping, which would read a tensor at every call they check.
    _Tensors = Mapping

KIND = "signature"
CHANGE, NORM, GRIDS = "signature.", "norm.", "grids"
"""What names in the file begin with: changes of tensors, and tensors of batch norms; the levels of all quantised changes."""


@dataclass(frozen=True)
class Part:
    """One tensor of a signature, as it was extracted.

    Attributes:
        name: of the tensor that it changes.
        shape: of it.
        energy: sum of squares of the change, before it was quantised.
        clean: sum of squares of what clean training did to the tensor; None for a composition.
        along: how much of clean training was taken off: `<t, a> / <a, a>`; None for a composition.
    """

    name: str
    shape: tuple[int, ...]
    energy: float
    clean: float | None = None
    along: float | None = None

    @property
    def ratio(self) -> float | None:
        """Norm of the change over that of clean training; None where there was none, or it is not known."""
        return math.sqrt(self.energy / self.clean) if self.clean else None


@dataclass(frozen=True, eq=False, repr=False)
class Signature(_Tensors):
    """The changes of a signature by the name of the tensor that they belong to, each read or computed when asked for.

    Attributes:
        stored: the tensors as they lie in a file: changes as floats or as packed codes, their levels, and batch norms.
        parts: what was changed, in the order of the model.
    """

    stored: Checkpoint
    parts: Mapping[str, Part]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Signature":
        """Read a checkpoint as the signature that it is.

        Raises:
            AnalysisError: it is none.
            FormatError: it is damaged.
        """
        if (checkpoint.recipe or {}).get("kind") != KIND:
            raise AnalysisError(f"{_place(checkpoint)}: expected a signature, found a model; make one with 'weightspace signature extract'")
        return guarded(lambda _: _checked(cls(checkpoint, _parts(checkpoint))), checkpoint.path or Path("memory"))

    def __getitem__(self, name: str) -> Tensor:
        """The change of one tensor, in float32 or float64.

        Raises:
            UnknownNameError: the signature does not change it.
        """
        if name not in self.parts:
            raise UnknownNameError.of("tensor of the signature", name, self.parts)
        if not self.bits:
            return self.stored[CHANGE + name]
        part = self.parts[name]
        codes = unpack(self.stored.raw(CHANGE + name), self.bits, math.prod(part.shape))
        return self.grids[name].decode(torch.from_numpy(codes.astype("int64"))).float().reshape(part.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __repr__(self) -> str:
        kept = f"{self.bits} bits, {self.quantiser}" if self.bits else "floats"
        return f"<Signature of {len(self)} tensors in {self.num_bytes:,} bytes ({kept}), {self.compression:.1f} times less than the model>"

    @property
    def recipe(self) -> Mapping[str, Any]:
        """How it was made."""
        return self.stored.recipe or {}

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of the models (or signatures) it was made from."""
        return self.stored.parents

    @property
    def id(self) -> str:
        """Identity of its content, in hex."""
        return self.stored.id

    @property
    def bits(self) -> int:
        """Of a code; 0 where changes are stored as floats."""
        return int(self.recipe.get("bits") or 0)

    @property
    def quantiser(self) -> str | None:
        """What its levels are even in; None where changes are stored as floats."""
        return self.recipe.get("quantiser")

    @cached_property
    def grids(self) -> Mapping[str, Grid]:
        """The levels of each change, where it is quantised."""
        rows = self.stored[GRIDS].tolist() if self.bits else []
        return {
            name: Grid(self.quantiser or "", self.bits, low, high, scale, bool(zero))
            for name, (low, high, scale, zero) in zip(self.parts, rows, strict=bool(rows))
        }

    @property
    def norms(self) -> tuple[str, ...]:
        """Tensors of batch norms that it brings along whole, by their name in the model."""
        return tuple(sorted(name.removeprefix(NORM) for name in self.stored.info if name.startswith(NORM)))

    @property
    def left_out(self) -> Mapping[str, str]:
        """Tensors that could be no part of it, each with the reason."""
        return dict(self.recipe.get("left_out") or {})

    @property
    def energy(self) -> float:
        """Sum of squares of all changes, before they were quantised."""
        return math.fsum(part.energy for part in self.parts.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return self.stored.num_bytes

    @property
    def compression(self) -> float:
        """How many times more bytes the tensors of the whole robust model take."""
        return int(self.recipe.get("model_bytes") or 0) / max(self.num_bytes, 1)

    def table(self) -> list[dict[str, Any]]:
        """One row a tensor: its share of the energy, its size beside what clean training did, and the bytes it takes."""
        total = self.energy or 1.0
        return [
            {
                "tensor": part.name,
                "shape": list(part.shape),
                "energy": part.energy / total,
                "norm": math.sqrt(part.energy),
                "ratio": part.ratio,
                "along": part.along,
                "bytes": self.stored.info[CHANGE + part.name].nbytes,
            }
            for part in self.parts.values()
        ]

    def plot(self) -> "Figure":
        """Draw the share of the energy that each tensor has."""
        from weightspace.analysis.plotting import bars

        return bars(list(self.parts), [row["energy"] for row in self.table()], "share of the signature's energy")

    def save(self, path: str | Path) -> Path:
        """Write it as a safetensors file, a tensor at a time; the same signature gives the same bytes."""
        return save(self.stored, path, stated(self.recipe, self.parents))


def open_signature(path: str | Path) -> Signature:
    """Open the file of a signature.

    Raises:
        AnalysisError: it is a model, and no signature.
        FormatError: it does not exist, or is damaged.
    """
    return Signature.of(open_checkpoint(path))


def made(
    parts: Sequence[Part], tensors: Mapping[str, tuple[TensorInfo, Storage]], recipe: Mapping[str, Any], parents: Sequence[str]
) -> Signature:
    """Put a signature together from its parts and the tensors of its file.

    Raises:
        AnalysisError: there are more tensors than a file can describe.
    """
    whole = {"kind": KIND, **recipe, "tensors": [asdict(part) for part in parts]}
    described = stated(whole, parents)
    known, ids = told(described)
    if known is None:
        limit = f"{MAX_CHARACTERS:,} characters"
        raise AnalysisError(f"the description of {len(parts)} tensors is longer than {limit}; select fewer layers")
    info, storages = ({name: pair[at] for name, pair in tensors.items()} for at in (0, 1))
    stored = Checkpoint(info, storages, "memory", metadata=described, kind=KIND, recipe=known, parents=ids)  # type: ignore[arg-type]
    return Signature(stored, {part.name: part for part in parts})


def _parts(checkpoint: Checkpoint) -> dict[str, Part]:
    """What the recipe says of each tensor; a wrong type in it raises what `guarded` reports as damage."""
    made = {}
    for row in (checkpoint.recipe or {})["tensors"]:
        clean, along = (None if row[key] is None else float(row[key]) for key in ("clean", "along"))
        made[row["name"]] = Part(str(row["name"]), tuple(map(int, row["shape"])), float(row["energy"]), clean, along)
    return made


def _checked(signature: Signature) -> Signature:
    """See that a file holds what its recipe says, so that nothing is read as what it is not.

    Raises:
        AnalysisError: it does not.
    """
    bits, info = signature.bits, signature.stored.info
    if bits and (not LEAST <= bits <= MOST or signature.quantiser not in QUANTISERS or GRIDS not in info):
        raise AnalysisError(f"{_place(signature.stored)}: has codes of a kind that is not known here; extract the signature again")
    grids = info.get(GRIDS)
    if grids is not None and (grids.dtype, grids.shape) != ("F64", (len(signature), 4)):
        raise AnalysisError(f"{_place(signature.stored)}: has levels for another number of tensors; extract the signature again")
    for part in signature.parts.values():
        one = info.get(CHANGE + part.name)
        fits = one is not None and (
            (one.dtype, one.shape) == ("U8", (packed_size(math.prod(part.shape), bits),))
            if bits
            else dtypes.dtype(one.dtype).kind == "float" and one.shape == part.shape
        )
        if not fits:
            name = one_line(part.name, 80)
            raise AnalysisError(f"{_place(signature.stored)}: tensor '{name}' is not what its recipe says; extract the signature again")
    return signature


def _place(checkpoint: Checkpoint) -> str:
    return one_line(str(checkpoint.path or "the checkpoint"), 120)
