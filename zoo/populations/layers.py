"""Networks of one architecture run side by side: the layers of one module, with the weights of all of them stacked.

Features are the last dimension here, whatever it is in torch: a layer sees `(models, batch, ..., features)`, so that each of its
products is one batched matrix product. Convolutions are products over patches, far faster on small networks than grouped ones.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

Stacked = Mapping[str, Shaped[Tensor, "models ..."]]
"""Tensors of many networks by name, each with one dimension before its own."""

_Rule = Callable[[Any, str, Stacked, Tensor, bool], Tensor]


class Sine(nn.Module):
    """The activation of SIREN, sin(w0 x) (Sitzmann et al., arXiv:2006.09661)."""

    def __init__(self, w0: float) -> None:
        super().__init__()
        self.w0 = w0

    def forward(self, x: Tensor) -> Tensor:
        """Take the sine."""
        return torch.sin(self.w0 * x)

    def extra_repr(self) -> str:
        """Say the frequency."""
        return f"w0={self.w0:g}"


class Shift(nn.Module):
    """Adds one number, the same for every network."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        """Add it."""
        return x + self.by

    def extra_repr(self) -> str:
        """Say the number."""
        return f"by={self.by:g}"


class Residual(nn.Sequential):
    """Layers whose input is added to their output."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers and add."""
        made: Tensor = x + super().forward(x)  # type: ignore[no-untyped-call]
        return made


class Positions(nn.Module):
    """Adds a learned vector to each position of a sequence."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        """Add it."""
        return x + self.weight

    def extra_repr(self) -> str:
        """Say the size."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}"


class Attention(nn.Module):
    """Softmax attention of several heads, over all positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Attend, `(batch, tokens, width)`."""
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (self.q, self.k, self.v))
        read = nn.functional.scaled_dot_product_attention(q, k, v)
        made: Tensor = self.o(read.transpose(-3, -2).flatten(-2))
        return made

    def extra_repr(self) -> str:
        """Say how many heads."""
        return f"heads={self.heads}"


class Adapted(nn.Linear):
    """A layer that is the same for every network, plus `scale * lora_B @ lora_A`, under the names of PEFT (Hu et al., arXiv:2106.09685)."""

    def __init__(self, weight: Tensor, bias: Tensor, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.scale = scale
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.lora_A = nn.Linear(self.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, self.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer and its update."""
        made: Tensor = super().forward(x) + self.scale * self.lora_B(self.lora_A(x))
        return made

    def extra_repr(self) -> str:
        """Say sizes and scale."""
        return f"{super().extra_repr() if self.bias is not None else ''}, scale={self.scale:g}"


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
"""Modules of activations by name."""


def run(module: nn.Module, weights: Stacked, inputs: Tensor, *, training: bool = False) -> Tensor:
    """Run many networks of one architecture.

    Args:
        module: of that architecture; its own weights are not looked at.
        weights: those of all networks, under the module's names; running statistics are updated in place when training.
        inputs: `(models, batch, inputs)`, or whole numbers `(models, batch, tokens)`.
        training: whether normalisation uses the batch.

    Returns:
        `(models, batch, ..., outputs)`.
    """
    return _run(module, "", weights, inputs, training)


def _run(layer: nn.Module, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    rule = next((_RULES[kind] for kind in type(layer).__mro__ if kind in _RULES), None)
    if rule is not None:
        return rule(layer, name, weights, x, training)
    made: Tensor = layer(x)  # works element by element
    return made


def _sequential(layer: nn.Sequential, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    for child, part in layer.named_children():
        x = _run(part, f"{name}{child}.", weights, x, training)
    return x


def _residual(layer: Residual, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    return x + _sequential(layer, name, weights, x, training)


def _linear(layer: nn.Linear, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    return _affine(weights[f"{name}weight"], weights[f"{name}bias"] if layer.bias is not None else None, x)


def _affine(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    rows = x.flatten(1, -2)
    made = rows @ weight.mT if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
    return made.reshape(*x.shape[:-1], -1)


def _adapted(layer: Adapted, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    update = _affine(weights[f"{name}lora_B.weight"], None, _affine(weights[f"{name}lora_A.weight"], None, x))
    # The shared layer is multiplied model by model too: a product over all rows at once may sum in another order.
    shared = _affine(layer.weight.expand(len(x), -1, -1), layer.bias.expand(len(x), -1), x)
    return shared + layer.scale * update


def _convolution(layer: nn.Conv1d | nn.Conv2d, name: str, weights: Stacked, maps: Tensor, training: bool) -> Tensor:
    step, pad = layer.stride[0], cast(int, layer.padding[0])
    padded = nn.functional.pad(maps, (0, 0, *[pad, pad] * len(layer.kernel_size)))
    sizes = [(size + 2 * pad - cells) // step + 1 for size, cells in zip(maps.shape[2:-1], layer.kernel_size, strict=True)]
    shifted = []
    for offsets in itertools.product(*map(range, layer.kernel_size)):
        places = [slice(offset, offset + step * (size - 1) + 1, step) for offset, size in zip(offsets, sizes, strict=True)]
        shifted.append(padded[:, :, *places])
    columns = torch.stack(shifted, -1).reshape(len(maps), maps.shape[1] * math.prod(sizes), -1)
    made = torch.baddbmm(weights[f"{name}bias"][:, None], columns, weights[f"{name}weight"].flatten(2).mT)
    return made.reshape(*maps.shape[:2], *sizes, -1)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, name: str, weights: Stacked, maps: Tensor, training: bool) -> Tensor:
    if training:
        everywhere = tuple(range(1, maps.ndim - 1))
        variance, mean = torch.var_mean(maps, everywhere, correction=0)
        count, share = maps[0, ..., 0].numel(), cast(float, layer.momentum)
        weights[f"{name}running_mean"].lerp_(mean.detach(), share)
        weights[f"{name}running_var"].lerp_(variance.detach() * (count / (count - 1)), share)
        weights[f"{name}num_batches_tracked"].add_(1)
    else:
        mean, variance = weights[f"{name}running_mean"], weights[f"{name}running_var"]
    scale = weights[f"{name}weight"] * (variance + layer.eps).rsqrt()
    return maps * _along(scale, maps) + _along(weights[f"{name}bias"] - mean * scale, maps)


def _layer_norm(layer: nn.LayerNorm, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    plain = nn.functional.layer_norm(x, x.shape[-1:], eps=layer.eps)
    return plain * _along(weights[f"{name}weight"], x) + _along(weights[f"{name}bias"], x)


def _embedding(layer: nn.Embedding, name: str, weights: Stacked, tokens: Tensor, training: bool) -> Tensor:
    table = weights[f"{name}weight"]
    found = table.gather(1, tokens.flatten(1)[..., None].expand(-1, -1, table.shape[-1]))
    return found.reshape(*tokens.shape, -1)


def _positions(layer: Positions, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    return x + weights[f"{name}weight"][:, None]


def _attention(layer: Attention, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    made = (_affine(weights[f"{name}{part}.weight"], weights[f"{name}{part}.bias"], x) for part in "qkv")
    q, k, v = (part.view(*part.shape[:-1], layer.heads, -1).transpose(-3, -2) for part in made)
    weight = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    return _affine(weights[f"{name}o.weight"], weights[f"{name}o.bias"], (weight @ v).transpose(-3, -2).flatten(-2))


def _unflatten(layer: nn.Unflatten, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    return x.reshape(*x.shape[:2], *cast(tuple[int, ...], layer.unflattened_size)).movedim(2, -1)


def _flatten(layer: nn.Flatten, name: str, weights: Stacked, x: Tensor, training: bool) -> Tensor:
    return x.movedim(-1, 2).flatten(2)


def _pool(layer: nn.Module, name: str, weights: Stacked, maps: Tensor, training: bool) -> Tensor:
    return maps.mean(tuple(range(2, maps.ndim - 1)), keepdim=True)


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Values `(models, features)` in the shape that meets `(models, ..., features)`."""
    return values.view(len(values), *[1] * (x.ndim - 2), -1)


_RULES: Mapping[type, _Rule] = {
    Residual: _residual,
    nn.Sequential: _sequential,
    Adapted: _adapted,
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
    Positions: _positions,
    Attention: _attention,
    nn.Unflatten: _unflatten,
    nn.Flatten: _flatten,
    nn.AdaptiveAvgPool1d: _pool,
    nn.AdaptiveAvgPool2d: _pool,
}
