"""Classifiers of one data set, their architectures and hyperparameters spread wide: what `mlps`, `cnns` and `transformers` share."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from weightspace.modules import module_builders
from weightspace.zoo.populations.family import Family, Network, choose, expect, expect_bounds, generator_of, how, log_uniform
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch

    from weightspace.modules import Part
    from weightspace.task import Task
    from weightspace.zoo.populations.data import Examples

LEARNING_RATES = (10**-3.5, 10**-1.0)
WEIGHT_DECAYS = (1e-5, 1e-1)
INIT_SCALES = (0.5, 2.0)
DATA_FRACTIONS = (0.1, 0.25, 0.5, 1.0)
BATCH = 64


def trained(family: Family, examples: "Examples", given: Mapping[str, Any], architecture: Mapping[str, Sequence[Any]]) -> Iterator[Added]:
    """Train the classifiers of a population.

    Args:
        family: of the population.
        examples: what they learn.
        given: the population's arguments; of these are used learning_rates, weight_decays, init_scales, data_fractions, optimizer, batch_size, steps
            and those that say which networks are wanted.
        architecture: what is chosen from for each hyperparameter that the module depends on.

    Raises:
        RecordError: an argument cannot be used.
    """
    from weightspace.zoo.populations.training import OPTIMIZERS, side_by_side, stacks

    expect_bounds(family.name, given, ["learning_rates", "weight_decays", "init_scales"])
    fractions, steps, size = given["data_fractions"], given["steps"], given["batch_size"]
    expect(
        bool(fractions) and all(0 < one <= 1 for one in fractions), family.name, "data_fractions", fractions, "shares above 0, 1 at most"
    )
    expect_steps(family.name, steps)
    expect(size >= 1, family.name, "batch_size", size, "a whole number from 1 on")
    expect(given["optimizer"] in OPTIMIZERS, family.name, "optimizer", given["optimizer"], f"one of {', '.join(OPTIMIZERS)}")
    networks = (_drawn(seed, given, architecture) for seed in family.seeds(given))
    alike = stacks(networks, lambda one: one.architecture(list(architecture)))
    work = ((built(family.recipe(stack[0])), stack) for stack in alike)
    for made in side_by_side(partial(_stack, family, examples, how(given)), work, given["jobs"], given["backend"]):
        yield from made


def built(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the module of a recipe; building draws weights of its own, which is no matter of the caller's randomness."""
    import torch

    with torch.random.fork_rng(devices=[]):
        return module_builders[recipe["name"]](recipe)


def expect_steps(name: str, steps: Sequence[Any]) -> None:
    """See that steps are some.

    Raises:
        RecordError: they are not.
    """
    expect(
        bool(steps) and all(isinstance(one, int) and one >= 0 for one in steps), name, "steps", steps, "a list of whole numbers from 0 on"
    )


def _drawn(seed: int, given: Mapping[str, Any], architecture: Mapping[str, Sequence[Any]]) -> Network:
    """Draw what one network is; every draw of a hyperparameter is made whatever the options are, so that fixing one changes no other.

    Weights and batches are then drawn from the seed and the architecture: networks of equal seed and shapes but another activation or number
    of heads would else begin with equal weights, which are one model to the catalog.
    """
    generator = generator_of(seed)
    chosen = {key: choose(generator, options) for key, options in architecture.items()}
    drawn = {
        "learning_rate": log_uniform(generator, given["learning_rates"]),
        "weight_decay": log_uniform(generator, given["weight_decays"]),
        "init_scale": log_uniform(generator, given["init_scales"]),
        "data_fraction": choose(generator, given["data_fractions"]),
    }
    fixed = {"optimizer": given["optimizer"], "batch_size": given["batch_size"], "steps": max(given["steps"])}
    generator.manual_seed(int.from_bytes(blake3(json.dumps([seed, chosen]).encode()).digest(7), "big"))
    return Network(seed, generator, {**chosen, **drawn, **fixed})


def _stack(
    family: Family, examples: "Examples", given: Mapping[str, Any], work: "tuple[torch.nn.Module, Sequence[Network]]"
) -> list[Added]:
    """Train networks of one architecture."""
    import torch

    from weightspace.zoo.populations.training import OPTIMIZERS, Trainee, cross_entropy, drawn, judged, train

    module, networks = work
    trainees = []
    for one in networks:
        known: Any = one.hyperparameters
        initialise(module, one.generator, known["init_scale"])
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        count = max(1, round(known["data_fraction"] * len(examples.train)))
        seen = torch.randperm(len(examples.train), generator=one.generator)[:count] if count < len(examples.train) else None
        trainees.append(Trainee(state, one.generator, known["learning_rate"], known["weight_decay"], seen))
    batches = drawn(examples.train, examples.train_classes, trainees, given["batch_size"])
    taken = []
    for step, weights in train(module, trainees, batches, cross_entropy, OPTIMIZERS[given["optimizer"]](), given["steps"]):
        test = judged(module, weights, examples.test, examples.test_classes)
        train_ = judged(module, weights, examples.train, examples.train_classes, [one.examples for one in trainees])
        taken.append((step, weights, test, train_))
    return [
        family.added(one, step, {name: stacked[at].clone() for name, stacked in weights.items()}, {"test": test[at], "train": seen_[at]})
        for at, one in enumerate(networks)
        for step, weights, test, seen_ in taken
    ]


def initialise(module: "torch.nn.Module", generator: "torch.Generator", scale: float) -> None:
    """Draw weights as He et al. (arXiv:1502.01852) do, times a scale; biases are zero, and norms begin as the identity."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                continue
            # Tables of vectors, for tokens and positions, have no inputs to sum over.
            of_table = name in ("embedding.weight", "positions.weight")
            spread = 1 / math.sqrt(parameter.shape[1]) if of_table else math.sqrt(2 / parameter[0].numel())
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (spread * scale))


def build_task(module: "torch.nn.Module", recipe: Mapping[str, Any], part: "Part" = "test") -> "Task":
    """Judge a classifier by the test examples of the data that it was trained on, or by the training examples.

    Raises:
        RecordError: the data is not there any more.
    """
    from weightspace.task import Task
    from weightspace.zoo.populations.data import load_described

    examples = load_described(recipe["data"])
    if part == "train":
        return Task.classification(module, examples.train, examples.train_classes, batch_size=BATCH)
    return Task.classification(module, examples.test, examples.test_classes)
