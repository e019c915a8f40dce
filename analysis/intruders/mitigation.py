"""Mitigation: a tuned model whose intruder dimensions are scaled, computed when it is read."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from weightspace import dtypes
from weightspace.analysis.intruders.directions import Directions, Which, directions
from weightspace.analysis.intruders.examining import GAP, Definition
from weightspace.analysis.intruders.pairing import Model, Pairing, paired
from weightspace.analysis.intruders.scaled_adapter import scaled_adapter
from weightspace.checkpoint import Checkpoint, TensorInfo, tensor_bytes
from weightspace.errors import AnalysisError
from weightspace.linalg import Cache
from weightspace.storage import Produced, Storage

_KEPT = frozenset({"F64", "F32", "F16", "BF16"})  # dtypes that a result is rounded to; of others it comes in float32


def mitigate(
    base: Model,
    tuned: Model,
    lam: float,
    which: Which = "top",
    *,
    control: str | None = None,
    k: int = 10,
    epsilon: float = 0.5,
    side: str = "left",
    gap: float = GAP,
    merged: bool = False,
    truncate: bool = False,
    cache: Cache | None = None,
    generator: torch.Generator | None = None,
    layers: str = "*",
    embeddings: bool = False,
    device: torch.device | str | None = None,
) -> Checkpoint:
    """Scale intruder dimensions of a tuned model by lambda.

    Shuttleworth et al. (arXiv:2410.21228), section 5: `W(lam) = W0 + dW + (lam - 1) s_i u_i v_i^T`, with the triplet of an intruder of
    the tuned matrix `W0 + dW`. What is scaled is chosen now; tensors are computed when they are read, and rounded once, to the tuned
    model's dtype. All else stays byte for byte, and so does everything with a lambda of 1. Removing does not restore the base, since
    the vectors that are left are orthogonal to the ones removed. (PEFT's `reduce_intruder_dimension` has the same lambda in its
    code; its documentation calls it the part that is subtracted.)

    Where an adapter came in, an adapter comes out, of a rank that is larger by the number of scaled vectors: `dW` and what is added,
    exactly, as one product. The magnitudes of a DoRA fit no such product; `merged=True` gives the merged model.

    Args:
        base: a matrix or a model.
        tuned: the same after training, or an adapter of the base.
        lam: 0 removes, 1 changes nothing, more amplifies.
        which: of each layer the first intruder (the paper), `all`, those that no degenerate band explains (`guarded`), or ranks by
            layer, 1 for the first.
        control: scale something else in the intruders' place (see `CONTROLS`).
        k: see `intruder_dimensions`, as for all that follows and is not named here.
        epsilon: the similarity under which a vector is an intruder.
        side: whose vectors count.
        gap: of the guard.
        merged: whether to put an adapter into its base.
        truncate: whether an adapter keeps its ranks, by the best approximation of its new updates (as in PEFT).
        cache: keeps the base's singular vectors.
        generator: the source of chance of a random control.
        layers: a pattern of their names.
        embeddings: whether to look at embeddings, too.
        device: where to work.

    Returns:
        The model (of matrices: one tensor, `matrix`), with a recipe, which says of layers that were left out why, and the ids of its parents.

    Raises:
        AnalysisError: as `intruder_dimensions`; a lambda that is not finite; or an adapter that cannot be one again.
        MergeError: an adapter that does not fit the base.

    Example:
        >>> base = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1]))
        >>> mitigate(base, base + 4, 0.0, k=1)["matrix"].norm() < 5 < (base + 4).norm()
        tensor(True)
    """
    if not torch.isfinite(torch.tensor(lam)):
        raise AnalysisError(f"expected a finite lambda, found {lam}; 0 removes, 1 changes nothing")
    pairing = paired(base, tuned, layers=layers, embeddings=embeddings, device=device)
    left_out: dict[str, str] = {}
    chosen = directions(
        pairing, which, Definition(k, epsilon, side, gap), control=control, cache=cache, generator=generator, left_out=left_out
    )
    made = scaled_model(pairing, chosen, lam) if merged or pairing.adapter is None else scaled_adapter(pairing, chosen, lam, truncate)
    settings = {"k": k, "epsilon": epsilon, "side": side, "control": control, "truncate": truncate}
    ranks = {name: list(one.ranks) for name, one in chosen.items()}
    recipe: dict[str, Any] = {
        "kind": "mitigate",
        "lambda": lam,
        "which": which if isinstance(which, str) else "given",
        "ranks": ranks,
        "left_out": left_out,
        **settings,
    }
    return replace(made, recipe=recipe, parents=(pairing.base.id, pairing.given.id))


def scaled_model(pairing: Pairing, chosen: Mapping[str, Directions], lam: float) -> Checkpoint:
    """The tuned model with directions scaled by lambda; other tensors are those of the tuned model."""
    tuned = pairing.tuned
    info, storages = dict(tuned.info), dict(tuned.storages)
    for name, one in chosen.items() if lam != 1 else ():
        fresh = TensorInfo(name, _stored(tuned.info[name]), tuned.info[name].shape)
        storage: Storage = Produced(fresh.nbytes, partial(_bytes, pairing, one, lam))
        for other, stored in tuned.info.items():  # the further names of a tied tensor are of the same values
            if name in (other, stored.alias_of):
                info[other], storages[other] = replace(fresh, name=other, alias_of=stored.alias_of), storage
    return replace(tuned, info=info, storages=storages, format="memory", path=None, files=(), extras={})


def scaled_tensor(pairing: Pairing, one: Directions, lam: float) -> Tensor:
    """One tensor of the model as it is stored: in its layout and, where that is no quantised one, its dtype."""
    name = one.layer.name
    scaled = one.layer.tensor(one.scaled(pairing.after(one.layer), pairing.before(one.layer), lam))
    stored: torch.dtype = getattr(torch, dtypes.dtype(_stored(pairing.tuned.info[name])).torch or "")
    return scaled.to("cpu", stored)


def _stored(info: TensorInfo) -> str:
    return info.dtype if info.dtype in _KEPT else "F32"


def _bytes(pairing: Pairing, one: Directions, lam: float) -> memoryview:
    return tensor_bytes(scaled_tensor(pairing, one, lam))
