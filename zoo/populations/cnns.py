"""Convolutional networks with and without batch norm and shortcuts, of many widths and depths."""

from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from weightspace.modules import module_builders, task_builders
from weightspace.zoo.populations import classifiers, population
from weightspace.zoo.populations.family import Family, expect, expect_options
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch

_LARGE = 20  # from this side on, the first convolution takes every fourth place, else every second


@population("cnns")
def cnns(
    *,
    seed: int = 0,
    count: int = 256,
    data: str = "digits",
    widths: Sequence[int] = (4, 8, 12),
    depths: Sequence[int] = (1, 2, 3),
    norms: Sequence[str] = ("none", "batch"),
    residual: Sequence[bool] = (False, True),
    activations: Sequence[str] = ("relu", "tanh", "gelu"),
    learning_rates: Sequence[float] = classifiers.LEARNING_RATES,
    weight_decays: Sequence[float] = classifiers.WEIGHT_DECAYS,
    init_scales: Sequence[float] = classifiers.INIT_SCALES,
    data_fractions: Sequence[float] = classifiers.DATA_FRACTIONS,
    optimizer: str = "adam",
    batch_size: int = classifiers.BATCH,
    steps: Sequence[int] = (300,),
    split_seed: int = 0,
    seeds: Sequence[int] | None = None,
    skip: Container[str] = (),
    jobs: int | None = None,
    backend: str = "local",
) -> Iterator[Added]:
    """Convolutional networks with or without batch norm and shortcuts, of varied width, depth, activation and training.

    A convolution with a stride, then blocks of a 3-wide one, then the mean over all places and a linear layer. The data says whether
    convolutions go along one dimension or two.

    Args:
        seed: as in `mlps`, like all that is not named here.
        count: as in `mlps`.
        data: whose inputs have one dimension or two.
        widths: channels, chosen from.
        depths: blocks, chosen from.
        norms: none, batch, chosen from.
        residual: whether a block's input is added to its output, chosen from.
        activations: as in `mlps`.
        learning_rates: as in `mlps`.
        weight_decays: as in `mlps`.
        init_scales: as in `mlps`.
        data_fractions: as in `mlps`.
        optimizer: as in `mlps`.
        batch_size: as in `mlps`.
        steps: as in `mlps`.
        split_seed: as in `mlps`.
        seeds: as in `mlps`.
        skip: as in `mlps`.
        jobs: as in `mlps`.
        backend: as in `mlps`.

    Raises:
        RecordError: a setting cannot be used.
    """
    given = dict(locals())
    from weightspace.zoo.populations import data as sources
    from weightspace.zoo.populations.layers import ACTIVATIONS

    examples = sources.load(data)
    expect(len(examples.shape) in (1, 2), "cnns", "the shape of an input", examples.shape, "one dimension or two")
    expect_options(
        "cnns", given, {"widths": 1, "depths": 0, "norms": ("none", "batch"), "residual": (False, True), "activations": ACTIVATIONS}
    )
    architecture = {"width": widths, "depth": depths, "norm": norms, "residual": residual, "activation": activations}
    yield from classifiers.trained(Family.of("cnns", given, examples), examples, given, architecture)


def build(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a convolutional network of this population, for inputs `(batch, inputs)`."""
    from torch import nn

    from weightspace.zoo.populations.layers import ACTIVATIONS, Residual

    known, shape, classes = recipe["hyperparameters"], recipe["data"]["shape"], recipe["data"]["classes"]
    width, kind = known["width"], known["activation"]
    conv: Any = nn.Conv1d if len(shape) == 1 else nn.Conv2d
    norm: Any = nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d
    pool: Any = nn.AdaptiveAvgPool1d if len(shape) == 1 else nn.AdaptiveAvgPool2d

    def convolution(convolved: nn.Module) -> dict[str, nn.Module]:
        return {"conv": convolved, **({"norm": norm(width)} if known["norm"] == "batch" else {}), kind: ACTIVATIONS[kind]()}

    first = conv(1, width, 5, stride=4, padding=2) if min(shape) >= _LARGE else conv(1, width, 3, stride=2, padding=1)
    block = Residual if known["residual"] else nn.Sequential
    layers: dict[str, nn.Module] = {"channel": nn.Unflatten(1, (1, *shape)), "stem": nn.Sequential(OrderedDict(convolution(first)))}
    for at in range(1, known["depth"] + 1):
        layers[f"block{at}"] = block(OrderedDict(convolution(conv(width, width, 3, padding=1))))
    layers |= {"pool": pool(1), "flat": nn.Flatten(), "fc": nn.Linear(width, classes)}
    return nn.Sequential(OrderedDict(layers))


module_builders.add("cnns", build)
task_builders.add("cnns", classifiers.build_task)
