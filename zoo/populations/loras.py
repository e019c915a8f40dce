"""Low-rank adapters of one small base network, each for a known change of its task."""

import json
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from weightspace.checkpoint import Checkpoint, checkpoint_of
from weightspace.errors import TaskError
from weightspace.modules import module_builders, task_builders
from weightspace.zoo.populations import classifiers, population, populations
from weightspace.zoo.populations.family import (
    Family,
    Network,
    choose,
    expect,
    expect_bounds,
    expect_options,
    generator_of,
    how,
    log_uniform,
)
from weightspace.zoo.zoo import Added

if TYPE_CHECKING:
    import torch

    from weightspace.modules import Part
    from weightspace.task import Task
    from weightspace.zoo.populations.data import Examples
    from weightspace.zoo.populations.training import Change

TASKS = ("labels", "classes", "shift")
"""Labels exchanged, some of the classes alone, or inputs rolled along; `values` of the recipe's task say which."""


@population("loras")
def loras(
    *,
    seed: int = 0,
    count: int = 300,
    data: str = "mnist1d",
    tasks: Sequence[str] = TASKS,
    ranks: Sequence[int] = (1, 2, 4, 8),
    alpha: float = 8.0,
    learning_rates: Sequence[float] = (1e-3, 3e-2),
    batch_size: int = classifiers.BATCH,
    steps: Sequence[int] = (200,),
    base_width: int = 64,
    base_depth: int = 2,
    base_steps: int = 1500,
    base_seed: int = 0,
    split_seed: int = 0,
    seeds: Sequence[int] | None = None,
    skip: Container[str] = (),
    jobs: int | None = None,
    backend: str = "local",
) -> Iterator[Added]:
    """Low-rank adapters of one perceptron, for exchanged labels, some of the classes, or shifted inputs, of varied rank and learning rate.

    The base, a network of the population `mlps`, comes first and is the parent of every adapter. Keys are those of PEFT.

    Args:
        seed: as in `mlps`, like all that is not named here.
        count: adapters.
        data: as in `mlps`.
        tasks: labels, classes, shift, chosen from.
        ranks: chosen from.
        alpha: the product of the factors is multiplied by `alpha / rank`.
        learning_rates: as in `mlps`.
        batch_size: as in `mlps`.
        steps: as in `mlps`.
        base_width: hidden units of each hidden layer of the base.
        base_depth: hidden layers of the base.
        base_steps: of the base's training.
        base_seed: of the base.
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
    from weightspace.zoo.populations.training import side_by_side, stacks

    examples = sources.load(data)
    expect_options("loras", given, {"tasks": TASKS, "ranks": 1})
    expect_bounds("loras", given, ["learning_rates"])
    classifiers.expect_steps("loras", steps)
    expect(alpha > 0 and batch_size >= 1, "loras", "alpha and batch_size", (alpha, batch_size), "positive numbers")
    settings = {
        "data": examples.name, "widths": [base_width], "depths": [base_depth], "activations": ["relu"], "learning_rates": [3e-3, 3e-3],
        "weight_decays": [1e-2, 1e-2], "init_scales": [1.0, 1.0], "data_fractions": [1.0], "steps": [base_steps], "seeds": [base_seed],
    }  # fmt: skip
    base = _base(json.dumps(settings))
    known = {"settings": settings, "name": base.name, "id": checkpoint_of(base.tensors).id}
    family = Family.of("loras", given, examples, kind="adapter", more={"base": known})
    networks = [_network(one, given, examples) for one in family.seeds(given)]
    if base.run is not None and base.run.key not in skip and networks:
        yield base
    work = ((classifiers.built(family.recipe(stack[0])), stack) for stack in stacks(networks, lambda one: one.hyperparameters["rank"]))
    for made in side_by_side(partial(_stack, family, examples, how(given), base.name), work, jobs, backend):
        yield from made


@lru_cache(maxsize=4)
def _base(settings: str) -> Added:
    """Train the network that is adapted; the same settings give the same one."""
    [*_, made] = populations["mlps"](**json.loads(settings), jobs=1)
    return made


def _network(seed: int, given: Mapping[str, Any], examples: "Examples") -> Network:
    """Draw the task of one adapter, and how it is trained."""
    import torch

    generator = generator_of(seed)
    task, rank = choose(generator, given["tasks"]), choose(generator, given["ranks"])
    rate = log_uniform(generator, given["learning_rates"])
    order = torch.randperm(examples.classes, generator=generator).tolist()
    if task == "classes":
        values = sorted(order[: choose(generator, range(2, max(3, examples.classes // 2 + 1)))])
    else:
        values = order if task == "labels" else [choose(generator, range(1, examples.train.shape[1]))]
    fixed = {"alpha": given["alpha"], "batch_size": given["batch_size"], "steps": max(given["steps"]), "optimizer": "adam"}
    shown = " ".join(map(str, values))
    return Network(seed, generator, {"task": task, "values": shown, "rank": rank, "learning_rate": rate, **fixed})


def _stack(
    family: Family, examples: "Examples", given: Mapping[str, Any], parent: str, work: "tuple[torch.nn.Module, Sequence[Network]]"
) -> list[Added]:
    """Train adapters of one rank."""
    from weightspace.zoo.populations.training import Adam, Trainee, cross_entropy, drawn, judged, train

    module, networks = work
    trainees = []
    for one in networks:
        _initialise(module, one.generator)
        known: Any = one.hyperparameters
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        trainees.append(Trainee(state, one.generator, known["learning_rate"], examples=_seen(known, examples.train_classes)))
    change = _change([one.hyperparameters for one in networks], examples)
    batches = drawn(examples.train, examples.train_classes, trainees, given["batch_size"], change)
    judging = [_seen(one.hyperparameters, examples.test_classes) for one in networks]
    made = []
    for step, weights in train(module, trainees, batches, cross_entropy, Adam(), given["steps"]):
        test = judged(module, weights, examples.test, examples.test_classes, judging, change)
        made.append((step, weights, test))
    return [
        family.added(one, step, _adapter(weights, at), {"test": test[at]}, parents=[parent])
        for at, one in enumerate(networks)
        for step, weights, test in made
    ]


def _adapter(weights: "Mapping[str, torch.Tensor]", at: int) -> Checkpoint:
    return Checkpoint.of({name: stacked[at].clone() for name, stacked in weights.items()}, kind="adapter")


def _values(known: Mapping[str, Any]) -> list[int]:
    return [int(one) for one in str(known["values"]).split()]


def _seen(known: Mapping[str, Any], classes: "torch.Tensor") -> "torch.Tensor | None":
    """Numbers of the examples that a task has; None is all."""
    import torch

    return torch.isin(classes, torch.tensor(_values(known))).nonzero()[:, 0] if known["task"] == "classes" else None


def _change(networks: Sequence[Mapping[str, Any]], examples: "Examples") -> "Change":
    """What the tasks make of inputs `(models, batch, inputs)` and classes `(models, batch)`."""
    import torch

    places, labels = torch.arange(examples.train.shape[1]), torch.arange(examples.classes)
    order = torch.stack([places.roll(_values(one)[0]) if one["task"] == "shift" else places for one in networks])
    given = torch.stack([torch.tensor(_values(one)) if one["task"] == "labels" else labels for one in networks])

    def change(inputs: "torch.Tensor", classes: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        return inputs.gather(2, order[:, None].expand_as(inputs)), given.gather(1, classes)

    return change


def _initialise(module: "torch.nn.Module", generator: "torch.Generator") -> None:
    """Draw the first factor uniformly, the second is zero: an adapter begins as its base."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = (2 * torch.rand(parameter.shape, generator=generator) - 1) / parameter.shape[1] ** 0.5
            parameter.copy_(torch.zeros_like(parameter) if "lora_B" in name else drawn)


def build(recipe: Mapping[str, Any]) -> "torch.nn.Module":
    """Build the base with an adapter in it, under the names that PEFT gives; the base is trained again for it.

    Raises:
        TaskError: the base comes out otherwise than it was, as it may on another machine or with another torch.
    """
    from torch import nn

    from weightspace.zoo.populations.layers import Adapted

    base = _base(json.dumps(recipe["base"]["settings"]))
    if checkpoint_of(base.tensors).id != recipe["base"]["id"]:
        raise TaskError(
            f"the base of this adapter, {recipe['base']['name']}, comes out otherwise when it is trained here; "
            "take the base from the zoo that the adapter is in, and apply the adapter to it"
        )
    known, weights = recipe["hyperparameters"], checkpoint_of(base.tensors).state_dict()
    layers: dict[str, nn.Module] = {}
    for name, layer in module_builders["mlps"](base.recipe or {}).named_children():
        if isinstance(layer, nn.Linear):
            own = (weights[f"{name}.weight"], weights[f"{name}.bias"])
            layers[name] = Adapted(*own, known["rank"], known["alpha"] / known["rank"])
        else:
            layers[name] = layer
    return nn.Sequential(OrderedDict(base_model=nn.Sequential(OrderedDict(model=nn.Sequential(OrderedDict(layers))))))


def build_task(module: "torch.nn.Module", recipe: Mapping[str, Any], part: "Part" = "test") -> "Task":
    """Judge an adapted network by the test examples of its own task, or by the training examples.

    Raises:
        RecordError: the data is not there any more.
    """
    from weightspace.task import Task
    from weightspace.zoo.populations.data import load_described

    examples, known = load_described(recipe["data"]), recipe["hyperparameters"]
    given, of = (examples.train, examples.train_classes) if part == "train" else (examples.test, examples.test_classes)
    seen = _seen(known, of)
    chosen = slice(None) if seen is None else seen
    inputs, classes = _change([known], examples)(given[chosen][None], of[chosen][None])
    return Task.classification(module, inputs[0], classes[0], **({"batch_size": classifiers.BATCH} if part == "train" else {}))


module_builders.add("loras", build)
task_builders.add("loras", build_task)
