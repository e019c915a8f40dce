"""The directions of a layer that a mitigation scales: its intruders, or what stands beside them as a control."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.intruders.examining import Definition, Examined, each_examined
from weightspace.analysis.intruders.layer import TunedVector, vectors_of
from weightspace.analysis.intruders.pairing import Pairing
from weightspace.analysis.layers import Layer
from weightspace.errors import AnalysisError, one_line
from weightspace.linalg import Cache

WHICH = ("top", "all", "guarded")
Which = str | Mapping[str, Sequence[int]]
"""Of each layer its first intruder (`top`), `all`, or those that no degenerate band explains (`guarded`); or ranks (1 for the first vector) by layer."""

CONTROLS = ("neighbour", "energy", "random")
"""What is scaled in the intruders' place.

`neighbour`: of each intruder the vector of the nearest singular value that is no intruder, preferably much like a base vector (the
paper's control). `energy`: what the update consists of besides the intruders, by as much in Frobenius norm. `random`: a random
direction of one rank for each intruder, with its singular value.
"""


@dataclass(frozen=True, eq=False)
class Directions:
    """What is scaled in one layer: triplets, or where `is_rest` all of the update but these.

    Attributes:
        layer: which.
        ranks: places of the vectors among the tuned singular values, 1 for the first; of a control those that it stands for.
        u: left vectors, a column each.
        s: the singular values that they are scaled with.
        v: right vectors, a column each.
        is_rest: whether it is the rest of the update that is scaled.
        rest: Frobenius norm of that rest.
    """

    layer: Layer
    ranks: tuple[int, ...]
    u: Float[Tensor, "rows count"]
    s: Float[Tensor, " count"]
    v: Float[Tensor, "columns count"]
    is_rest: bool = False
    rest: float = 0.0

    def norm(self, lam: float) -> float:
        """Frobenius norm of what scaling by lambda changes."""
        size = abs(1 - lam) * float(torch.linalg.vector_norm(self.s.double()))
        return size if not self.is_rest else abs(self.share(lam)) * self.rest

    def share(self, lam: float) -> float:
        """How much of the rest scaling by lambda takes: as much as is taken of the intruders, but no more than there is."""
        wanted = (1 - lam) * float(torch.linalg.vector_norm(self.s.double()))
        return min(1.0, wanted / self.rest) if self.rest else 0.0

    def added(self, lam: float) -> Float[Tensor, "rows columns"]:
        """What triplets scaled by lambda add to the tuned matrix: `(lam - 1) sum s_i u_i v_i^T`."""
        return (self.u * ((lam - 1) * self.s)) @ self.v.T

    def scaled(self, matrix: Float[Tensor, "rows columns"], before: Float[Tensor, "rows columns"], lam: float) -> Tensor:
        """The tuned matrix with its directions scaled by lambda.

        Args:
            matrix: tuned.
            before: the base's.
            lam: 0 removes, 1 changes nothing, more amplifies.
        """
        if not self.is_rest:
            return matrix + self.added(lam).to(matrix)
        u, v = self.u.to(matrix), self.v.to(matrix)
        change = matrix - before.to(matrix)
        rest = change - (u * (u * (change @ v)).sum(0)) @ v.T
        return matrix - self.share(lam) * rest


def directions(
    pairing: Pairing,
    which: Which,
    definition: Definition,
    *,
    control: str | None = None,
    cache: Cache | None = None,
    generator: torch.Generator | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, Directions]:
    """Choose what is scaled in each layer; layers without an intruder, or without what the control needs, are not in it.

    Why others cannot be looked at at all (NaN, other shapes) goes into `left_out`, by name.

    Raises:
        AnalysisError: ranks that a layer has not, a layer that is not compared, or a random control without a generator.
    """
    if control is not None and control not in CONTROLS:
        raise AnalysisError(f"expected a control of {', '.join(CONTROLS)}, found '{one_line(control, 40)}'; the paper has 'neighbour'")
    if control == "random" and generator is None:
        raise AnalysisError("a random control draws directions; pass generator=torch.Generator().manual_seed(0)")
    if isinstance(which, str) and which not in WHICH:
        raise AnalysisError(f"expected which={', '.join(WHICH)} or ranks by layer, found '{one_line(which, 40)}'; the paper has 'top'")
    wanted = {name: _ranks(name, ranks) for name, ranks in which.items()} if isinstance(which, Mapping) else {}
    if not isinstance(which, str):
        pairing = replace(pairing, layers=tuple(layer for layer in pairing.layers if layer.name in wanted))
    deepest = max((max(ranks) for ranks in wanted.values()), default=0)
    looked = Definition(max(definition.k, deepest), definition.epsilon, definition.side, definition.gap)
    chosen: dict[str, Directions] = {}
    skipped = {} if left_out is None else left_out
    skipped |= pairing.skipped
    for seen in each_examined(pairing, looked, cache, skipped):
        name = seen.layer.name
        vectors = vectors_of(name, seen.base, seen.overlap, epsilon=looked.epsilon, side=looked.side, gap=looked.gap)
        ranks = _found(vectors, which) if isinstance(which, str) else wanted[name]
        if ranks and max(ranks) > len(vectors):
            raise AnalysisError(
                f"layer '{one_line(name, 80)}' has {len(vectors)} singular vectors, asked for number {max(ranks)}; give less"
            )
        one = _controlled(seen, vectors, ranks, looked, control, generator) if ranks else None
        if one is not None:
            chosen[name] = one
    for name in wanted:
        if name not in {layer.name for layer in pairing.layers} - skipped.keys():
            reason = skipped.get(name, "no layer that the two models share")
            raise AnalysisError(f"nothing of layer '{one_line(name, 80)}' can be scaled: {reason}; leave it out of which=")
    return chosen


def _ranks(name: str, ranks: Sequence[int]) -> tuple[int, ...]:
    made = tuple(sorted(set(ranks)))
    if not made or made[0] < 1:
        raise AnalysisError(
            f"which= gives layer '{one_line(name, 80)}' the ranks {list(ranks)}; expected numbers from 1 for the largest value"
        )
    return made


def _found(vectors: Sequence[TunedVector], which: str) -> tuple[int, ...]:
    ranks = tuple(one.rank for one in vectors if one.status == "intruder" or (one.status == "degenerate" and which != "guarded"))
    return ranks[:1] if which == "top" else ranks


def _controlled(
    seen: Examined,
    vectors: Sequence[TunedVector],
    ranks: tuple[int, ...],
    definition: Definition,
    control: str | None,
    generator: torch.Generator | None,
) -> Directions | None:
    """The triplets of these ranks, or what the control has in their place; None where it has nothing."""
    top = seen.overlap.tuned
    if control == "neighbour":
        ranks = neighbours(vectors, ranks, definition)
        if not ranks:
            return None
    at = torch.tensor(ranks, device=top.s.device) - 1
    u, s, v = (part.index_select(-1, at) for part in (top.u, top.s, top.v))
    if control == "random":
        assert generator is not None
        u, v = (_orthonormal(part, generator) for part in (u, v))
    if control != "energy":
        return Directions(seen.layer, ranks, u, s, v)
    along = s.double() - (u * (seen.before @ v)).sum(0).double()  # of the change: u^T W v is s
    rest = math.sqrt(max(0.0, seen.update_norm**2 - float(along.square().sum())))
    return Directions(seen.layer, ranks, u, s, v, is_rest=True, rest=rest)


def neighbours(vectors: Sequence[TunedVector], ranks: Sequence[int], definition: Definition) -> tuple[int, ...]:
    """Of each vector the one of the nearest singular value (by ratio) that is no intruder and no other's neighbour.

    Those with a similarity of at least (1 + epsilon) / 2 go before others: the paper's control is like a vector of the base.
    """
    free = [one for one in vectors if one.status == "kept" and one.rank not in ranks]
    taken: list[int] = []
    for vector in vectors:
        candidates = [one for one in free if one.rank not in taken]
        if vector.rank not in ranks or not candidates:
            continue
        alike = [one for one in candidates if getattr(one, definition.side) >= (1 + definition.epsilon) / 2]
        taken.append(min(alike or candidates, key=lambda one: abs(math.log(one.sigma / vector.sigma))).rank)
    return tuple(sorted(taken))


def _orthonormal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns of the same shape."""
    drawn = torch.randn(like.shape, dtype=torch.float64, generator=generator)
    made: Tensor = torch.linalg.qr(drawn)[0]
    return made.to(like)
