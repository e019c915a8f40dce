"""Small networks trained on handwritten digits, two seeds each, with their specs and tasks: what matching by data is tested on."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.spec import SymmetrySpec
from weightspace.task import Task
from weightspace.zoo.populations.digits import load_digits

WIDTH = 16


@dataclass(frozen=True)
class Trained:
    """Two networks of one architecture, trained from different seeds on the same task."""

    spec: SymmetrySpec
    task: Task
    a: dict[str, Tensor]
    b: dict[str, Tensor]


class Residual(nn.Module):
    """A stream that an embedding layer, a block and norms write to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 24)
        self.down = nn.Linear(24, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        stream = self.stem(images)
        stream = stream + self.down(self.up(self.norm(stream)).relu())
        logits: Tensor = self.head(stream)
        return logits


class Attention(nn.Module):
    """Rows of an image attend to each other: heads, query-key and value-output members inside them, fused into one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * 12)
        self.out = nn.Linear(12, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        stream = self.embed(images.reshape(-1, 8, 8))
        q, k, v = self.qkv(stream).reshape(-1, 8, 3, 3, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        logits: Tensor = self.head((stream + self.out(mixed)).mean(1))
        return logits


def _perceptron(kind: Callable[[], nn.Module]) -> nn.Module:
    layers = {"fc1": nn.Linear(64, WIDTH), "act1": kind(), "fc2": nn.Linear(WIDTH, WIDTH), "act2": kind(), "fc3": nn.Linear(WIDTH, 10)}
    return nn.Sequential(OrderedDict(layers))


def _convolutional() -> nn.Module:
    layers = {
        "image": nn.Unflatten(1, (1, 8, 8)),
        "conv1": nn.Conv2d(1, 6, 3, stride=2, padding=1),
        "bn1": nn.BatchNorm2d(6),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(6, 12, 3, stride=2, padding=1),
        "relu2": nn.ReLU(),
        "flat": nn.Flatten(),
        "fc": nn.Linear(48, 10),
    }
    return nn.Sequential(OrderedDict(layers))


_CHAIN = {"fc1.weight": "h1 64", "fc1.bias": "h1", "fc2.weight": "h2 h1'", "fc2.bias": "h2", "fc3.weight": "10 h2'", "fc3.bias": "10"}
_HIDDEN = {"h1": WIDTH, "h2": WIDTH}
_ODD: Mapping[str, Mapping[str, Any]] = {name: {"size": size, "symmetry": "sign"} for name, size in _HIDDEN.items()}
_CONV = {
    "conv1.weight": "c1 1 3 3",
    "conv1.bias": "c1",
    **{f"bn1.{name}": "c1" for name in ("weight", "bias", "running_mean", "running_var")},
    "conv2.weight": "c2 c1' 3 3",
    "conv2.bias": "c2",
    "fc.weight": "10 (c2 4)'",
    "fc.bias": "10",
}
_RESIDUAL = {
    "stem.weight": "d 64",
    "stem.bias": "d",
    "norm.weight": "d",
    "norm.bias": "d",
    "up.weight": "m d'",
    "up.bias": "m",
    "down.weight": "d m'",
    "down.bias": "d",
    "head.weight": "10 d'",
    "head.bias": "10",
}
_ATTENTION = {
    "embed.weight": "d 8",
    "embed.bias": "d",
    "qkv.weight": "(head dk) + (head dk) + (head dv) d'",
    "qkv.bias": "(head dk) + (head dk) + (head dv)",
    "out.weight": "d (head dv)'",
    "out.bias": "d",
    "head.weight": "10 d'",
    "head.bias": "10",
}
_HEADS: Mapping[str, Mapping[str, Any]] = {
    "d": {"size": WIDTH},
    "head": {"size": 3},
    "dk": {"size": 4, "per": "head"},
    "dv": {"size": 4, "per": "head"},
}


_STATISTICS = ["bn1.running_mean", "bn1.running_var"]

NETWORKS: Mapping[str, Callable[[], tuple[nn.Module, SymmetrySpec]]] = {
    "relu": lambda: (_perceptron(nn.ReLU), SymmetrySpec.parse(_CHAIN, sizes=_HIDDEN)),
    "tanh": lambda: (_perceptron(nn.Tanh), SymmetrySpec.parse(_CHAIN, groups=_ODD)),
    "cnn": lambda: (_convolutional(), SymmetrySpec.parse(_CONV, sizes={"c1": 6, "c2": 12}, statistics=_STATISTICS)),
    "residual": lambda: (Residual(), SymmetrySpec.parse(_RESIDUAL, sizes={"d": WIDTH, "m": 24})),
    "attention": lambda: (Attention(), SymmetrySpec.parse(_ATTENTION, groups=_HEADS)),
}


@cache
def trained(name: str) -> Trained:
    """Train two networks, once in a session.

    Args:
        name: one of `NETWORKS`.
    """
    module, spec = NETWORKS[name]()
    digits = load_digits()
    a, b = (_train(module, digits.train, digits.train_classes, seed) for seed in (1, 2))
    return Trained(spec, Task.classification(module, digits.train, digits.train_classes, batch_size=300), a, b)


def _train(module: nn.Module, images: Tensor, classes: Tensor, seed: int, epochs: int = 5) -> dict[str, Tensor]:
    """Plain SGD with momentum; the module is left as it comes out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            bound = (3 / parameter[0].numel()) ** 0.5
            drawn = (2 * torch.rand(parameter.shape, generator=generator) - 1) * bound
            parameter.copy_(drawn if parameter.dim() > 1 else float("norm.weight" in name or "bn1.weight" in name) + 0.1 * drawn)
        for name, buffer in module.named_buffers():
            buffer.fill_(float("var" in name))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    module.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images), generator=generator), 64):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(module(images[batch]), classes[batch]))
            optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
