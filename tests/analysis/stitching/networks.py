"""Small chains in blocks for tests of stitching, without tracing, and data for them."""

from collections import OrderedDict
from functools import cache

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching import Chain
from weightspace.task import Task


class Tokens(nn.Module):
    """An image as tokens behind a class token, with positions added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv2d(1, width, 2, 2), nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions


class Mix(nn.Module):
    """An encoder block that mixes tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.linear = nn.Linear(5, 5), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x.mT).mT
        made: Tensor = x + self.linear(x.relu())
        return made


class First(nn.Module):
    """What the class token says."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.linear(x[:, 0])
        return made


def blocks(family: str, width: int = 6) -> "OrderedDict[str, nn.Module]":
    """The blocks of a network for images of 4 by 4 pixels and three classes."""
    if family == "mlp":
        first = nn.Sequential(nn.Flatten(), nn.Linear(16, 2 * width), nn.ReLU())
        return OrderedDict(first=first, second=nn.Sequential(nn.Linear(2 * width, width), nn.ReLU()), head=nn.Linear(width, 3))
    if family == "cnn":
        first = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.ReLU())
        second = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        return OrderedDict(first=first, second=second, head=nn.Sequential(nn.Flatten(), nn.Linear(4 * width, 3)))
    return OrderedDict(first=Tokens(width), second=Mix(width), head=First(width))


IMAGES = torch.randn(120, 1, 4, 4, generator=torch.Generator().manual_seed(0))
CLASSES = (IMAGES.flatten(1)[:, :3] + 0.5 * IMAGES.flatten(1)[:, 3:6]).argmax(1)


@cache
def trained(family: str, seed: int = 0, width: int = 6) -> Chain:
    """A chain that has learned a little; tests leave it as it is."""
    torch.manual_seed(seed)
    made = blocks(family, width)
    module = nn.Sequential(made)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(IMAGES), CLASSES)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Chain.of_blocks(made, IMAGES[:2]).eval()


def task(chain: Chain, batch_size: int = 50, count: int = 120) -> Task:
    """The data, in several batches."""
    return Task.classification(chain, IMAGES[:count], CLASSES[:count], batch_size=batch_size)
