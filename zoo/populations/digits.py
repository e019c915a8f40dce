"""Small classifiers of handwritten digits: perceptrons and convolutional networks, all of one shape trained side by side.

The images are scikit-learn's `load_digits`: 1,797 real 8x8 scans. Training is plain SGD with momentum, which makes the
learning rate matter: too low and a network is not done, too high and it falls apart. A batched matrix product trains all
learning rates and seeds of a shape at once; each network has its own generator, so it comes out the same whichever others
are trained beside it.
"""

import contextlib
import itertools
import math
import platform
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightspace.modules import module_builders, task_builders
from weightspace.zoo.populations import population
from weightspace.zoo.runs.run import Run, Value
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch

    from weightspace.task import Task

    Tensors = dict[str, torch.Tensor]
    Forward = Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor]

MOMENTUM = 0.9
BATCH = 64
TEST_IMAGES = 450
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = (0, 50, 150, 400)
_SIDE, _CLASSES = 8, 10
_MOST_NETWORKS = 10_000  # of one population, so that their seeds are short and all different


@dataclass(frozen=True)
class Digits:
    """The images, `(images, pixels)` in 0 to 1, and their classes; the split is the same for every population."""

    train: "torch.Tensor"
    train_classes: "torch.Tensor"
    test: "torch.Tensor"
    test_classes: "torch.Tensor"


@population("digits-mlp")
def digits_mlp(
    *,
    seed: int = 0,
    widths: Sequence[int] = (8, 16, 32, 64),
    depths: Sequence[int] = (1, 2),
    learning_rates: Sequence[float] = LEARNING_RATES,
    repeats: int = 1,
    steps: Sequence[int] = STEPS,
    seeds: Sequence[int] | None = None,
) -> Iterator[Added]:
    """Train ReLU perceptrons on digits.

    Args:
        seed: of the generator that draws a seed for each network.
        widths: hidden units of each hidden layer.
        depths: hidden layers.
        learning_rates: tried for each shape.
        repeats: networks of each shape and learning rate.
        steps: at which a checkpoint is taken; 0 is the initialisation, and training ends at the largest.
        seeds: of the networks in order, instead of drawn ones; the one in a recipe trains that network again.
    """
    networks = _networks(learning_rates, repeats, seeds if seeds is not None else _drawn(seed))
    for width, depth in itertools.product(widths, depths):
        sizes = [_SIDE * _SIDE, *[width] * depth, _CLASSES]
        shapes = {f"fc{at}": (rows, columns) for at, (columns, rows) in enumerate(itertools.pairwise(sizes), 1)}
        group = _Group("digits-mlp", {"width": width, "depth": depth}, shapes, _perceptron)
        yield from _trained(group, next(networks), steps)


@population("digits-cnn")
def digits_cnn(
    *,
    seed: int = 0,
    widths: Sequence[int] = (4, 8),
    learning_rates: Sequence[float] = LEARNING_RATES,
    repeats: int = 1,
    steps: Sequence[int] = STEPS,
    seeds: Sequence[int] | None = None,
) -> Iterator[Added]:
    """Train networks of two 3x3 convolutions of stride 2 and a linear layer on digits.

    Args:
        seed: of the generator that draws a seed for each network.
        widths: channels of the first convolution; the second has twice as many.
        learning_rates: tried for each shape.
        repeats: networks of each shape and learning rate.
        steps: at which a checkpoint is taken; 0 is the initialisation, and training ends at the largest.
        seeds: of the networks in order, instead of drawn ones; the one in a recipe trains that network again.
    """
    networks = _networks(learning_rates, repeats, seeds if seeds is not None else _drawn(seed))
    for width in widths:
        shapes = {"conv1": (width, 1, 3, 3), "conv2": (2 * width, width, 3, 3), "fc": (_CLASSES, 2 * width * 4)}
        group = _Group("digits-cnn", {"width": width, "depth": 3}, shapes, _convolutional)
        yield from _trained(group, next(networks), steps)


@dataclass(frozen=True)
class _Group:
    """Networks of one shape: `shapes` gives the weight of each layer; every layer has a bias too."""

    name: str
    settings: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    forward: "Forward"


def _drawn(seed: int) -> Sequence[int]:
    """Seeds for the networks of a population, all different."""
    import torch

    drawn: list[int] = torch.randperm(_MOST_NETWORKS, generator=torch.Generator().manual_seed(seed)).tolist()
    return drawn


def _networks(learning_rates: Sequence[float], repeats: int, seeds: Sequence[int]) -> Iterator[list[tuple[float, int]]]:
    """For one shape after the other, the (learning rate, seed) of its networks, until there are no seeds left."""
    rates = [rate for rate in learning_rates for _ in range(repeats)]
    for at in range(0, len(seeds) - len(rates) + 1, len(rates)):
        yield list(zip(rates, seeds[at : at + len(rates)], strict=True))


def load_digits() -> Digits:
    """Read the images that ship with scikit-learn, shuffled by a fixed seed and split."""
    import torch
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images, labels = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(classes)[order]
    return Digits(images[:-TEST_IMAGES], labels[:-TEST_IMAGES], images[-TEST_IMAGES:], labels[-TEST_IMAGES:])


def _perceptron(weights: "Mapping[str, torch.Tensor]", images: "torch.Tensor") -> "torch.Tensor":
    """Logits `(models, batch, classes)` of perceptrons with stacked weights `(models, rows, columns)`."""
    import torch

    layers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    for layer in layers:
        images = torch.baddbmm(weights[f"{layer}.bias"][:, None], images, weights[f"{layer}.weight"].mT)
        if layer != layers[-1]:
            images = images.relu()
    return images


def _convolutional(weights: "Mapping[str, torch.Tensor]", images: "torch.Tensor") -> "torch.Tensor":
    """Logits of convolutional networks; convolutions are batched matrix products over patches, far faster here than grouped ones."""
    import torch

    models, batch, _ = images.shape
    maps = images.reshape(models, batch, _SIDE, _SIDE, 1)
    for layer in ("conv1", "conv2"):
        padded = torch.nn.functional.pad(maps, (0, 0, 1, 1, 1, 1))
        side = maps.shape[2]
        patches = torch.stack([padded[:, :, y : y + side : 2, x : x + side : 2] for y in range(3) for x in range(3)], -1)
        columns = patches.reshape(models, batch * (side // 2) ** 2, -1)
        maps = torch.baddbmm(weights[f"{layer}.bias"][:, None], columns, weights[f"{layer}.weight"].flatten(2).mT)
        maps = maps.reshape(models, batch, side // 2, side // 2, -1).relu()
    features = maps.permute(0, 1, 4, 2, 3).flatten(2)
    return torch.baddbmm(weights["fc.bias"][:, None], features, weights["fc.weight"].mT)


def build_mlp(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a perceptron of this population, for images `(batch, 64)`."""
    import torch

    settings, nn = recipe["hyperparameters"], torch.nn
    sizes = [_SIDE * _SIDE, *[settings["width"]] * settings["depth"], _CLASSES]
    layers: dict[str, torch.nn.Module] = {}
    for at, (columns, rows) in enumerate(itertools.pairwise(sizes), 1):
        layers[f"fc{at}"] = nn.Linear(columns, rows)
        if at <= settings["depth"]:
            layers[f"relu{at}"] = nn.ReLU()
    return nn.Sequential(OrderedDict(layers))


def build_cnn(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a convolutional network of this population, for images `(batch, 64)`."""
    import torch

    width, nn = recipe["hyperparameters"]["width"], torch.nn
    layers = {
        "image": nn.Unflatten(1, (1, _SIDE, _SIDE)),
        "conv1": nn.Conv2d(1, width, 3, stride=2, padding=1),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        "relu2": nn.ReLU(),
        "flat": nn.Flatten(),
        "fc": nn.Linear(2 * width * 4, _CLASSES),
    }
    return nn.Sequential(OrderedDict(layers))


def build_task(module: "torch.nn.Module") -> "Task":
    """Judge a network of these populations by the test images."""
    from weightspace.task import Task

    digits = load_digits()
    return Task.classification(module, digits.test, digits.test_classes)


for _name, _build in {"digits-mlp": build_mlp, "digits-cnn": build_cnn}.items():
    module_builders.add(_name, _build)
    task_builders.add(_name, build_task)


def _trained(group: _Group, networks: Sequence[tuple[float, int]], steps: Sequence[int]) -> Iterator[Added]:
    """Train networks of one shape, given as (learning rate, seed), and yield their checkpoints run by run."""
    with _one_thread():
        taken = list(_train(group, networks, sorted(set(steps))))
    for at, (learning_rate, seed) in enumerate(networks):
        architecture: dict[str, Value] = {"architecture": group.name.removeprefix("digits-"), **group.settings}
        training: dict[str, Value] = {
            "learning_rate": learning_rate,
            "momentum": MOMENTUM,
            "batch_size": BATCH,
            "optimizer": "sgd",
            "steps": max(steps),
        }
        name = f"{group.name}-w{group.settings['width']}-d{group.settings['depth']}-lr{learning_rate:g}-s{seed}"
        run = Run(f"population:{name}", name, "population", seed, {**architecture, **training}, status="finished")
        made = {"kind": "population", "name": group.name, "seed": seed, "hyperparameters": run.hyperparameters, "versions": _versions()}
        for step, weights, metrics in taken:
            own = {split: {metric: values[at] for metric, values in measured.items()} for split, measured in metrics.items()}
            yield Added(
                {tensor: stacked[at].clone() for tensor, stacked in weights.items()},
                f"{name}/step-{step}",
                recipe={**made, "step": step},
                run=run,
                step=step,
                # A network that fell apart may have a loss of NaN, which is no number to record.
                metrics={split: {metric: value for metric, value in of.items() if math.isfinite(value)} for split, of in own.items()},
                tags={"source": "population", "population": group.name},
            )


def _train(
    group: _Group, networks: Sequence[tuple[float, int]], steps: Sequence[int]
) -> "Iterator[tuple[int, Tensors, dict[str, dict[str, list[float]]]]]":
    """Train networks of one shape together; yield stacked weights and measurements at each of the steps."""
    import torch

    digits = load_digits()
    generators = [torch.Generator().manual_seed(seed) for _, seed in networks]
    weights = _initial(group.shapes, generators)
    velocity = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    rates = torch.tensor([rate for rate, _ in networks])
    for step in range(max(steps) + 1):
        if step in steps:
            copy = {name: tensor.clone() for name, tensor in weights.items()}
            train = _measured(group.forward, weights, digits.train, digits.train_classes)
            yield step, copy, {"test": _measured(group.forward, weights, digits.test, digits.test_classes), "train": train}
        if step == max(steps):
            return
        drawn = torch.stack([torch.randint(len(digits.train), (BATCH,), generator=generator) for generator in generators])
        watched = {name: tensor.requires_grad_() for name, tensor in weights.items()}
        logits = group.forward(watched, digits.train[drawn])
        # Summed over the networks: each one's gradient is that of its own mean loss.
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), digits.train_classes[drawn].flatten(), reduction="sum") / BATCH
        gradients = torch.autograd.grad(loss, list(watched.values()))
        with torch.no_grad():
            for name, gradient in zip(watched, gradients, strict=True):
                velocity[name].mul_(MOMENTUM).add_(gradient)
                step_size = rates.view(-1, *[1] * (gradient.ndim - 1))
                weights[name] = watched[name].detach() - step_size * velocity[name]


def _initial(shapes: Mapping[str, tuple[int, ...]], generators: "Sequence[torch.Generator]") -> "Tensors":
    """Draw weights as He et al. (arXiv:1502.01852) do for ReLU, each network from its own generator; biases are zero."""
    import torch

    weights: dict[str, torch.Tensor] = {}
    for layer, shape in shapes.items():
        deviation = math.sqrt(2 / math.prod(shape[1:]))
        weights[f"{layer}.weight"] = torch.stack([torch.randn(shape, generator=generator) * deviation for generator in generators])
        weights[f"{layer}.bias"] = torch.zeros(len(generators), shape[0])
    return weights


def _measured(
    forward: "Forward", weights: "Mapping[str, torch.Tensor]", images: "torch.Tensor", classes: "torch.Tensor"
) -> dict[str, list[float]]:
    """Accuracy and mean cross-entropy of each network."""
    import torch

    models = next(iter(weights.values())).shape[0]
    with torch.no_grad():
        logits = forward(weights, images.expand(models, *images.shape))
        loss = torch.nn.functional.cross_entropy(logits.mT, classes.expand(models, -1), reduction="none").mean(1)
        accuracy = (logits.argmax(-1) == classes).double().mean(1)
    return {"accuracy": accuracy.tolist(), "loss": loss.tolist()}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Give torch one thread for a while: products this small only lose by more, and sums keep one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _versions() -> dict[str, Any]:
    import numpy as np
    import sklearn
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "scikit-learn": sklearn.__version__}
