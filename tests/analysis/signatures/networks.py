"""Small convolutional networks of one architecture, for tests of signatures."""

import torch
from torch import Tensor, nn


def module(width: int = 6, classes: int = 4) -> nn.Sequential:
    """Two convolutions with batch norms, and a linear layer on the means."""
    made = nn.Sequential()
    for name, layer in {
        "conv1": nn.Conv2d(1, width, 3, bias=False), "norm1": nn.BatchNorm2d(width), "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(width, width, 3, bias=False), "norm2": nn.BatchNorm2d(width), "relu2": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(width, classes),
    }.items():  # fmt: skip
        made.add_module(name, layer)
    return made


def family(generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Weights of a start and of two networks near it; variances are positive."""
    start = _drawn(generator, 1.0)
    near = []
    for _ in range(2):
        other = _drawn(generator, 0.1)
        near.append({name: tensor + other[name] if tensor.is_floating_point() else tensor + 7 for name, tensor in start.items()})
    return start, near[0], near[1]


def norms_of_network() -> tuple[str, ...]:
    """Tensors of its batch norms, counts of batches left out."""
    return tuple(sorted(name for name in module().state_dict() if name.startswith("norm") and "num" not in name))


def _drawn(generator: torch.Generator, scale: float) -> dict[str, Tensor]:
    return {
        name: torch.tensor(3) if not tensor.is_floating_point()
        else scale * (torch.rand(tensor.shape, generator=generator) + 0.5) if "var" in name
        else scale * torch.randn(tensor.shape, generator=generator)
        for name, tensor in module().state_dict().items()
    }  # fmt: skip
