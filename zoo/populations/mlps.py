"""Perceptrons of many widths, depths and activations, trained well and badly."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weightspace.modules import module_builders, task_builders
from weightspace.zoo.populations import classifiers, population
from weightspace.zoo.populations.family import Family, expect_options
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch


@population("mlps")
def mlps(
    *,
    seed: int = 0,
    count: int = 512,
    data: str = "mnist1d",
    widths: Sequence[int] = (8, 16, 32),
    depths: Sequence[int] = (1, 2, 3),
    activations: Sequence[str] = ("relu", "tanh", "gelu"),
    learning_rates: Sequence[float] = classifiers.LEARNING_RATES,
    weight_decays: Sequence[float] = classifiers.WEIGHT_DECAYS,
    init_scales: Sequence[float] = classifiers.INIT_SCALES,
    data_fractions: Sequence[float] = classifiers.DATA_FRACTIONS,
    optimizer: str = "adam",
    batch_size: int = classifiers.BATCH,
    steps: Sequence[int] = (540,),
    split_seed: int = 0,
    seeds: Sequence[int] | None = None,
    skip: Container[str] = (),
    jobs: int | None = None,
    backend: str = "local",
) -> Iterator[Added]:
    """Perceptrons of varied width, depth, activation, learning rate, weight decay, initial scale and share of the data.

    A list of one option fixes it: `widths=[16], depths=[2], activations=["relu"]` makes all networks of one architecture.

    Args:
        seed: of the population; see `weightspace.zoo.populations.family.APART`.
        count: networks. More of them later leave those that there are as they are.
        data: what they classify, as `weightspace.zoo.populations.data.load` takes it.
        widths: hidden units of each hidden layer, chosen from.
        depths: hidden layers, chosen from.
        activations: relu, tanh, gelu, chosen from.
        learning_rates: lower and upper bound of a log-uniform draw.
        weight_decays: likewise; decoupled.
        init_scales: likewise; factor of the initial weights.
        data_fractions: share of the training examples that a network sees, chosen from.
        optimizer: adam or sgd (momentum 0.9).
        batch_size: examples of a batch.
        steps: at which a checkpoint is taken; 0 is the initialisation, and training ends at the largest.
        split_seed: of the splits that metanets use.
        seeds: of the networks, instead of the first `count`; the one in a recipe trains that network again.
        skip: keys of runs that are left out, since they are there already.
        jobs: threads, or workers of a cluster; results do not depend on it.
        backend: `local` for threads of this process, or a cluster; see `weightspace.parallel.run`.

    Raises:
        RecordError: a setting cannot be used.
    """
    given = dict(locals())
    from weightspace.zoo.populations import data as sources
    from weightspace.zoo.populations.layers import ACTIVATIONS

    examples = sources.load(data)
    expect_options("mlps", given, {"widths": 1, "depths": 0, "activations": ACTIVATIONS})
    architecture = {"width": widths, "depth": depths, "activation": activations}
    yield from classifiers.trained(Family.of("mlps", given, examples), examples, given, architecture)


def build(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a perceptron of this population, for inputs `(batch, inputs)`."""
    from torch import nn

    from weightspace.zoo.populations.layers import ACTIVATIONS

    known, data = recipe["hyperparameters"], recipe["data"]
    sizes = [math.prod(data["shape"]), *[known["width"]] * known["depth"], data["classes"]]
    layers: dict[str, nn.Module] = {}
    for at, (columns, rows) in enumerate(itertools.pairwise(sizes), 1):
        layers[f"fc{at}"] = nn.Linear(columns, rows)
        if at <= known["depth"]:
            layers[f"{known['activation']}{at}"] = ACTIVATIONS[known["activation"]]()
    return nn.Sequential(OrderedDict(layers))


module_builders.add("mlps", build)
task_builders.add("mlps", classifiers.build_task)
