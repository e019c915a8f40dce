"""Low-rank pairs of an adapter: which tensors are the two factors of one update, their symmetry, and the update's singular values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.adapters.keys import Key, key_of
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.layout import Layout
from weightspace.spec import NeuronGroup, SymmetrySpec
from weightspace.symmetry import StateDict

SMALLEST = 1e-8
"""A singular value below this is told as this: logarithms have to end somewhere, and untrained updates are zero."""
NEGLIGIBLE = 1e-6
"""A singular value below this share of the largest is taken for rounding: for zero, and told as this share."""


@dataclass(frozen=True)
class Pair:
    """The two factors of one update.

    Attributes:
        module: that is updated, with the part of the pipeline and the adapter's name where the file says them.
        a: name of the tensor (rank, in, ...).
        b: name of the tensor (out, rank, ...).
        alpha: name of the number that the update is multiplied by and the rank divides, where the file has it.
        rows: of the update.
        columns: of the update, cells of a kernel included.
        rank: of the factors.
    """

    module: str
    a: str
    b: str
    alpha: str | None
    rows: int
    columns: int
    rank: int

    @property
    def update(self) -> tuple[str, int, int]:
        """What does not depend on the rank: module and shape."""
        return self.module, self.rows, self.columns


def adapter_spec(adapter: Checkpoint | StateDict) -> SymmetrySpec:
    """The symmetries of an adapter alone, its base being what it is: any invertible matrix between the two factors of an update.

    `(B M^-1) (M A) = B A`, so each pair has a neuron group of symmetry `linear` on its rank axis. All other axes count things of the
    base, whose order is fixed. What a configuration beside the weights multiplies updates by is not seen here.

    Args:
        adapter: of the names of any library that `weightspace.adapters` reads.

    Raises:
        MetanetError: there is no pair of factors, a factor is alone, or the ranks of two differ.

    Example:
        >>> spec = adapter_spec({"q.lora_A.weight": torch.zeros(2, 5), "q.lora_B.weight": torch.zeros(3, 2)})
        >>> spec.groups["q.rank"]
        NeuronGroup(name='q.rank', size=2, kind='permutable', symmetry='linear', per=None)
    """
    if isinstance(adapter, Checkpoint):
        shapes = {name: tuple(one.shape) for name, one in adapter.info.items()}
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in adapter.items()}
    groups: dict[str, NeuronGroup] = {}
    rows = {name: [str(size) for size in shape] for name, shape in shapes.items()}
    for pair in _pairs(shapes):
        group = re.sub(r"[^\w.]", "_", f"{pair.module}.rank".lstrip("."))
        group = group if re.match(r"[A-Za-z_]", group) else f"layer{group}"
        while group in groups:
            group += "_"
        groups[group] = NeuronGroup(group, pair.rank, symmetry="linear")
        rows[pair.a][0], rows[pair.b][1] = group, f"{group}'"
    return SymmetrySpec.parse({name: " ".join(row) for name, row in rows.items()}, groups=groups)


def pairs_of(layouts: Sequence[Layout], name: str) -> list[Pair]:
    """The pairs of adapters of one base; ranks may differ, those of the first are told.

    Args:
        layouts: of the adapters' specs.
        name: of the metanet that asks, for its messages.

    Raises:
        MetanetError: an architecture is no adapter, or they update different things.
    """
    found = []
    for layout in layouts:
        try:
            found.append(_pairs({tensor: layout.spec.shape(tensor) for tensor in layout.spec.tensors}))
        except MetanetError as error:
            raise MetanetError(f"metanet '{name}' reads adapters: {error}") from None
    for pairs in found[1:]:
        _expect_same([pair.update for pair in pairs], [pair.update for pair in found[0]], name)
    return found[0]


def pairs_in(batch: WeightBatch, updates: Sequence[tuple[str, int, int]], name: str) -> list[Pair]:
    """The pairs of a batch, which must update what a metanet was built for.

    Raises:
        MetanetError: they do not.
    """
    pairs = pairs_of([batch.layout], name)
    _expect_same([pair.update for pair in pairs], updates, name)
    return pairs


def _expect_same(found: Sequence[tuple[str, int, int]], expected: Sequence[tuple[str, int, int]], name: str) -> None:
    if list(found) != list(expected):
        other = next((one for one in [*found, *expected] if one not in expected or one not in found), found[0])
        raise MetanetError(
            f"metanet '{name}' reads adapters of one base, found some that differ in '{other[0]}' ({other[1]} x {other[2]}); "
            "build one for each base"
        )


def _pairs(shapes: Mapping[str, tuple[int, ...]]) -> list[Pair]:
    factors: dict[str, dict[str, str]] = {}
    for name in shapes:
        key = key_of(name)
        if key is not None and key.role in ("a", "b", "alpha"):
            factors.setdefault(_label(key), {})[key.role] = name
    whole = {module: one for module, one in factors.items() if one.keys() & {"a", "b"}}
    if not whole:
        raise MetanetError("no tensor is a factor of a low-rank update; give the state dict of an adapter, such as 'q.lora_A.weight'")
    made = []
    for module, one in whole.items():
        if not one.keys() >= {"a", "b"}:
            raise MetanetError(f"tensor '{next(iter(one.values()))}' is one factor of two, the other is not there; give the whole adapter")
        a, b = shapes[one["a"]], shapes[one["b"]]
        if len(a) < 2 or len(b) < 2 or a[0] != b[1]:
            raise MetanetError(
                f"factors '{one['a']}' of shape {list(a)} and '{one['b']}' of shape {list(b)} have no rank in common; "
                "expected (rank, in) and (out, rank)"
            )
        rows, columns = torch.Size((b[0], *b[2:])).numel(), torch.Size(a[1:]).numel()
        made.append(Pair(module, one["a"], one["b"], one.get("alpha"), rows, columns, a[0]))
    return made


def _label(key: Key) -> str:
    return ".".join(part for part in (key.component, key.module, key.adapter) if part)


@torch.no_grad()
def factors(batch: WeightBatch, pair: Pair) -> tuple[Float[Tensor, "networks rows rank"], Float[Tensor, "networks rank columns"]]:
    """The two factors of an update in float64, the scale that the file says in the first; data, so without gradients.

    Raises:
        MetanetError: one holds a value that is not finite.
    """
    a, b = batch.tensors[pair.a].double(), batch.tensors[pair.b].double()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise MetanetError(f"the update of '{pair.module}' holds values that are not finite; leave that adapter out")
    if pair.alpha is not None and pair.alpha in batch.tensors:
        b = b * (batch.tensors[pair.alpha].double() / pair.rank).reshape(-1, *(1 for _ in b.shape[1:]))
    return b.movedim(2, -1).flatten(1, -2), a.flatten(2)


@dataclass(frozen=True, eq=False)
class Singular:
    """Updates by their singular values, the same for all factors of one product, but for the sign of each pair of vectors.

    Attributes:
        u: (networks, rows, rank).
        s: (networks, rank), descending.
        v: (networks, columns, rank).
    """

    u: Float[Tensor, "networks rows rank"]
    s: Float[Tensor, "networks rank"]
    v: Float[Tensor, "networks columns rank"]


@torch.no_grad()
def singular(b: Float[Tensor, "networks rows rank"], a: Float[Tensor, "networks rank columns"]) -> Singular:
    """The singular value decomposition of `b @ a` from QR of both factors; the product is never made.

    Where singular values are equal, their vectors are any basis of what they span. Negligible ones are zero.
    """
    left, upper = torch.linalg.qr(b)
    right, lower = torch.linalg.qr(a.mT)
    u, s, v = torch.linalg.svd(upper @ lower.mT, full_matrices=False)
    s = torch.where(s > NEGLIGIBLE * s[..., :1], s, torch.zeros_like(s))
    return Singular(left @ u, s, right @ v.mT)


def spectrum(s: Float[Tensor, "networks rank"], count: int) -> Float[Tensor, "networks features"]:
    """What singular values say at any rank: norms, effective rank, number, and the first `count` relative to the largest, as logarithms.

    An update of zero has a defined value too. Effective rank: the exponential of the entropy (Roy and Vetterli, 2007).
    """
    share = s / s.sum(1, keepdim=True).clamp_min(SMALLEST)
    entropy = -torch.special.xlogy(share, share).sum(1)
    largest = s[:, :1].clamp_min(SMALLEST)
    relative = torch.nn.functional.pad(s / largest, (0, max(0, count - s.shape[1])))[:, :count].clamp_min(NEGLIGIBLE).log()
    norms = torch.stack([largest[:, 0].log(), s.square().sum(1).sqrt().clamp_min(SMALLEST).log()], 1)
    return torch.cat([norms, entropy.exp()[:, None], (s > 0).sum(1, keepdim=True).to(s), relative], 1)


SPECTRUM = 4
"""Features of `spectrum` beside the relative singular values."""

__all__ = ["SPECTRUM", "Pair", "Singular", "adapter_spec", "factors", "pairs_in", "pairs_of", "singular", "spectrum"]
