"""Small networks for the tests of reassembly, made of blocks so that nothing is traced."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching import Chain
from weightspace.task import Task

INPUTS, CLASSES = 6, 3


def generator(seed: int = 0) -> torch.Generator:
    """A source of chance."""
    return torch.Generator().manual_seed(seed)


def mlp(*widths: int, seed: int = 0) -> Chain:
    """A chain of layers with ReLUs between them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (INPUTS, *widths, CLASSES)
        layers = [nn.Linear(one, other) for one, other in pairwise(sizes)]
    blocks = {f"{at}": nn.Sequential(layer, nn.ReLU()) if at < len(widths) else layer for at, layer in enumerate(layers)}
    return Chain.of_blocks(blocks, torch.zeros(2, INPUTS))


def task(examples: int = 64, seed: int = 0, batch_size: int = 16) -> Task:
    """Three classes of points, by a linear rule."""
    inputs = torch.randn(examples, INPUTS, generator=generator(seed))
    rule: Tensor = torch.randn(INPUTS, CLASSES, generator=generator(99))
    return Task.classification(nn.Identity(), inputs, (inputs @ rule).argmax(1), batch_size=batch_size)


def empty() -> Task:
    """A task without data."""
    return Task(nn.Identity(), [], lambda outputs, batch: outputs.sum())
