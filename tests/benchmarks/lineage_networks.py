"""Small classifiers that many families are made of, trained side by side from where each one starts.

Networks of one architecture are stacked along a first axis, so that a batched product trains all of them at once; each draws its own
batches from its own seed and comes out the same, up to rounding, whichever others are trained beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from weightspace.zoo.populations.digits import load_digits

MOMENTUM, BATCH, SIDE, CLASSES = 0.9, 32, 8, 10
LONGEST = 2.0  # of gradients

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """A chain of layers with ReLU in between; kernels are 3x3 of stride 2, with a batch norm each.

    Attributes:
        name: what it is called here.
        shapes: of the weight of each layer, by the layer's name, in order.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def weights(self) -> list[str]:
        """Names of the matrices and kernels."""
        return [f"{layer}.weight" for layer in self.shapes]


PERCEPTRON = Architecture("perceptron", {"fc1": (96, 64), "fc2": (64, 96), "fc3": (CLASSES, 64)})
WIDE = Architecture("wide", {"fc1": (128, 64), "fc2": (CLASSES, 128)})
CONVOLUTIONAL = Architecture("convolutional", {"conv1": (16, 1, 3, 3), "conv2": (32, 16, 3, 3), "fc": (CLASSES, 128)})
ARCHITECTURES = {one.name: one for one in (PERCEPTRON, WIDE, CONVOLUTIONAL)}


@dataclass(frozen=True)
class Job:
    """One training: of one network, on one task.

    Attributes:
        seed: of the order of its batches.
        steps: of SGD with momentum, the learning rate falling to a tenth in a line.
        learning_rate: at the first step.
        decay: of matrices and kernels.
        images: which copy of the digits: `clean`, or one of `copies`.
        labels: the new class of each digit.
        classes: digits that it sees.
        rank: of a low-rank update that alone is trained; 0 for all weights.
    """

    seed: int
    steps: int
    learning_rate: float = 0.05
    decay: float = 5e-3
    images: str = "clean"
    labels: tuple[int, ...] = tuple(range(CLASSES))
    classes: tuple[int, ...] = tuple(range(CLASSES))
    rank: int = field(default=0)


@cache
def copies() -> dict[str, Tensor]:
    """The training images, `(images, pixels)`, clean and changed in several ways."""
    clean = load_digits().train
    draw = torch.Generator().manual_seed(7)
    square = clean.reshape(-1, SIDE, SIDE)
    blurred = torch.nn.functional.avg_pool2d(square[:, None], 3, 1, 1)[:, 0]
    return {
        "clean": clean,
        "noisy": (clean + 0.3 * torch.randn(clean.shape, generator=draw)).clamp(0, 1),
        "inverted": 1 - clean,
        "turned": square.rot90(1, (1, 2)).flatten(1).contiguous(),
        "blurred": blurred.flatten(1),
        "shuffled": clean[:, torch.randperm(SIDE * SIDE, generator=draw)],
    }


def initial(architecture: Architecture, seed: int) -> StateDict:
    """Draw one network as He et al. (arXiv:1502.01852) do for ReLU."""
    draw = torch.Generator().manual_seed(seed)
    made: StateDict = {}
    for layer, shape in architecture.shapes.items():
        made[f"{layer}.weight"] = torch.randn(shape, generator=draw) * math.sqrt(2 / math.prod(shape[1:]))
        if len(shape) == 2:
            made[f"{layer}.bias"] = torch.zeros(shape[0])
        else:
            norm = layer.replace("conv", "bn")
            made[f"{norm}.weight"], made[f"{norm}.bias"] = torch.ones(shape[0]), torch.zeros(shape[0])
            made[f"{norm}.running_mean"], made[f"{norm}.running_var"] = torch.zeros(shape[0]), torch.ones(shape[0])
    return made


def train(architecture: Architecture, starts: Sequence[StateDict], jobs: Sequence[Job]) -> list[StateDict]:
    """Train networks together; jobs of equal length and kind run in one batch."""
    made: dict[int, StateDict] = {}
    kinds = sorted({(job.steps, job.rank > 0) for job in jobs})
    for kind in kinds:
        chosen = [at for at, job in enumerate(jobs) if (job.steps, job.rank > 0) == kind]
        stacked = {name: torch.stack([starts[at][name] for at in chosen]) for name in starts[chosen[0]]}
        ended = _trained(architecture, stacked, [jobs[at] for at in chosen])
        for place, at in enumerate(chosen):
            made[at] = {name: tensor[place].clone() for name, tensor in ended.items()}
    return [made[at] for at in range(len(jobs))]


def _trained(architecture: Architecture, weights: StateDict, jobs: Sequence[Job]) -> StateDict:
    """Train stacked networks in place of `weights`; with ranks, only factors of updates are trained, which are added at the end."""
    factors = _factors(architecture, jobs) if jobs[0].rank else {}
    statistics = {name: tensor for name, tensor in weights.items() if "running" in name}
    moving = factors or {name: tensor for name, tensor in weights.items() if name not in statistics}
    velocity = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}
    rates = torch.tensor([job.learning_rate for job in jobs])
    decays = torch.tensor([0.0 if job.rank else job.decay for job in jobs])
    drawn, images, labels = _batches(jobs)
    for step in range(jobs[0].steps):
        watched = {name: tensor.detach().requires_grad_() for name, tensor in moving.items()}
        whole = _updated(architecture, weights, watched, jobs) if factors else {**statistics, **watched}
        logits = forward(architecture, whole, _gather(images, drawn[:, step]), None if factors else statistics)
        wanted = labels.gather(1, drawn[:, step])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum") / BATCH
        gradients = torch.autograd.grad(loss, list(watched.values()))
        fall = 1 - 0.9 * step / jobs[0].steps
        for name, gradient in zip(watched, _clipped(gradients), strict=True):
            shape = (-1, *[1] * (gradient.ndim - 1))
            if name in architecture.weights:
                gradient = gradient + decays.view(shape) * moving[name]
            velocity[name] = velocity[name] * MOMENTUM + gradient
            moving[name] = moving[name] - fall * rates.view(shape) * velocity[name]
    return _updated(architecture, weights, moving, jobs) if factors else {name: {**statistics, **moving}[name] for name in weights}


def _clipped(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Shorten each network's gradient to the longest that is allowed: one that falls apart has no history to find."""
    lengths = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (LONGEST / lengths).clamp_max(1)
    return [gradient * factors.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]


def _batches(jobs: Sequence[Job]) -> tuple[Tensor, Tensor, Tensor]:
    """Image numbers `(models, steps, batch)`, the images `(models, images, pixels)` and the classes `(models, images)`."""
    classes = load_digits().train_classes
    drawn = []
    for job in jobs:
        seen = torch.isin(classes, torch.tensor(job.classes)).nonzero()[:, 0]
        drawn.append(seen[torch.randint(len(seen), (job.steps, BATCH), generator=torch.Generator().manual_seed(job.seed))])
    names = list(copies())
    which = torch.tensor([names.index(job.images) for job in jobs])
    return torch.stack(drawn), torch.stack(list(copies().values()))[which], torch.tensor([job.labels for job in jobs])[:, classes]


def _gather(images: Tensor, numbers: Tensor) -> Tensor:
    return images[torch.arange(len(images))[:, None], numbers]


def _factors(architecture: Architecture, jobs: Sequence[Job]) -> StateDict:
    """Start low-rank updates as LoRA does (Hu et al., arXiv:2106.09685): one factor drawn, the other zero; unused ranks stay zero."""
    top = max(job.rank for job in jobs)
    made: StateDict = {}
    for name, shape in zip(architecture.weights, architecture.shapes.values(), strict=True):
        columns = math.prod(shape[1:])
        drawn = [torch.randn(top, columns, generator=torch.Generator().manual_seed(job.seed)) / math.sqrt(columns) for job in jobs]
        made[f"{name}/a"], made[f"{name}/b"] = torch.stack(drawn), torch.zeros(len(jobs), shape[0], top)
    return made


def _updated(architecture: Architecture, weights: StateDict, factors: Mapping[str, Tensor], jobs: Sequence[Job]) -> StateDict:
    """Weights with their low-rank updates added, each of its own rank."""
    top = max(job.rank for job in jobs)
    mask = (torch.arange(top) < torch.tensor([job.rank for job in jobs])[:, None]).float()
    updates = {name: (factors[f"{name}/b"] * mask[:, None]) @ factors[f"{name}/a"] for name in architecture.weights}
    return {name: tensor + updates[name].reshape(tensor.shape) if name in updates else tensor for name, tensor in weights.items()}


def forward(architecture: Architecture, weights: Mapping[str, Tensor], images: Tensor, statistics: StateDict | None = None) -> Tensor:
    """Logits `(models, batch, classes)` with the norms of the batch; where `statistics` are given, they follow it in place."""
    models, batch, _ = images.shape
    maps = images.reshape(models, batch, SIDE, SIDE, 1)
    values = images
    last = list(architecture.shapes)[-1]
    for layer, shape in architecture.shapes.items():
        if len(shape) == 4:
            maps = _convolved(weights, layer, maps, statistics)
            values = maps.permute(0, 1, 4, 2, 3).flatten(2)
        else:
            values = torch.baddbmm(weights[f"{layer}.bias"][:, None], values, weights[f"{layer}.weight"].mT)
            values = values if layer == last else values.relu()
    return values


def _convolved(weights: Mapping[str, Tensor], layer: str, maps: Tensor, statistics: StateDict | None) -> Tensor:
    """One convolution, batch norm and ReLU of maps `(models, batch, rows, cols, channels)`: a batched product over patches."""
    models, batch, side = maps.shape[:3]
    padded = torch.nn.functional.pad(maps, (0, 0, 1, 1, 1, 1))
    patches = torch.stack([padded[:, :, y : y + side : 2, x : x + side : 2] for y in range(3) for x in range(3)], -1)
    made = patches.reshape(models, batch * (side // 2) ** 2, -1) @ weights[f"{layer}.weight"].flatten(2).mT
    norm = layer.replace("conv", "bn")
    mean, variance = made.mean(1), made.var(1, correction=0)
    if statistics is not None:
        for key, now in (("running_mean", mean), ("running_var", variance)):
            statistics[f"{norm}.{key}"] = statistics[f"{norm}.{key}"].lerp(now.detach(), 0.1)
    scale = weights[f"{norm}.weight"] / (variance + 1e-5).sqrt()
    made = (made - mean[:, None]) * scale[:, None] + weights[f"{norm}.bias"][:, None]
    return made.reshape(models, batch, side // 2, side // 2, -1).relu()


def accuracy(architecture: Architecture, weights: StateDict, job: Job) -> float:
    """Share of the training images of its task that a network gets right, with the norms of the batch."""
    classes = load_digits().train_classes
    seen = torch.isin(classes, torch.tensor(job.classes))
    logits = forward(architecture, {name: tensor[None] for name, tensor in weights.items()}, copies()[job.images][seen][None])
    return (logits[0].argmax(-1) == torch.tensor(job.labels)[classes[seen]]).double().mean().item()
