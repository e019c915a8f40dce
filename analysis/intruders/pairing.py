"""A base and what was made of it, layer by layer: the matrix before, the matrix after, and of an adapter the update between them."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.adapters import Adapter, LowRank, apply_adapter, fit, read_adapter
from weightspace.analysis.layers import Layer
from weightspace.analysis.layers import layers as layers_of
from weightspace.checkpoint import Checkpoint, checkpoint_of
from weightspace.errors import AnalysisError, one_line
from weightspace.linalg import Cache, Singular, cached_svd

Model = Tensor | Checkpoint | Adapter | Mapping[str, Tensor]
"""A matrix, a Checkpoint or state dict, or an adapter."""

MATRIX = "matrix"
"""The name of the only layer where matrices are compared."""

_HIDDEN = "the base has no tensor of its own for it: tied to another, or not stored"


@dataclass(frozen=True, eq=False)
class Pairing:
    """Base and tuned model beside one another; tensors are read when asked for, matrices are (out, in).

    Attributes:
        base: before.
        tuned: after; where an adapter came in, the base with the adapter in it.
        given: what `tuned` was made from: the adapter's checkpoint, or `tuned` itself.
        adapter: the adapter on the base's names; None where none came in.
        layers: what is compared.
        skipped: why other layers are not.
        device: where matrices are worked on.
    """

    base: Checkpoint
    tuned: Checkpoint
    given: Checkpoint
    adapter: Adapter | None
    layers: tuple[Layer, ...]
    skipped: Mapping[str, str]
    device: torch.device

    def before(self, layer: Layer) -> Tensor:
        """The base's matrix."""
        return layer.matrix(self.base[layer.name]).to(self.device)

    def after(self, layer: Layer) -> Tensor:
        """The tuned matrix."""
        return layer.matrix(self.tuned[layer.name]).to(self.device)

    def update(self, layer: Layer) -> LowRank | None:
        """What an adapter adds to the matrix; None where the change is no plain low-rank update."""
        if self.adapter is None or not is_plain(self.adapter, layer.name):
            return None
        update = self.adapter[layer.name]
        turned = update.T if layer.is_transposed else update
        return LowRank(layer.name, turned.a.to(self.device), turned.b.to(self.device), turned.scale, layer.size)

    def base_svd(self, layer: Layer, cache: Cache | None) -> Singular:
        """The base's singular triplets: out of the cache where it has them, by the content of the tensor."""
        key = "" if cache is None else self.base.tensor_hash(layer.name).hex() + ("/transposed" if layer.is_transposed else "")
        found = cached_svd(key, lambda: self.before(layer), cache)
        return Singular(found.u.to(self.device), found.s.to(self.device), found.v.to(self.device))


def is_plain(adapter: Adapter, name: str) -> bool:
    """Whether an adapter changes a tensor by a low-rank update alone, without magnitudes, and replaces no part of it."""
    return name in adapter.factors and adapter.factors[name].magnitude is None and name not in adapter.whole


def paired(base: Model, tuned: Model, *, layers: str = "*", embeddings: bool = False, device: torch.device | str | None = None) -> Pairing:
    """Put a base and a tuned model beside one another.

    Args:
        base: a matrix, or a model.
        tuned: the same, or an adapter of the base.
        layers: a pattern as in a shell, such as `*.attn.*`; only weights whose names fit are compared.
        embeddings: whether to compare tables of embeddings, too.
        device: where to work; by default that of a matrix, else the CPU.

    Raises:
        AnalysisError: an adapter in the base's place, shapes of matrices that differ, or no layer in common.
        MergeError: an adapter that does not fit the base.
    """
    where = torch.device(device) if device is not None else base.device if isinstance(base, Tensor) else torch.device("cpu")
    start = _checkpoint(base)
    if start.kind == "adapter":
        raise AnalysisError("the base is an adapter; give the model that it was trained on first, then the adapter")
    adapter: Adapter | None = None
    if isinstance(tuned, Adapter):
        adapter, given = fit(tuned, start), tuned.checkpoint
    else:
        given = _checkpoint(tuned)
        adapter = fit(read_adapter(given), start) if given.kind == "adapter" else None
    end = given if adapter is None else apply_adapter(start, adapter)
    asked = [layer for layer in layers_of(start, embeddings=True) if fnmatch.fnmatchcase(layer.name, layers)]
    reasons = {layer.name: _reason(layer, start, end, embeddings) for layer in asked if adapter is None or layer.name in adapter.targets}
    if adapter is not None:
        known = {layer.name for layer in asked}
        reasons |= {name: _HIDDEN for name in adapter.factors if fnmatch.fnmatchcase(name, layers) and name not in known}
    taken = tuple(layer for layer in asked if reasons.get(layer.name) == "")
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if not taken:
        raise AnalysisError(_nothing(start, layers, skipped))
    return Pairing(start, end, given, adapter, taken, skipped, where)


def _checkpoint(model: Model) -> Checkpoint:
    if isinstance(model, Adapter):
        return model.checkpoint
    if isinstance(model, Tensor):
        if model.ndim != 2 or not model.is_floating_point():
            raise AnalysisError(f"expected a matrix of floats, found {model.dtype} of shape {tuple(model.shape)}; give (out, in)")
        return Checkpoint.of({MATRIX: model})
    return checkpoint_of(model)


def _reason(layer: Layer, base: Checkpoint, tuned: Checkpoint, embeddings: bool) -> str:
    """Why a layer is not compared; nothing where it is."""
    if layer.kind == "embedding" and not embeddings:
        return "an embedding, which is left out unless asked for"
    if layer.name not in tuned.info:
        return "the tuned model has no such tensor"
    found = tuned.info[layer.name].shape
    return "" if found == layer.shape else f"its shape is {list(layer.shape)} in the base, {list(found)} in the tuned model"


def _nothing(base: Checkpoint, layers: str, skipped: Mapping[str, str]) -> str:
    if skipped:
        name, reason = next(iter(skipped.items()))
        return f"no layer can be compared: '{one_line(name, 80)}': {reason} (and {len(skipped) - 1} more); give two models of one architecture and with the same names"
    known = [layer.name for layer in layers_of(base, embeddings=True)]
    where = one_line(str(base.path or "the base"), 120)
    if not known:
        return f"{where} has no weight with two axes; give models with dense or convolutional layers"
    asked = f" that fits '{one_line(layers, 80)}'" if layers != "*" else ""
    seen = one_line(", ".join(known[:6]), 300) + (" …" if len(known) > 6 else "")
    return f"{where} has no layer{asked} that the tuned model may have changed; it has {seen}"
