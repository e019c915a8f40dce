"""Intruder dimensions: singular vectors of a tuned model with large singular values that are like none of its base's."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from weightspace.analysis.intruders.counting import Overlap
from weightspace.analysis.intruders.examining import GAP, Definition, Examined, each_examined
from weightspace.analysis.intruders.layer import SHOWN, LayerIntruders, coordinates, num_determined, p_value, vectors_of
from weightspace.analysis.intruders.null import Null
from weightspace.analysis.intruders.pairing import Model, paired
from weightspace.analysis.intruders.result import Intruders
from weightspace.errors import AnalysisError
from weightspace.linalg import Cache, threads_for


def intruder_dimensions(
    base: Model,
    tuned: Model,
    k: int = 10,
    epsilon: float = 0.5,
    side: str = "left",
    *,
    gap: float = GAP,
    null: int = 0,
    null_keeps: str = "norm",
    generator: torch.Generator | None = None,
    cache: Cache | None = None,
    layers: str = "*",
    embeddings: bool = False,
    device: torch.device | str | None = None,
) -> Intruders:
    """Find the singular vectors of a tuned model that its base has not.

    Shuttleworth et al., LoRA vs full fine-tuning: an illusion of equivalence (arXiv:2410.21228), algorithm 1: of `W = U S V^T`, laid
    out as (out, in), the j-th left singular vector is an intruder where `max_i |<u0_i, u_j>| < epsilon`, for `j <= k`. As in the
    authors' code and unlike in the paper's text, the absolute value is taken. We depart from both in this: a vector whose singular
    value is zero is arbitrary, and not counted. A vector that was merely turned among base vectors of nearly one singular value passes
    for an intruder by that definition; `guarded` counts what is left without those (see `TunedVector`).

    Args:
        base: a matrix or a model.
        tuned: the same after training, or an adapter of the base.
        k: how many vectors of each layer to look at, those of the largest singular values.
        epsilon: the similarity under which a vector is an intruder.
        side: `left`: vectors of the outputs, as in the paper; `right`: of the inputs. The counts of both are in the table.
        gap: how far, as a part of its own, the base's singular values may be from that of a vector to be its band.
        null: how many random updates to draw for each layer, of the norm and rank of the real one.
        null_keeps: `spectrum` for random updates of the real one's singular values (see `Null`).
        generator: the source of chance for them, on the CPU; needed where `null` is not 0.
        cache: keeps the base's singular vectors by the content of its tensors: one cache for a base and all its adapters.
        layers: a pattern as in a shell, such as `*.attn.*`; only weights whose names fit are looked at.
        embeddings: whether to look at tables of embeddings, too; the paper does not.
        device: where to work; by default that of a matrix, else the CPU.

    Raises:
        AnalysisError: numbers out of range, no layer in common, or an adapter in the base's place.
        MergeError: an adapter that does not fit the base.

    Example:
        >>> base, new = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1])), torch.ones(5, 5)
        >>> intruder_dimensions(base, base + 4 * new, k=1).count, intruder_dimensions(base, base + 0.01 * new, k=1).count
        (1, 0)
    """
    definition = Definition(k, epsilon, side, gap)
    chance = Null(null, null_keeps, generator)
    pairing = paired(base, tuned, layers=layers, embeddings=embeddings, device=device)
    skipped = dict(pairing.skipped)
    found = []
    for seen in each_examined(pairing, definition, cache, skipped):
        try:
            with threads_for(min(seen.layer.size)):
                found.append(described(seen, list(seen.draws(chance, pairing.tuned.info[seen.layer.name].dtype))))
        except AnalysisError as error:  # LAPACK fails on a random update
            skipped[seen.layer.name] = str(error)
    return Intruders(tuple(found), skipped, k, epsilon, side)


def described(seen: Examined, draws: Sequence[Overlap]) -> LayerIntruders:
    """Say what was found in one layer, and how it stands to what random updates give."""
    side, epsilon = seen.definition.side, seen.definition.epsilon
    vectors = vectors_of(seen.layer.name, seen.base, seen.overlap, epsilon=epsilon, side=side, gap=seen.definition.gap)
    nulls = [getattr(one, side)[: len(vectors)] for one in draws]
    if nulls:
        vectors = tuple(
            replace(one, p=p_value(sum(bool(null[at] <= getattr(one, side)) for null in nulls), len(nulls)))
            for at, one in enumerate(vectors)
        )
    rows, columns = seen.layer.size
    return LayerIntruders(
        name=seen.layer.name,
        rows=rows,
        columns=columns,
        vectors=vectors,
        similarity=coordinates(seen.base, seen.overlap.tuned, side)[:, : min(len(vectors), SHOWN)].T.abs().cpu(),
        left=sum(one.left < epsilon for one in vectors),
        right=sum(one.right < epsilon for one in vectors),
        update_norm=seen.update_norm,
        base_norm=float(torch.linalg.vector_norm(seen.base.s.double())),
        method=seen.overlap.tuned.method,
        null=tuple(int((null < epsilon).sum()) for null in nulls),
        notes=tuple(_notes(seen, len(vectors))),
    )


def _notes(seen: Examined, scanned: int) -> Iterator[str]:
    """What is to be known of one layer's numbers."""
    rows, columns = seen.layer.size
    rank, most = num_determined(seen.base.s), min(rows, columns)
    if scanned < seen.definition.k:
        yield f"only {scanned} singular vector{'' if scanned == 1 else 's'}"
    if rank < most:
        yield f"the base has rank {rank} of {most}, and arbitrary vectors beyond"
    if (rows if seen.definition.side == "left" else columns) > most:
        yield f"the base's {seen.definition.side} vectors span {most} of {max(rows, columns)} dimensions"
