"""The baselines that embarrass a generator: what can be had from a zoo, or from training alone, without any model of weights.

Zeng, Yin, Xu and Liu (arXiv:2506.07998) find that no generator they tested beats noise on a checkpoint, or the mean or a Gaussian of the
zoo, on accuracy against novelty. Their code adds up averages in the first network drawn, so that later ones are drawn from averages;
here nothing that is given is changed.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.analysis.generation.card.judging import judge
from weightspace.analysis.generation.card.novelty import Stacked, length
from weightspace.analysis.generation.drawing import sample
from weightspace.analysis.generation.fitting import fit
from weightspace.analysis.generation.material import Material, stacked
from weightspace.analysis.generation.norms import measured, unmade
from weightspace.analysis.generation.target import Target
from weightspace.analysis.generation.through_tasks import learn_through
from weightspace.errors import GenerationError
from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.layout import Layout, Slot
from weightspace.spec import SymmetrySpec
from weightspace.task import Task

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
"""Of Adam, that a network trained from scratch is tuned over."""


@dataclass(frozen=True)
class Knob:
    """A baseline that can be made more or less novel by one setting.

    Attributes:
        method: the generator that it is.
        setting: of that generator.
        values: that are tried.
        is_continuous: whether what lies between can be had too.
        fixed: further settings.
    """

    method: str
    setting: str
    values: tuple[float, ...]
    is_continuous: bool = True
    fixed: tuple[tuple[str, bool], ...] = ()

    def make(
        self, material: Material, value: float, count: int, *, generator: torch.Generator, norms: str = "generate", task: Task | None = None
    ) -> Stacked:
        """Draw networks at a value, plain, as the zoo has them.

        Args:
            material: the zoo, without conditions.
            value: of the setting.
            count: networks; where chance plays no part, one.
            generator: source of chance.
            norms: what becomes of running statistics, as with the generator that is judged.
            task: on whose data they are measured, where that is what becomes of them.
        """
        settings: dict[str, Any] = {self.setting: value if self.is_continuous else int(value), **dict(self.fixed)}
        if value == 0 and self.method != "noise":  # the mean of the whole zoo, always the same
            count = 1
        return sample(fit(self.method, material, norms=norms, generator=generator, **settings), count, generator=generator, task=task)


KNOBS = (
    Knob("noise", "sigma", (0.05, 0.1, 0.2, 0.4, 0.8), fixed=(("relative", True),)),
    Knob("mean", "of", (2.0, 4.0, 8.0, 16.0, 0.0), is_continuous=False),
    Knob("gaussian", "spread", (0.0, 0.25, 0.5, 1.0)),
)
"""Noise is counted in standard deviations of the tensor that it is added to; a mean of 0 networks is that of all."""


def nearest(conditions: Tensor, wished: Tensor) -> Int[Tensor, " wishes"]:
    """The number of the nearest condition for each that is wished for.

    Distances are those of the conditions' numbers, each divided by its standard deviation.

    Args:
        conditions: (networks, ...).
        wished: (wishes, ...).
    """
    known, asked = (rows.double().reshape(len(rows), -1) for rows in (conditions, wished))
    scale = known.std(0, correction=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.cdist(asked / scale, known / scale, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def retrieved(networks: Stacked, conditions: Tensor, wished: Tensor) -> Stacked:
    """The network of the zoo whose condition is nearest, for each that is wished for (see `nearest`)."""
    at = nearest(conditions, wished)
    return {name: tensor[at] for name, tensor in networks.items()}


def removed(networks: Stacked, names: Sequence[str]) -> Stacked:
    """Networks without some of their tensors: these are zero, so a residual block passes on what it is given."""
    return {name: torch.zeros_like(tensor) if name in names else tensor for name, tensor in networks.items()}


def pruned(networks: WeightBatch, spec: SymmetrySpec) -> Stacked:
    """Every network cut down to another size: of each neuron group the members with the largest weights stay, nothing is tuned after.

    A member's size is the L2 norm of all weights that it touches, running statistics left out; members stay in order.

    Args:
        networks: of the zoo.
        spec: of the smaller size, with the same groups.

    Raises:
        GenerationError: the sizes are of other groups, or larger ones.
    """
    layout, small = networks.layout, Layout.of(spec)
    if [slot.groups for slot in layout.slots] != [slot.groups for slot in small.slots]:
        raise GenerationError("the smaller networks have other neuron groups than the zoo; give the spec of the same architecture")
    grown = next((name for name in layout.groups if small.groups[name].size > layout.groups[name].size), None)
    if grown is not None:
        sizes = f"{small.groups[grown].size} instead of {layout.groups[grown].size}"
        raise GenerationError(f"neuron group '{grown}' is to have {sizes} members; pruning only makes networks smaller")
    slots = dict(networks.slots)
    for name, group in small.groups.items():
        if group.size < layout.groups[name].size:
            norms = _norms(layout, networks.slots, name)
            kept = norms.topk(group.size, dim=1).indices.sort(dim=1).values
            slots = {slot.key: _taken(slots[slot.key], slot, name, kept) for slot in layout.slots}
    return small.fold(slots)


def trained(
    task: Task,
    target: Target,
    validation: Task,
    *,
    count: int,
    steps: int,
    generator: torch.Generator,
    learning_rates: Sequence[float] = LEARNING_RATES,
) -> Stacked:
    """Networks trained from scratch by Adam, for as many steps as are asked for, at the rate that is best on validation.

    Args:
        task: with batches to learn from, of a module of the size wanted.
        target: of that module.
        validation: judges the rates, one network each.
        count: networks, at the best rate.
        steps: of each.
        generator: draws first weights and batches.
        learning_rates: that are tried.

    Raises:
        GenerationError: a loss became infinite at every rate.
    """
    tried = [_measured(stacked([_trained(task, steps, rate, generator)]), target, task) for rate in learning_rates]
    scores = [float(judge(validation, one, target).scores) for one in tried]
    best = max(range(len(tried)), key=lambda k: scores[k])
    more = [_measured(stacked([_trained(task, steps, learning_rates[best], generator)]), target, task) for _ in range(count - 1)]
    return {name: torch.cat([tensor, *(one[name] for one in more)]) for name, tensor in tried[best].items()}


def _measured(made: Stacked, target: Target, task: Task) -> Stacked:
    """Networks with the running statistics that they have on what they learned from."""
    return {**made, **measured(target, made, task)} if unmade(target) else made


def _trained(task: Task, steps: int, learning_rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    module = _fresh(task.module, generator)
    learn_through(
        module.parameters(),
        lambda at: module.state_dict(keep_vars=True),
        [task],
        steps=steps,
        learning_rate=learning_rate,
        generator=generator,
        batch_statistics=True,
    )
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def _fresh(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with first weights as its layers draw them."""
    made = copy.deepcopy(module)
    for parameter in made.parameters():
        parameter.data = parameter.detach().clone()  # those of a resized module have no memory of their own
    with torch.random.fork_rng(devices=[]):  # layers draw from torch's own generator
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for part in made.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    return made


def _norms(layout: Layout, slots: Stacked, group: str) -> Float[Tensor, "networks members"]:
    """Squared L2 norms of all weights that a group's members touch."""
    total = torch.zeros(length(slots), layout.groups[group].size, dtype=torch.float64)
    for slot in layout.slots:
        if slot.tensor in layout.spec.statistics:
            continue
        for at, name in enumerate(slot.groups):
            if name == group:
                total = total + slots[slot.key].double().square().movedim(1 + at, 1).flatten(2).sum(2)
    return total


def _taken(values: Tensor, slot: Slot, group: str, kept: Tensor) -> Tensor:
    """Each network's own members of a group, along all axes that it stands on."""
    for at, name in enumerate(slot.groups):
        if name == group:
            shape = [1] * values.ndim
            shape[0], shape[1 + at] = kept.shape
            values = values.take_along_dim(kept.view(shape), 1 + at)
    return values


__all__ = ["KNOBS", "LEARNING_RATES", "Knob", "nearest", "pruned", "removed", "retrieved", "trained"]
