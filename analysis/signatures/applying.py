"""Patching a model: adding signatures to its weights, one or several, in any strength."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from weightspace import dtypes
from weightspace.analysis.signatures.signature import CHANGE, NORM, Part, Signature, made
from weightspace.checkpoint import Checkpoint, TensorInfo, checkpoint_of, tensor_bytes
from weightspace.errors import AnalysisError, ShapeMismatchError, UnknownNameError, one_line
from weightspace.provenance import stated
from weightspace.storage import Produced, Storage
from weightspace.symmetry import StateDict

KIND = "patch"


def apply(
    model: Checkpoint | StateDict,
    signatures: Signature | Sequence[Signature],
    *,
    strength: float = 1.0,
    weights: Sequence[float] | None = None,
    buffers: str = "keep",
) -> Checkpoint:
    """Add signatures to a model: `theta + strength * sum_c w_c RWS_c`, computed a tensor at a time when it is read.

    Cai et al. (arXiv:2302.12480). In the official code the strength counts twice, so that it is squared; here it counts once. A model
    whose batch norms should fit the corrupted data, without any labels, has them measured anew afterwards by
    `weightspace.analysis.connectivity.repair_many(task, patched, [patched], mode="reset")`.

    Args:
        model: a clean model; not changed. Tied tensors stay tied.
        signatures: one, or several.
        strength: alpha.
        weights: of each signature; equal shares of one by default.
        buffers: `keep` leaves batch norms as they are; `replace` puts in the mean of those that the signatures brought along (affine and
            running statistics), whatever the strength, as the official code does.

    Returns:
        A checkpoint of the model's dtypes, whose recipe is what `remove` undoes.

    Raises:
        AnalysisError: no signature, not one weight for each, a number that is not finite, a tensor that is no float, or no batch norms.
        UnknownNameError, ShapeMismatchError: the model lacks a tensor, or has it in another shape.

    Example:
        >>> start, clean, noisy = ({"fc.weight": torch.tensor([[x, y]])} for x, y in ((0., 0.), (2., 0.), (3., 1.)))
        >>> from weightspace.analysis.signatures import extract
        >>> apply(clean, extract(start, clean, noisy), strength=0.5)["fc.weight"]
        tensor([[2.0000, 0.5000]])
    """
    checkpoint = checkpoint_of(model)
    given = [signatures] if isinstance(signatures, Signature) else list(signatures)
    shares = _shares(given, weights)
    if not math.isfinite(strength):
        raise AnalysisError(f"expected a finite strength, found {strength}; give a number such as 1")
    if buffers not in ("keep", "replace"):
        raise AnalysisError(f"expected buffers to be 'keep' or 'replace', found '{one_line(buffers, 40)}'; choose one")
    whole = compose(given, shares)
    if buffers == "replace" and not whole.norms:
        raise AnalysisError(
            "a signature brought along no batch norms that could replace the model's; extract it with them, or keep the model's"
        )
    storages = dict(checkpoint.storages)
    for name in whole:
        owner = _expected(checkpoint, name, whole.parts[name].shape)
        storages[owner] = Produced(checkpoint.info[owner].nbytes, partial(_patched, checkpoint, owner, whole, name, strength))
    for name in whole.norms if buffers == "replace" else ():
        owner = _expected(checkpoint, name, whole.stored.info[NORM + name].shape)
        storages[owner] = Produced(checkpoint.info[owner].nbytes, partial(_replaced, checkpoint, owner, whole, name))
    storages |= {name: storages[one.alias_of] for name, one in checkpoint.info.items() if one.alias_of is not None}
    recipe = {"kind": KIND, "strength": strength, "weights": shares, "buffers": buffers, "signatures": [one.id for one in given]}
    parents = (checkpoint.id, *(one.id for one in given))
    return replace(
        checkpoint, storages=storages, format="memory", path=None, files=(), extras={}, metadata=stated(recipe, parents),
        recipe=recipe, parents=parents,
    )  # fmt: skip


def made_nonfinite(model: Checkpoint, patched: Checkpoint) -> dict[str, int]:
    """Count the elements that a patch made NaN or infinite: those that are finite in the model and are not in the patched one.

    Sums that are too large for the model's dtype become infinite when they are rounded to it.

    Args:
        model: as it was.
        patched: what `apply` made of it.

    Returns:
        The number by tensor, of those that have any.

    Example:
        >>> made_nonfinite(Checkpoint.of({"w": torch.ones(3)}), Checkpoint.of({"w": torch.tensor([1.0, math.inf, math.nan])}))
        {'w': 2}
    """
    counts = {name: _lost(model[name], patched[name]) for name in patched.info if _is_float(patched, name)}
    return {name: count for name, count in counts.items() if count}


def _is_float(checkpoint: Checkpoint, name: str) -> bool:
    return checkpoint.info[name].alias_of is None and _can_be_added_to(checkpoint, name)


def _can_be_added_to(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is of floats that lie one by one: torch computes with none that are packed into fewer than 8 bits."""
    element = dtypes.dtype(checkpoint.info[name].dtype)
    return element.kind == "float" and element.bits >= 8


def _lost(before: torch.Tensor, after: torch.Tensor) -> int:
    return int((before.double().isfinite() & ~after.double().isfinite()).sum())


def compose(signatures: Sequence[Signature], weights: Sequence[float] | None = None) -> Signature:
    """Make one signature of several: the weighted sum of their changes, tensor by tensor, and the mean of their batch norms.

    Args:
        signatures: one or more; where one does not change a tensor, it adds nothing to it.
        weights: of each; equal shares of one by default.

    Raises:
        AnalysisError: no signature, not one weight for each, or a weight that is not finite.
        ShapeMismatchError: two have a tensor in different shapes.
    """
    shares = _shares(signatures, weights)
    if len(signatures) == 1 and shares == [1.0]:
        return signatures[0]
    parts = [_summed(signatures, shares, name) for name in dict.fromkeys(name for one in signatures for name in one)]
    tensors: dict[str, tuple[TensorInfo, Storage]] = {}
    for part in parts:
        wide = any(one.stored.info[CHANGE + part.name].dtype == "F64" for one in signatures if part.name in one)
        info = TensorInfo(CHANGE + part.name, "F64" if wide else "F32", part.shape)
        tensors[info.name] = info, Produced(info.nbytes, partial(_sum_bytes, signatures, shares, part, info.dtype))
    for name in signatures[0].norms if all(set(one.norms) == set(signatures[0].norms) for one in signatures) else ():
        info = signatures[0].stored.info[NORM + name]
        if any(one.stored.info[NORM + name].shape != info.shape for one in signatures):
            raise ShapeMismatchError(
                f"batch norm '{one_line(name, 80)}' has different shapes in the signatures; compose those of one architecture"
            )
        tensors[info.name] = info, Produced(info.nbytes, partial(_mean_bytes, signatures, info))
    recipe = {"composed": shares, "model_bytes": max(int(one.recipe.get("model_bytes") or 0) for one in signatures)}
    return made(parts, tensors, recipe, [one.id for one in signatures])


def _shares(signatures: Sequence[Signature], weights: Sequence[float] | None) -> list[float]:
    if not signatures:
        raise AnalysisError("expected at least one signature, found none; name one")
    shares = [1 / len(signatures)] * len(signatures) if weights is None else [float(one) for one in weights]
    if len(shares) != len(signatures) or not all(map(math.isfinite, shares)):
        raise AnalysisError(f"expected a finite weight for each of {len(signatures)} signatures, found {shares}; give one for each")
    return shares


def _summed(signatures: Sequence[Signature], shares: Sequence[float], name: str) -> Part:
    shapes = {one.parts[name].shape for one in signatures if name in one}
    if len(shapes) > 1:
        both = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise ShapeMismatchError(f"tensor '{one_line(name, 80)}' has shapes {both} in the signatures; compose those of one architecture")
    return Part(name, shapes.pop(), float(_sum(signatures, shares, name).square().sum()))


def _sum(signatures: Sequence[Signature], shares: Sequence[float], name: str) -> torch.Tensor:
    changes = [share * one[name].double() for one, share in zip(signatures, shares, strict=True) if name in one]
    return sum(changes[1:], start=changes[0])


def _sum_bytes(signatures: Sequence[Signature], shares: Sequence[float], part: Part, dtype: str) -> memoryview:
    return tensor_bytes(_sum(signatures, shares, part.name).to(torch.float64 if dtype == "F64" else torch.float32))


def _mean_bytes(signatures: Sequence[Signature], info: TensorInfo) -> memoryview:
    values = [one.stored[info.name] for one in signatures]
    return tensor_bytes((sum(value.double() for value in values) / len(values)).to(values[0].dtype))  # type: ignore[union-attr]


def _expected(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> str:
    """The tensor to patch (the owner, where the name is tied to another).

    Raises:
        AnalysisError, UnknownNameError, ShapeMismatchError: there is none that can be.
    """
    if name not in checkpoint.info:
        raise UnknownNameError(
            f"no tensor named '{one_line(name, 80)}' in the model, which the signature changes: the model is not of the signature's "
            f"architecture; it has {_some(checkpoint)}; patch a model like the one that the signature was extracted with"
        )
    info = checkpoint.info[name]
    if info.shape != shape:
        raise ShapeMismatchError(
            f"tensor '{one_line(name, 80)}' has shape {list(info.shape)}, in the signature {list(shape)}; patch a model of the same architecture"
        )
    if not _can_be_added_to(checkpoint, name):
        raise AnalysisError(f"tensor '{one_line(name, 80)}' has dtype {info.dtype}, which cannot be added to; save its values as F16 first")
    return info.alias_of or name


def _some(checkpoint: Checkpoint) -> str:
    """A few names of a model's tensors."""
    names = list(checkpoint.info)
    shown = ", ".join(f"'{one_line(name, 40)}'" for name in names[:3])
    return (shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")) or "none"


def _patched(checkpoint: Checkpoint, owner: str, whole: Signature, name: str, strength: float) -> memoryview:
    old = checkpoint[owner]
    return tensor_bytes((old.double() + strength * whole[name].double()).to(old.dtype))


def _replaced(checkpoint: Checkpoint, owner: str, whole: Signature, name: str) -> memoryview:
    return tensor_bytes(whole.stored[NORM + name].to(checkpoint[owner].dtype))
