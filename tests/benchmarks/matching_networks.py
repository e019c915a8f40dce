"""The networks that weight matching is timed on: perceptrons, convolutional nets with batch and group norms, a vision transformer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


def perceptron(width: int) -> nn.Sequential:
    """Three hidden layers on MNIST's 784 pixels."""
    sizes = [784, width, width, width]
    hidden = [layer for i in range(3) for layer in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def vgg16() -> nn.Sequential:
    """VGG16 with batch norms for 32 by 32 pixels: 13 convolutions, one linear layer."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class BasicBlock(nn.Module):
    """Two convolutions with batch norms and a shortcut, rectified after the sum."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        widens = stride != 1 or before != width
        self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)) if widens else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.relu1(self.bn1(self.conv1(x)))
        out: Tensor = self.relu2(self.bn2(self.conv2(inside)) + self.shortcut(x))
        return out


def resnet18() -> nn.Sequential:
    """ResNet18 with batch norms and the 3 by 3 stem for CIFAR."""
    blocks: list[nn.Module] = []
    before = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [BasicBlock(before, width, stride), BasicBlock(width, width, 1)]
        before = width
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class PreBlock(nn.Module):
    """A pre-activation block with one-group norms; a widening shortcut is normed too."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(1, before), nn.Conv2d(before, width, 3, 1, 1, bias=False)
        self.norm2, self.conv2 = nn.GroupNorm(1, width), nn.Conv2d(width, width, 3, stride, 1, bias=False)
        widens = stride != 1 or before != width
        self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.GroupNorm(1, width)) if widens else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inside = self.conv1(self.relu1(self.norm1(x)))
        out: Tensor = self.conv2(self.relu2(self.norm2(inside))) + self.shortcut(x)
        return out


def resnet22(widening: int) -> nn.Sequential:
    """The wide residual net of git-re-basin-pytorch's experiments: three stages of three blocks, group norms."""
    blocks: list[nn.Module] = []
    before = 16
    for width, stride in ((16 * widening, 1), (32 * widening, 2), (64 * widening, 2)):
        blocks += [PreBlock(before, width, stride), PreBlock(width, width, 1), PreBlock(width, width, 1)]
        before = width
    tail = [nn.GroupNorm(1, before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), *blocks, *tail)


class Attention(nn.Module):
    """Self-attention with queries, keys and values in one matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.act, self.down = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.down(self.act(self.up(self.norm2(x))))
        return out


class VisionTransformer(nn.Module):
    """Patches of 4 by 4 pixels, learnt positions, four blocks, a mean over tokens."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return out


@dataclass(frozen=True)
class Subject:
    """A network to match.

    Attributes:
        make: draws its weights from torch's global generator.
        shape: of an example input.
    """

    make: Callable[[], nn.Module]
    shape: Sequence[int]

    def pair(self, seed: int) -> tuple[nn.Module, nn.Module]:
        """Two networks with independent weights as they are initialised."""
        made = []
        for number in (2 * seed, 2 * seed + 1):
            torch.manual_seed(number)
            made.append(self.make().eval())
        return made[0], made[1]


IMAGE = (1, 3, 32, 32)
SUBJECTS = {
    "MLP 3x512": Subject(lambda: perceptron(512), (1, 784)),
    "MLP 3x1024": Subject(lambda: perceptron(1024), (1, 784)),
    "MLP 3x2048": Subject(lambda: perceptron(2048), (1, 784)),
    "VGG16-BN": Subject(vgg16, IMAGE),
    "ResNet18-BN": Subject(resnet18, IMAGE),
    "ResNet22-GN x8": Subject(lambda: resnet22(8), IMAGE),
    "ViT 4x192": Subject(VisionTransformer, IMAGE),
}
