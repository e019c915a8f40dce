"""Factors of adapters brought into one frame: a pair's product says nothing of the matrix between its two factors."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError, MetanetError
from weightspace.metanets.layout import Layout
from weightspace.metanets.low_rank import Pair, Singular, adapter_spec, pairs_of, singular

Stacked = tuple[Float[Tensor, "networks rows _"], Float[Tensor, "networks _ columns"]]
"""The factors b and a of one update in many adapters; what they share is the rank."""

ROUNDS = 10
"""Of alignment to the mean; it changes little after five."""


def pairs_in(target: Target) -> list[Pair]:
    """The pairs of factors that an adapter is made of.

    Raises:
        GenerationError: the target is no adapter.
    """
    try:
        return pairs_of([Layout.of(adapter_spec({name: torch.empty(shape) for name, shape in target.shapes.items()}))], "lora")
    except MetanetError as error:
        raise GenerationError(f"generator 'lora' makes adapters, and was given networks that are none: {error}") from None


def opened(tensors: Mapping[str, Tensor], pairs: Sequence[Pair]) -> list[Stacked]:
    """The factors of stacked adapters as matrices, in float64."""
    return [(tensors[pair.b].double().movedim(2, -1).flatten(1, -2), tensors[pair.a].double().flatten(2)) for pair in pairs]


def closed(found: Sequence[tuple[Tensor, Tensor]], pairs: Sequence[Pair], target: Target) -> dict[str, Tensor]:
    """Undo `opened`, in float32."""
    made = {}
    for (b, a), pair in zip(found, pairs, strict=True):
        rows, rank, *cells = target.shapes[pair.b]
        made[pair.b] = b.reshape(len(b), rows, *cells, rank).movedim(-1, 2).float()
        made[pair.a] = a.reshape(len(a), *target.shapes[pair.a]).float()
    return made


def balanced(found: Stacked) -> Stacked:
    """Factors from the singular value decomposition of their product, its roots shared evenly; the largest entry of each left vector is positive.

    Adapters of one product get the same factors, save where singular values are equal. But singular vectors change places and sides from one
    adapter to the next where their values come close.
    """
    return _even(singular(*found), found[1].shape[1])


def truncated(found: Stacked, rank: int) -> Stacked:
    """The nearest product of a rank, balanced."""
    return _even(singular(*found), rank)


def aligned(found: Stacked, *, rounds: int = ROUNDS) -> Stacked:
    """Balanced factors turned by the orthogonal matrix, each, that brings them nearest to the mean of all (generalised Procrustes).

    The first mean is the mean of the products, of the rank of each; so no matrix between factors makes a difference.
    """
    b, a = balanced(found)
    wide = torch.cat([b, a.mT], 1)
    first, second = mean_product(found)
    mean = torch.cat([first, second.mT], 1)
    for _ in range(rounds):
        left, _values, right = torch.linalg.svd(wide.mT @ mean)
        wide = wide @ (left @ right)
        mean = wide.mean(0, keepdim=True)
    return wide[:, : b.shape[1]], wide[:, b.shape[1] :].mT


def mean_product(found: Stacked) -> tuple[Float[Tensor, "1 rows _"], Float[Tensor, "1 _ columns"]]:
    """The mean of products, cut to their rank, as balanced factors."""
    count, _, rank = found[0].shape
    return sums_of_products(found, found[0].new_full((1, count), 1 / count), rank)


def sums_of_products(
    found: Stacked, shares: Float[Tensor, "sums networks"], rank: int
) -> tuple[Float[Tensor, "sums rows _"], Float[Tensor, "sums _ columns"]]:
    """Sums of products, a share of each, cut to a rank, as balanced factors; no product is written out."""
    b, a = found
    beside = a.flatten(0, 1)[None]
    made = [truncated(((b * share[:, None, None]).permute(1, 0, 2).flatten(1)[None], beside), rank) for share in shares.to(b)]
    return torch.cat([left for left, _ in made]), torch.cat([right for _, right in made])


def _even(found: Singular, rank: int) -> Stacked:
    """Factors of a decomposition, filled up with zeros where it has fewer values than the rank."""
    u, s, v = found.u[..., :rank], found.s[..., :rank], found.v[..., :rank]
    peak = u.gather(1, u.abs().argmax(1, keepdim=True)).sign()
    root = torch.where(peak == 0, 1.0, peak) * s.sqrt()[:, None]
    fill = (0, rank - s.shape[-1])
    return torch.nn.functional.pad(u * root, fill), torch.nn.functional.pad(v * root, fill).mT


__all__ = ["Stacked", "aligned", "balanced", "closed", "mean_product", "opened", "pairs_in", "sums_of_products", "truncated"]
