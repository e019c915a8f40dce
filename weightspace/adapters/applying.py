"""A base with an adapter in it, as a checkpoint whose updated tensors are computed when they are read."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from weightspace import dtypes
from weightspace.adapters.adapter import Adapter
from weightspace.adapters.fitting import fit
from weightspace.adapters.reading import read_adapter
from weightspace.adapters.ties import hidden_head_beside, input_embedding, is_hidden_head, owner_of, saying_untied, untied
from weightspace.checkpoint import Checkpoint, TensorInfo, tensor_bytes
from weightspace.dtypes import widened
from weightspace.errors import MergeError, one_line
from weightspace.storage import Produced, Storage

_Tensors = tuple[
    dict[str, TensorInfo], dict[str, Storage], Mapping[str, Any]
]  # what a checkpoint says of tensors, where they lie, and its metadata


def apply_adapter(
    base: Checkpoint,
    adapter: Checkpoint | Adapter,
    *,
    weight: float = 1.0,
    alpha: float | None = None,
    names: Mapping[str, str] | None = None,
) -> Checkpoint:
    """Put an adapter into its base, lazily: each updated tensor is computed when it is read, one at a time.

    The result is what PEFT's `merge_and_unload` gives, but for two things. Updated tensors come in float32, or wider where base
    or adapter are, so that whoever writes them rounds once. And a tensor that the base ties to others is untied when it alone is
    updated, which is the function that was trained; PEFT's merge moves the other names along. With `ensure_weight_tying` in the
    adapter's config all names move. Where the head is no longer tied, `tie_word_embeddings` in the result's config is false.

    Args:
        base: the model that the adapter was trained on; left as it is.
        adapter: an opened adapter.
        weight: how far to go from the base (0) to the adapted model (1), along a straight line.
        alpha: see `read_adapter`.
        names: see `fit`.

    Raises:
        FormatError: see `read_adapter`.
        MergeError: the adapter does not fit the base.
    """
    fitted = fit(adapter if isinstance(adapter, Adapter) else read_adapter(adapter, alpha=alpha), base, names)
    follow = _with_ties if fitted.keeps_ties else _without_ties
    info, storages, metadata = follow(fitted, base, weight)
    return replace(base, info=info, storages=storages, metadata=metadata, format="memory", path=None, files=(), extras={})


def delta(adapter: Adapter, target: str, base: Checkpoint | None = None) -> Tensor:
    """What an adapter adds to one tensor by its low-rank update, in the tensor's shape.

    Args:
        adapter: as `read_adapter` or `fit` gives it.
        target: the tensor, as the adapter names it.
        base: needed for a DoRA, whose change depends on the base's values.

    Raises:
        UnknownNameError: the adapter has no such update.
        MergeError: a DoRA without its base.
    """
    update = adapter[target]
    if update.magnitude is None:
        return update.matrix().reshape(update.shape)
    if base is None:
        raise MergeError(f"the update of '{one_line(target, 80)}' sets magnitudes, so its change depends on the base; pass base=")
    start = widened(base[target])
    return update.applied_to(start) - start


def _with_ties(fitted: Adapter, base: Checkpoint, weight: float) -> _Tensors:
    """The tensors of the result, every name of an updated one moved along."""
    made: dict[str, tuple[TensorInfo, Storage]] = {}
    for name in fitted.targets:
        owner = owner_of(name, base)
        if owner not in made:  # the updates of other names are this one's
            made[owner] = _made(fitted, base, name, weight)
    info, storages = dict(base.info), dict(base.storages)
    first: dict[str, str] = {}
    for name in (*base.info, *made):
        owner = owner_of(name, base)
        if owner in made:
            one, storages[name] = made[owner]
            owner = first.setdefault(owner, name)
            info[name] = replace(one, name=name, alias_of=None if owner == name else owner)
    return info, storages, base.metadata


def _without_ties(fitted: Adapter, base: Checkpoint, weight: float) -> _Tensors:
    """The tensors of the result, an updated one no longer tied to others."""
    made = {name: _made(fitted, base, name, weight) for name in fitted.targets}
    head, embedding = hidden_head_beside(base, made), input_embedding(base)
    if head is not None and embedding is not None:
        made[head] = replace(base.info[embedding], name=head, alias_of=None), base.storages[embedding]
    info, is_broken = untied(base.info, made)
    is_broken = is_broken or any(is_hidden_head(name.removesuffix(".weight"), base) for name in made)
    info |= {name: one for name, (one, _) in made.items()}
    storages = {**base.storages, **{name: storage for name, (_, storage) in made.items()}}
    return info, storages, saying_untied(base) if is_broken else base.metadata


def _made(fitted: Adapter, base: Checkpoint, name: str, weight: float) -> tuple[TensorInfo, Storage]:
    """What the result says of one updated tensor, and where it comes from.

    Raises:
        MergeError: a whole tensor or a shift of another shape than the base's, or a base that holds no floats.
    """
    source = name if name in base.info else input_embedding(base) or "" if name in fitted.factors else None
    whole = fitted.whole.get(name)
    added = fitted.shifts[name][0] if name in fitted.shifts else None
    if source is None and whole is None:
        raise MergeError(f"the adapter shifts '{one_line(name, 80)}', which the base has not; apply it to the model that it was trained on")
    stored = fitted.checkpoint.info
    for other in (whole, added):
        if other is not None and source is not None and stored[other].shape != base.info[source].shape:
            raise MergeError(
                f"the adapter's '{one_line(other, 80)}' is {list(stored[other].shape)}, the base's '{one_line(name, 80)}' is "
                f"{list(base.info[source].shape)}; resize the base to what the adapter was trained on"
            )
    is_float = source is None or dtypes.dtype(base.info[source].dtype).kind in ("float", "quantized")
    if whole is not None and name not in fitted.factors and added is None and (weight == 1 or source is None or not is_float):
        return replace(stored[whole], name=name, alias_of=None), fitted.checkpoint.storages[whole]
    if source is None or not is_float:
        found = "nothing" if source is None else base.info[source].dtype
        raise MergeError(
            f"the adapter updates '{one_line(name, 80)}', where the base holds {found}, expected floats; open the base unquantised"
        )
    one = fitted.factors.get(name)
    parts = {base.info[source].dtype, *(stored[part].dtype for part in (whole, added, *((one.a, one.b) if one else ())) if part)}
    info = TensorInfo(name, "F64" if "F64" in parts else "F32", base.info[source].shape)
    return info, Produced(info.nbytes, partial(_bytes, fitted, base, name, source, weight))


def _bytes(fitted: Adapter, base: Checkpoint, name: str, source: str, weight: float) -> memoryview:
    return tensor_bytes(_updated(fitted, base, name, source, weight))


def _updated(fitted: Adapter, base: Checkpoint, name: str, source: str, weight: float) -> Tensor:
    """One tensor of the adapted model, or as much of the way there as `weight` says."""
    start = widened(base[source])
    update = fitted[name] if name in fitted.factors else None
    if update is not None and update.magnitude is None and name not in fitted.whole:
        return replace(update, scale=update.scale * weight).applied_to(start)
    end = widened(fitted.checkpoint[fitted.whole[name]]) if name in fitted.whole else start
    if update is not None:
        end = update.applied_to(end)
    if name in fitted.shifts:
        shift, scale = fitted.shifts[name]
        end = end + widened(fitted.checkpoint[shift]) * scale
    return end if weight == 1 else start + (end - start) * weight
