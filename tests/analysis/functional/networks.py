"""Networks whose activations are looked at: digits populations, twelve real convolutional ones, and tasks on them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.task import Task
from weightspace.zoo.populations.digits import build_mlp, digits_mlp, load_digits

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Population:
    """Trained perceptrons of several seeds, their initialisations, and tasks on training and test images."""

    networks: tuple[Weights, ...]
    starts: tuple[Weights, ...]
    task: Task
    train: Task

    @property
    def pair(self) -> tuple[Weights, Weights]:
        """The first two."""
        return self.networks[0], self.networks[1]


@cache
def digits(width: int = 32, depth: int = 2, count: int = 2, steps: int = 300) -> Population:
    """Train perceptrons on digits."""
    made = list(digits_mlp(widths=(width,), depths=(depth,), learning_rates=(0.1,), repeats=count, steps=(0, steps)))
    images, module = load_digits(), build_mlp(made[0].recipe or {})
    return Population(
        tuple(dict(one.tensors) for one in made if one.step == steps),
        tuple(dict(one.tensors) for one in made if one.step == 0),
        Task.classification(module, images.test, images.test_classes, batch_size=150),
        Task.classification(module, images.train, images.train_classes, batch_size=128),
    )


class Convolutional(nn.Module):
    """Two convolutions of one size, a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.act1, self.act2, self.fc = nn.ReLU(), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.fc(self.act2(self.conv2(self.act1(self.conv1(images)))).mean((2, 3)))
        return made


def convolutional(seed: int = 0) -> tuple[Task, Weights]:
    """An untrained convolutional network on random images."""
    torch.manual_seed(seed)
    module = Convolutional()
    images = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return Task.classification(module, images, torch.arange(20) % 3, batch_size=8), dict(module.state_dict())


@cache
def tiny10(folder: Path) -> tuple[Task, list[Weights]]:
    """Two real convolutional networks of CIFAR-10 and sixty of its images."""
    from weightspace.experiments.merge_seeds import DEVIATION, MEAN, Tiny10

    table = np.loadtxt(folder / "eran-data" / "cifar10_test_first100.csv", delimiter=",", max_rows=60)
    pixels = torch.tensor(table[:, 1:], dtype=torch.float32).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2) / 255
    images = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    task = Task.classification(Tiny10(), images, torch.tensor(table[:, 0].astype(np.int64)))
    return task, [dict(ws.open(file).state_dict()) for file in sorted((folder / "drfrankenstein").glob("tiny10_*.pt"))[:2]]
