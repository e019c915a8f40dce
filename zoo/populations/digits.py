"""Small classifiers of handwritten digits: perceptrons and convolutional networks, all of one shape trained side by side.

The images are scikit-learn's `load_digits`: 1,797 real 8x8 scans. Training is plain SGD with momentum, which makes the
learning rate matter: too low and a network is not done, too high and it falls apart. A batched matrix product trains all
learning rates and seeds of a shape at once; each network has its own generator, so it comes out the same whichever others
are trained beside it.
"""

import itertools
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weightspace.modules import module_builders, task_builders
from weightspace.zoo.populations import population
from weightspace.zoo.populations.classifiers import build_task, built, initialise
from weightspace.zoo.populations.data import load_digits
from weightspace.zoo.populations.family import finite, generator_of, versions
from weightspace.zoo.runs.run import Run, Value
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]
    Judgements = list[dict[str, float]]

MOMENTUM = 0.9
BATCH = 64
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = (0, 50, 150, 400)
_SIDE, _CLASSES = 8, 10
_MOST_NETWORKS = 10_000  # of one population, so that their seeds are short and all different


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
    skip: Container[str] = (),
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
        skip: keys of runs that are left out, since they are there already.
    """
    networks = _networks(learning_rates, repeats, seeds if seeds is not None else _drawn(seed))
    for width, depth in itertools.product(widths, depths):
        yield from _trained("digits-mlp", {"width": width, "depth": depth}, next(networks), steps, skip)


@population("digits-cnn")
def digits_cnn(
    *,
    seed: int = 0,
    widths: Sequence[int] = (4, 8),
    learning_rates: Sequence[float] = LEARNING_RATES,
    repeats: int = 1,
    steps: Sequence[int] = STEPS,
    seeds: Sequence[int] | None = None,
    skip: Container[str] = (),
) -> Iterator[Added]:
    """Train networks of two 3x3 convolutions of stride 2 and a linear layer on digits.

    Args:
        seed: of the generator that draws a seed for each network.
        widths: channels of the first convolution; the second has twice as many.
        learning_rates: tried for each shape.
        repeats: networks of each shape and learning rate.
        steps: at which a checkpoint is taken; 0 is the initialisation, and training ends at the largest.
        seeds: of the networks in order, instead of drawn ones; the one in a recipe trains that network again.
        skip: keys of runs that are left out, since they are there already.
    """
    networks = _networks(learning_rates, repeats, seeds if seeds is not None else _drawn(seed))
    for width in widths:
        yield from _trained("digits-cnn", {"width": width, "depth": 3}, next(networks), steps, skip)


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


for _name, _build in {"digits-mlp": build_mlp, "digits-cnn": build_cnn}.items():
    module_builders.add(_name, _build)
    task_builders.add(_name, lambda module, recipe, part: build_task(module, {"data": {"name": "digits"}}, part))


def _trained(
    name: str, shape: Mapping[str, int], networks: Sequence[tuple[float, int]], steps: Sequence[int], skip: Container[str]
) -> Iterator[Added]:
    """Train networks of one shape, given as (learning rate, seed), and yield their checkpoints run by run."""
    from weightspace.zoo.populations.training import side_by_side

    runs = [one for one in (_run(name, shape, rate, seed, max(steps)) for rate, seed in networks) if one.key not in skip]
    if not runs:
        return
    recipes = [
        {"kind": "population", "name": name, "seed": run.seed, "hyperparameters": run.hyperparameters, "versions": dict(versions())}
        for run in runs
    ]
    module = built(recipes[0])
    [taken] = list(side_by_side(lambda stack: _train(module, stack, steps), [runs]))
    for at, (run, made) in enumerate(zip(runs, recipes, strict=True)):
        for step, weights, metrics in taken:
            yield Added(
                {tensor: stacked[at].clone() for tensor, stacked in weights.items()},
                f"{run.name}/step-{step}",
                recipe={**made, "step": step},
                run=run,
                step=step,
                metrics=finite({split: measured[at] for split, measured in metrics.items()}),
                tags={"source": "population", "population": name},
            )


def _run(name: str, shape: Mapping[str, int], learning_rate: float, seed: int, steps: int) -> Run:
    hyperparameters: dict[str, Value] = {
        "architecture": name.removeprefix("digits-"),
        **shape,
        "learning_rate": learning_rate,
        "momentum": MOMENTUM,
        "batch_size": BATCH,
        "optimizer": "sgd",
        "steps": steps,
    }
    title = f"{name}-w{shape['width']}-d{shape['depth']}-lr{learning_rate:g}-s{seed}"
    return Run(f"population:{title}", title, "population", seed, hyperparameters, status="finished")


def _train(module: "torch.nn.Module", runs: Sequence[Run], steps: Sequence[int]) -> "list[tuple[int, Tensors, dict[str, Judgements]]]":
    """Train networks of one shape together; their stacked weights and measurements at each of the steps."""
    from weightspace.zoo.populations.training import SGD, Trainee, cross_entropy, drawn, judged, train

    digits, trainees = load_digits(), []
    for run in runs:
        generator = generator_of(run.seed or 0)
        initialise(module, generator, 1.0)
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        trainees.append(Trainee(state, generator, float(run.hyperparameters["learning_rate"])))
    batches = drawn(digits.train, digits.train_classes, trainees, BATCH)
    return [
        (
            step,
            weights,
            {
                "test": judged(module, weights, digits.test, digits.test_classes),
                "train": judged(module, weights, digits.train, digits.train_classes),
            },
        )
        for step, weights in train(module, trainees, batches, cross_entropy, SGD(MOMENTUM), steps)
    ]


__all__ = ["build_cnn", "build_mlp", "digits_cnn", "digits_mlp", "load_digits"]
