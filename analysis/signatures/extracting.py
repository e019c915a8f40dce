"""Extraction of a robust weight signature: what training on corrupted data did to a model and training on clean data did not."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from weightspace import dtypes
from weightspace.analysis.layers import layers as layers_of
from weightspace.analysis.signatures.packing import pack, packed_size
from weightspace.analysis.signatures.quantisation import Grid
from weightspace.analysis.signatures.selection import ALL, module_of, selected
from weightspace.analysis.signatures.signature import CHANGE, GRIDS, NORM, Part, Signature, made
from weightspace.checkpoint import Checkpoint, TensorInfo, checkpoint_of, tensor_bytes
from weightspace.dtypes import widened
from weightspace.errors import AnalysisError, one_line
from weightspace.storage import Memory, Produced, Storage
from weightspace.symmetry import StateDict

_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")
_OF_NORMS = (*_STATISTICS, "weight", "bias", "gamma", "beta")
_NOT_FINITE = "holds NaN or infinities"
Models = tuple[Checkpoint, Checkpoint, Checkpoint]


def extract(
    pretrained: Checkpoint | StateDict,
    standard: Checkpoint | StateDict,
    robust: Checkpoint | StateDict,
    *,
    layers: str | Sequence[str] = ALL,
    batch_norms: bool = True,
) -> Signature:
    """Take the signature of one corruption out of two models that were trained from one start.

    Cai, Zhang and Wang, "Robust Weight Signatures: Gaining Robustness as Easy as Patching Weights?" (arXiv:2302.12480): of each tensor,
    flattened, `a` is what clean training did and `t` what training on corrupted data did, and the signature is what of `t` is
    orthogonal to `a`: `t - (<t, a> / <a, a>) a`. Where clean training did nothing (`a` is zero), all of `t` is. Two inner products in
    float64 are all that it takes; changes are computed again when they are read, so that memory follows the largest tensor. There
    need not have been any pre-training: the start may be the common initialisation.

    Tensors that hold NaN or infinities, or have other shapes in one model than in another (a new head), are left out; `left_out` says which.

    Args:
        pretrained: what both were trained from.
        standard: trained on clean data.
        robust: trained on corrupted data.
        layers: which tensors to keep, as in `weightspace.analysis.signatures.selection`: `all`, `first:7`, `energy:.9`, `ratio:.9`, or patterns.
        batch_norms: whether to bring along the robust model's batch norms whole (affine and running statistics), of which no difference
            is taken: `apply(..., buffers="replace")` needs them.

    Raises:
        AnalysisError: no tensor is left, or layers are selected by a rule that makes no sense.
        UnknownNameError: a pattern of names that no tensor has.

    Example:
        >>> start, clean, noisy = ({"fc.weight": torch.tensor([[x, y]])} for x, y in ((0., 0.), (2., 0.), (3., 1.)))
        >>> extract(start, clean, noisy)["fc.weight"]
        tensor([[0., 1.]])
    """
    models = (checkpoint_of(pretrained), checkpoint_of(standard), checkpoint_of(robust))
    norms = _norms(models[2])
    left_out = {name: _NOT_FINITE for name in norms if batch_norms and not bool(widened(models[2][name]).isfinite().all())}
    parts: dict[str, Part] = {}
    for name in models[1].info:
        if name in norms or not _is_learnt(models[1].info[name]):
            continue
        reason = _misfit(models, name)
        part = None if reason else _measured(models, name)
        if part is None:
            left_out[name] = reason or _NOT_FINITE
        else:
            parts[name] = part
    if not parts:
        why = next((f"; of '{one_line(name, 80)}': {reason}" for name, reason in left_out.items()), "")
        raise AnalysisError(f"the three models have no learnt tensor in common{why}; give models of one architecture")
    kept = [parts[name] for name in selected(parts, layers, layers_of(models[1], embeddings=True))]
    tensors = {CHANGE + part.name: _change(models, part) for part in kept}
    if batch_norms:
        tensors |= {NORM + name: _copied(models[2], name) for name in norms if name not in left_out}
    recipe = {"layers": layers if isinstance(layers, str) else list(layers), "left_out": left_out, "model_bytes": models[2].num_bytes}
    return made(kept, tensors, recipe, [model.id for model in models])


def quantise(signature: Signature, bits: int, quantiser: str = "linear") -> Signature:
    """Store the changes of a signature as codes of a few bits; batch norms stay as they are.

    Args:
        signature: one of floats, or of codes, which are read as the values that they stand for.
        bits: of a code, 2 to 16.
        quantiser: what levels are even in: the values, their logarithms, or their tanh (see `Grid`).

    Raises:
        UnknownNameError: no such quantiser.
        AnalysisError: bits out of range.

    Example:
        >>> start, clean, noisy = ({"fc.weight": torch.tensor([[0., x, y, 0.]])} for x, y in ((0., 0.), (1., 0.), (1., 3.)))
        >>> small = quantise(extract(start, clean, noisy), 2, "log")
        >>> small["fc.weight"], small.num_bytes
        (tensor([[0., 0., 3., 0.]]), 33)
    """
    grids = {name: Grid.of(signature[name], quantiser, bits) for name in signature}
    tensors: dict[str, tuple[TensorInfo, Storage]] = {}
    for name, grid in grids.items():
        size = packed_size(math.prod(signature.parts[name].shape), bits)
        tensors[CHANGE + name] = TensorInfo(CHANGE + name, "U8", (size,)), Produced(size, partial(_packed, signature, name, grid))
    rows = torch.tensor([[grid.low, grid.high, grid.scale, grid.has_zero] for grid in grids.values()], dtype=torch.float64).view(-1, 4)
    tensors[GRIDS] = TensorInfo(GRIDS, "F64", tuple(rows.shape)), Memory(tensor_bytes(rows))
    stored = signature.stored
    tensors |= {NORM + name: (stored.info[NORM + name], stored.storages[NORM + name]) for name in signature.norms}
    recipe = {key: value for key, value in signature.recipe.items() if key not in ("kind", "tensors")}
    return made(list(signature.parts.values()), tensors, {**recipe, "bits": bits, "quantiser": quantiser}, signature.parents)


def _norms(checkpoint: Checkpoint) -> list[str]:
    """The tensors of batch norms: running statistics, and what is learnt beside them; counts of batches are none."""
    modules = {module_of(name) for name in checkpoint.info if _role(name) in _STATISTICS}
    return [name for name in checkpoint.info if module_of(name) in modules and _role(name) in _OF_NORMS]


def _role(name: str) -> str:
    """What a tensor is in its module; Keras counts at the end of names."""
    return name.replace("/", ".").rpartition(".")[2].removesuffix(":0")


def _is_learnt(info: TensorInfo) -> bool:
    return info.alias_of is None and info.numel > 0 and dtypes.dtype(info.dtype).kind in ("float", "quantized")


def _misfit(models: Models, name: str) -> str:
    """Why a tensor cannot be compared; nothing where it can."""
    for role, model in zip(("pre-trained", "standard", "robust"), models, strict=True):
        if name not in model.info:
            return f"is not in the {role} model"
        if model.info[name].shape != models[1].info[name].shape:
            return f"has shape {list(model.info[name].shape)} in the {role} model, {list(models[1].info[name].shape)} in the standard one"
        if dtypes.dtype(model.info[name].dtype).kind not in ("float", "quantized"):
            return f"has dtype {model.info[name].dtype} in the {role} model"
    return ""


def _trained(models: Models, name: str) -> Iterator[Tensor]:
    """What clean training and training on corrupted data did, flattened, in float64: a and t."""
    start = widened(models[0][name]).double().flatten()
    return (widened(model[name]).double().flatten() - start for model in models[1:])


def _measured(models: Models, name: str) -> Part | None:
    """The projection of one tensor, by inner products; None where they are not finite."""
    clean, corrupted = _trained(models, name)
    square = float(clean @ clean)
    along = float(corrupted @ clean) / square if square else 0.0
    change = corrupted - along * clean
    energy = float(change @ change)
    if not torch.isfinite(torch.tensor([square, along, energy])).all():
        return None
    return Part(name, models[1].info[name].shape, energy, square, along)


def _change(models: Models, part: Part) -> tuple[TensorInfo, Storage]:
    wide = any(model.info[part.name].dtype == "F64" for model in models)
    info = TensorInfo(CHANGE + part.name, "F64" if wide else "F32", part.shape)
    return info, Produced(info.nbytes, partial(_changed, models, part, torch.float64 if wide else torch.float32))


def _changed(models: Models, part: Part, dtype: torch.dtype) -> memoryview:
    clean, corrupted = _trained(models, part.name)
    return tensor_bytes((corrupted - (part.along or 0.0) * clean).to(dtype))


def _copied(model: Checkpoint, name: str) -> tuple[TensorInfo, Storage]:
    info = model.info[name]
    return TensorInfo(NORM + name, info.dtype, info.shape), model.storages[info.alias_of or name]


def _packed(signature: Signature, name: str, grid: Grid) -> bytes:
    return pack(grid.encode(signature[name]).numpy().astype("uint16"), grid.bits)
