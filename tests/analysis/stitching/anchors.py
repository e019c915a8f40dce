"""Small networks in parts, and points to classify, that tests of families are made of."""

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching import Chain
from weightspace.task import Task

INPUTS, CLASSES = 6, 3


class Block(nn.Module):
    """Adds to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.down(self.up(x).relu())
        return made


def chain(width: int, depth: int, seed: int = 0) -> Chain:
    """A residual network with a stem, some blocks and a head, given in parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = {
            "stem": nn.Linear(INPUTS, width),
            **{f"block{at}": Block(width) for at in range(depth)},
            "head": nn.Linear(width, CLASSES),
        }
    return Chain.of_blocks(blocks, torch.randn(2, INPUTS, generator=torch.Generator().manual_seed(seed)))


def maps(depths: tuple[int, ...], width: int, seed: int = 0) -> Chain:
    """A network of images with stages, each of which begins by halving the places."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, nn.Module] = {"stem": nn.Conv2d(1, width, 3, padding=1)}
        for stage, depth in enumerate(depths):
            for at in range(depth):
                step = 2 if stage and not at else 1
                parts[f"stage{stage}block{at}"] = nn.Sequential(nn.Conv2d(width, width, 3, step, 1), nn.ReLU())
        parts["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return Chain.of_blocks(parts, torch.zeros(2, 1, 8, 8))


def data(module: nn.Module, *, examples: int = 96, batch_size: int = 32, seed: int = 0) -> Task:
    """Points whose class is that of the nearest of some centres."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, INPUTS, generator=generator)
    centres = torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(99))
    return Task.classification(module, inputs, torch.cdist(inputs, centres).argmin(1), batch_size=batch_size)
