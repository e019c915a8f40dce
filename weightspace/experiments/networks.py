"""The classifiers of the experiments, and how many of one shape are run at once."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from weightspace.symmetry import StateDict

CLASSES = 10
Build = Callable[[int], nn.Sequential]
"""Makes the module of one width."""


def mlp(inputs: int, width: int) -> nn.Sequential:
    """Three hidden layers, as in Git Re-Basin (arXiv:2209.04836)."""
    sizes = [inputs, width, width, width]
    layers: list[tuple[str, nn.Module]] = []
    for at, (columns, rows) in enumerate(itertools.pairwise(sizes), 1):
        layers += [(f"fc{at}", nn.Linear(columns, rows)), (f"relu{at}", nn.ReLU())]
    return nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(width, CLASSES))]))


def cnn(side: int, dimensions: int, blocks: int, width: int, *, norm: bool) -> nn.Sequential:
    """Convolutions of stride 2, each with a ReLU and perhaps a batch norm before it, and a linear layer over all places."""
    conv = nn.Conv1d if dimensions == 1 else nn.Conv2d
    batch_norm = nn.BatchNorm1d if dimensions == 1 else nn.BatchNorm2d
    layers: list[tuple[str, nn.Module]] = [("channel", nn.Unflatten(1, (1, *[side] * dimensions)))]
    for at in range(1, blocks + 1):
        layers.append((f"conv{at}", conv(1 if at == 1 else width, width, 3, stride=2, padding=1)))
        layers += [(f"norm{at}", batch_norm(width))] if norm else []
        layers.append((f"relu{at}", nn.ReLU()))
        side = (side + 1) // 2
    return nn.Sequential(OrderedDict([*layers, ("flat", nn.Flatten()), ("head", nn.Linear(width * side**dimensions, CLASSES))]))


ARCHITECTURES: Mapping[str, Build] = {
    "mnist1d-mlp": lambda width: mlp(40, width),
    "mnist1d-cnn": lambda width: cnn(40, 1, 3, width, norm=False),
    "mnist1d-cnn-bn": lambda width: cnn(40, 1, 3, width, norm=True),
    "mnist-mlp": lambda width: mlp(28 * 28, width),
    "mnist-cnn": lambda width: cnn(28, 2, 2, width, norm=False),
}


def run_stacked(module: nn.Sequential, weights: StateDict, inputs: Tensor) -> Tensor:
    """Run many networks of one shape in training mode, with one batched matrix product a layer.

    Args:
        module: of the shape.
        weights: of all of them, (models, ...); running statistics are updated.
        inputs: (models, batch, inputs).

    Returns:
        Logits, (models, batch, classes).
    """
    for name, layer in module.named_children():
        own = {part: weights[f"{name}.{part}"] for part in layer.state_dict()}
        if isinstance(layer, nn.Linear):
            inputs = torch.baddbmm(own["bias"][:, None], inputs, own["weight"].mT)
        elif isinstance(layer, nn.Conv1d | nn.Conv2d):
            inputs = _convolved(layer, own, inputs)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            inputs = _normalised(layer, own, inputs)
        elif isinstance(layer, nn.Unflatten):
            inputs = inputs.reshape(*inputs.shape[:2], *cast(tuple[int, ...], layer.unflattened_size)).movedim(2, -1)  # channels last
        elif isinstance(layer, nn.Flatten):
            inputs = inputs.movedim(-1, 2).flatten(2)
        else:
            inputs = inputs.relu()
    return inputs


def _convolved(layer: nn.Conv1d | nn.Conv2d, own: StateDict, maps: Tensor) -> Tensor:
    """Convolve (models, batch, *places, channels): a matrix product over patches is far faster than a grouped convolution here."""
    step, pad = layer.stride[0], cast(int, layer.padding[0])
    padded = nn.functional.pad(maps, (0, 0, *[pad, pad] * len(layer.kernel_size)))
    sizes = [(size + 2 * pad - cells) // step + 1 for size, cells in zip(maps.shape[2:-1], layer.kernel_size, strict=True)]
    shifted = []
    for offsets in itertools.product(*map(range, layer.kernel_size)):
        places = [slice(offset, offset + step * (size - 1) + 1, step) for offset, size in zip(offsets, sizes, strict=True)]
        shifted.append(padded[:, :, *places])
    columns = torch.stack(shifted, -1).reshape(len(maps), maps.shape[1] * torch.Size(sizes).numel(), -1)
    made = torch.baddbmm(own["bias"][:, None], columns, own["weight"].flatten(2).mT)
    return made.reshape(*maps.shape[:2], *sizes, -1)


def _normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, own: StateDict, maps: Tensor) -> Tensor:
    """Normalise channels by the statistics of each model's batch, and keep running ones."""
    everywhere = tuple(range(1, maps.ndim - 1))
    shape = (len(maps), *[1] * len(everywhere), -1)
    variance, mean = torch.var_mean(maps, everywhere, correction=0)
    count, share = maps[0, ..., 0].numel(), cast(float, layer.momentum)
    own["running_mean"].lerp_(mean.detach(), share)
    own["running_var"].lerp_(variance.detach() * (count / (count - 1)), share)
    scale = own["weight"] * (variance + layer.eps).rsqrt()
    return maps * scale.view(shape) + (own["bias"] - mean * scale).view(shape)
