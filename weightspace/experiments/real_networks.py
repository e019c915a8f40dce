"""Real networks of CIFAR-10 as modules: the depths of one family, and seeds of two, with the hundred images that are at hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import weightspace as ws
from weightspace.experiments.merge_seeds import DEVIATION, MEAN, Tiny10
from weightspace.modules import tensors_of

DEPTHS = (20, 32, 44, 56)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of pixels with which the depths were trained."""

Family = Literal["depths", "tiny10", "resnet20"]


class Block(nn.Module):
    """A residual block by torchvision's names, basic or a bottleneck; without a shortcut layer missing channels are padded."""

    def __init__(self, before: int, width: int, stride: int, *, narrow: int = 0, pad: bool = False) -> None:
        super().__init__()
        if narrow:
            kernels = [(before, narrow, 1), (narrow, narrow, 3), (narrow, width, 1)]
        else:
            kernels = [(before, width, 3), (width, width, 3)]
        for at, (reads, makes, size) in enumerate(kernels, 1):
            step = stride if at == (2 if narrow else 1) else 1
            setattr(self, f"conv{at}", nn.Conv2d(reads, makes, size, step, size // 2, bias=False))
            setattr(self, f"bn{at}", nn.BatchNorm2d(makes))
        self.layers = len(kernels)
        self.stride, self.missing = stride, (width - before) // 2 if pad else 0
        if not pad and (stride > 1 or before != width):
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        y = x
        for at in range(1, self.layers + 1):
            y = getattr(self, f"bn{at}")(getattr(self, f"conv{at}")(y))
            y = functional.relu(y) if at < self.layers else y
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        elif self.missing:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.missing, self.missing))
        return functional.relu(x + y)


class CifarResNet(nn.Module):
    """A residual network for small images (He et al., arXiv:1512.03385, section 4.2) by the names of the two sources.

    Shortcuts across stages are padded with zeros (option A, head `linear`) or have a convolution of their own (head `fc`).
    """

    def __init__(self, blocks: int, *, pad: bool) -> None:
        super().__init__()
        self.conv1, self.bn1, before = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), 16
        for at, width in enumerate((16, 32, 64), 1):
            shapes = [(before, 1 if at == 1 else 2), *[(width, 1)] * (blocks - 1)]
            setattr(self, f"layer{at}", nn.Sequential(*(Block(reads, width, stride, pad=pad) for reads, stride in shapes)))
            before = width
        self.head = "linear" if pad else "fc"
        setattr(self, self.head, nn.Linear(before, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for at in (1, 2, 3):
            x = getattr(self, f"layer{at}")(x)
        made: Tensor = getattr(self, self.head)(x.mean((2, 3)))
        return made


@dataclass(frozen=True)
class Images:
    """CIFAR-10 images as networks of a family take them, and their classes."""

    inputs: Tensor
    classes: Tensor


def images(folder: Path, family: Family) -> Images:
    """The hundred test images that there are."""
    table = np.loadtxt(folder / "eran-data" / "cifar10_test_first100.csv", delimiter=",")
    pixels = torch.tensor(table[:, 1:], dtype=torch.float32).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2) / 255
    mean, deviation = IMAGENET if family == "depths" else (MEAN, DEVIATION)
    return Images(
        (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1), torch.tensor(table[:, 0].astype(np.int64))
    )


def network(folder: Path, family: Family, which: int) -> nn.Module:
    """A depth, or a seed, with its weights, in eval mode."""
    file = {
        "depths": f"akamaster/resnet{which}_cifar10.th",
        "tiny10": f"drfrankenstein/tiny10_cifar10_seed{which:02d}.pt",
        "resnet20": f"drfrankenstein/resnet20_cifar10_seed{which}.pt",
    }[family]
    module = blank(family, which)
    state = ws.open(folder / file).state_dict()
    # integers count batches, which older files do not
    own = {name: tensor for name, tensor in module.state_dict().items() if not tensor.is_floating_point()}
    prefix = next(iter(state)).partition("conv1")[0]
    given = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    named = tensors_of(module, own | given)
    module.load_state_dict({name: (own | given)[source] for name, source in named.items()})
    return module.eval()


def blank(family: Family, which: int) -> nn.Module:
    """A network of the family that has learned nothing, as torch draws it from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny10() if family == "tiny10" else CifarResNet((which - 2) // 6 if family == "depths" else 3, pad=family == "depths")
