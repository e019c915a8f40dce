"""The networks that signatures are taken of: images and signals, what corrupts them, and one network trained clean and one for each corruption."""

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.experiments.data import mnist, mnist1d
from weightspace.experiments.networks import cnn

SIDE = 28
BATCH, RATE = 128, 1e-3
TUNED, TESTED = 500, 1000  # examples to choose strengths on, and to measure on
Corrupt = Callable[[Tensor, torch.Generator], Tensor]
Weights = Mapping[str, Tensor]
Examples = tuple[Tensor, Tensor]


def _image(change: Callable[[Tensor, torch.Generator], Tensor]) -> Corrupt:
    return lambda flat, generator: change(flat.view(-1, 1, SIDE, SIDE), generator).flatten(1)


def _noise(amount: float) -> Corrupt:
    return lambda inputs, generator: inputs + amount * torch.randn(inputs.shape, generator=generator)


def _blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    bell = torch.exp(-torch.arange(-6.0, 7).square() / (2 * 2.5**2))
    return nn.functional.conv2d(images, (bell[:, None] * bell / bell.sum() ** 2)[None, None], padding=6)


def _striped(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cat([images[..., :10], 1 - images[..., 10:16], images[..., 16:]], -1)


def _covered(inputs: Tensor, generator: torch.Generator, length: int, value: float) -> Tensor:
    """A window of each example, at a place of its own, with one value; a square of images (examples, 1, rows, columns)."""
    covers = torch.ones(len(inputs), 1, dtype=torch.bool)
    for size in inputs.shape[2:]:
        start = torch.randint(size - length + 1, (len(inputs), 1), generator=generator)
        inside = (torch.arange(size) >= start) & (torch.arange(size) < start + length)
        covers = covers[..., None] & inside.view(-1, *[1] * (covers.ndim - 1), size)
    return torch.where(covers, value, inputs)


def _smooth(signals: Tensor, generator: torch.Generator) -> Tensor:
    return nn.functional.avg_pool1d(signals[:, None], 9, 1, 4, count_include_pad=False)[:, 0]


def _flipped(signals: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cat([signals[:, :14], -signals[:, 14:24], signals[:, 24:]], -1)


IMAGES: Mapping[str, Corrupt] = {
    "noise": _noise(0.5),
    "blur": _image(_blurred),
    "contrast": lambda images, generator: 0.5 + 0.15 * images,
    "occlusion": _image(lambda images, generator: _covered(images, generator, 13, 1.0)),
    "stripe": _image(_striped),
}
SIGNALS: Mapping[str, Corrupt] = {
    "noise": _noise(0.45),
    "blur": _smooth,
    "contrast": lambda signals, generator: 1.0 + 0.3 * signals,
    "occlusion": lambda signals, generator: _covered(signals[:, None], generator, 10, 2.0)[:, 0],
    "flip": _flipped,
}


@dataclass(frozen=True)
class Setting:
    """One kind of data, and the networks that learn it.

    Attributes:
        name: in tables.
        module: of the network.
        corruptions: by name.
        start: examples of the task before: which way an image was turned. None: networks start from one initialisation.
        learn: examples to train on; of `a`, and of the other networks that a signature is carried to.
        tune, test: examples to choose strengths on, and to measure on; those of the other data set by its name.
        rate: of learning.
    """

    name: str
    module: nn.Sequential
    corruptions: Mapping[str, Corrupt]
    start: Tensor | None
    learn: Mapping[str, Examples]
    tune: Mapping[str, Examples]
    test: Mapping[str, Examples]
    rate: float = RATE


def setting(name: Literal["mnist", "mnist1d"], width: int) -> Setting:
    """Split the data of one kind."""
    if name == "mnist1d":
        made = mnist1d()
        parts = _parts((made.train, made.train_classes), {"a": 5000, "b": 4000, "tune": TUNED})
        learn, tune = {"a": parts["a"], "b": parts["b"]}, {"a": parts["tune"]}
        return Setting(
            name, cnn(40, 1, 3, width, norm=True), SIGNALS, None, learn, tune, {"a": _first((made.test, made.test_classes))}, 3e-3
        )
    made = mnist()
    parts = _parts((made.train, made.train_classes), {"start": 2000, "a": 2500, "b": 2500, "tune": TUNED})
    other = _parts(_digits(), {"learn": 1000, "tune": 297, "test": 500})
    learn = {"a": parts["a"], "b": parts["b"], "digits": other["learn"]}
    tune, test = {"a": parts["tune"], "digits": other["tune"]}, {"a": _first((made.test, made.test_classes)), "digits": other["test"]}
    return Setting(name, cnn(SIDE, 2, 4, width, norm=True), IMAGES, parts["start"][0], learn, tune, test)


def _first(examples: Examples) -> Examples:
    return examples[0][:TESTED], examples[1][:TESTED]


def _parts(examples: Examples, sizes: Mapping[str, int]) -> dict[str, Examples]:
    ends = list(itertools.accumulate(sizes.values()))
    return {
        name: (examples[0][end - size : end], examples[1][end - size : end]) for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def _digits() -> Examples:
    """The handwritten digits of scikit-learn, 8 pixels wide, enlarged to 20 and framed as MNIST's are."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images / 16, dtype=torch.float32)[order, None]
    large = nn.functional.interpolate(images, size=20, mode="bilinear", align_corners=False)
    return nn.functional.pad(large, (4, 4, 4, 4)).flatten(1), torch.tensor(found.target)[order]


@dataclass(frozen=True)
class Networks:
    """What was trained from one seed.

    Attributes:
        start: what all the others were trained from.
        standard: trained on clean data, by the name of the data.
        robust: trained on corrupted data of `a`, by the corruption.
    """

    start: Weights
    standard: Mapping[str, Weights]
    robust: Mapping[str, Weights]


def networks(given: Setting, seed: int, steps: int) -> Networks:
    """Train the networks of one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = copy.deepcopy(given.module)
        for layer in module.modules():
            if isinstance(layer, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm | nn.Linear):
                layer.reset_parameters()
    start: Weights = _state(module)
    if given.start is not None:
        images = given.start.view(-1, SIDE, SIDE)
        turned = torch.cat([images.rot90(times, (1, 2)).flatten(1) for times in range(4)])
        start = train(given, start, (turned, torch.arange(4).repeat_interleave(len(images))), None, steps, 10 * seed)
    standard = {
        name: train(given, start, examples, None, steps, 10 * seed + 1 + at) for at, (name, examples) in enumerate(given.learn.items())
    }
    robust = {
        name: train(given, start, given.learn["a"], corrupt, steps, 10 * seed + 5 + at)
        for at, (name, corrupt) in enumerate(given.corruptions.items())
    }
    return Networks(start, standard, robust)


def trained(given: Setting, seed: int, steps: int, cache: Path | None) -> Networks:
    """The networks of one seed: read from the cache, or trained and kept there."""
    folder = None if cache is None else cache / f"signatures-{given.name}-{steps}" / str(seed)
    if folder is None or not (folder / "complete").exists():
        made = networks(given, seed, steps)
        if folder is None:
            return made
        for name, weights in _named(made).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            ws.save(dict(weights), folder / f"{name}.safetensors")
        (folder / "complete").touch()
    read = {kind: {file.stem: ws.open(file).state_dict() for file in sorted((folder / kind).glob("*"))} for kind in ("standard", "robust")}
    return Networks(ws.open(folder / "start.safetensors").state_dict(), read["standard"], read["robust"])


def _named(made: Networks) -> dict[str, Weights]:
    named = {f"{kind}/{name}": one for kind in ("standard", "robust") for name, one in getattr(made, kind).items()}
    return {"start": made.start, **named}


def train(given: Setting, start: Weights, examples: Examples, corrupt: Corrupt | None, steps: int, seed: int) -> Weights:
    """Train on from a start: Adam, its rate falling as a cosine; each batch is corrupted anew."""
    module = copy.deepcopy(given.module).train()
    module.load_state_dict(dict(start))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), given.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        drawn = torch.randint(len(examples[1]), (BATCH,), generator=generator)
        inputs = examples[0][drawn] if corrupt is None else corrupt(examples[0][drawn], generator)
        loss = nn.functional.cross_entropy(module(inputs), examples[1][drawn])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return _state(module)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def accuracy(given: Setting, weights: Weights, examples: Examples) -> float:
    """The share of examples that a network tells right."""
    with torch.no_grad():
        logits = torch.func.functional_call(given.module.eval(), dict(weights), (examples[0],))
    return float((logits.argmax(1) == examples[1]).double().mean())
