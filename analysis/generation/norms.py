"""Running statistics of norms under one explicit policy: generated as logarithms, fused into gains and shifts, or measured anew."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from weightspace.analysis.connectivity.repair import repair_many
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError, UnknownNameError
from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.layout import Layout
from weightspace.task import Task

NORMS = ("generate", "fuse", "re-estimate")
MEAN, VARIANCE = ".running_mean", ".running_var"
EPSILON = 1e-5
"""What torch's norms add to variances unless told otherwise."""
_LEAST = EPSILON  # a variance of 0, of a channel that never fires, has no logarithm, and none below this shows


def settled(material: Material, norms: str, *, logarithms: bool) -> Material:
    """Networks with their running statistics as the policy wants them learned.

    Args:
        material: what a generator is to learn from; without running statistics it comes back as it is.
        norms: `generate` makes statistics like weights, variances by their logarithms. `fuse` moves them into gains and shifts:
            `g (x - m) / sqrt(v + e) + b` is the same function with `g / sqrt(v + e)`, `b - m g / sqrt(v + e)`, mean 0 and variance `1 - e`,
            which are then constant. `re-estimate` leaves them out, to be measured on data in what is drawn; until then they are the
            zoo's means.
        logarithms: whether variances are made as such; not for generators that run what they make.

    Raises:
        UnknownNameError: no such policy.
        GenerationError: a norm without gains and shifts cannot be fused.
    """
    if norms not in NORMS:
        raise UnknownNameError.of("policy for norms", norms, NORMS)
    means, variances = _statistics(material.target)
    if material.networks is None and norms == "fuse":
        raise GenerationError("norms='fuse' is for generators that learn from networks; choose norms='re-estimate'")
    if material.networks is None or not (means or variances):
        return material
    tensors = dict(material.networks.tensors)
    if norms == "generate":
        if not logarithms:
            return material
        target = replace(material.target, logarithms=frozenset(variances))
        return replace(material.of(tensors | {name: tensors[name].clamp_min(_LEAST).log() for name in variances}), target=target)
    if norms == "fuse":
        modules = _modules(material)
        constants: dict[str, Tensor] = {}
        for norm in dict.fromkeys(name.rpartition(".")[0] for name in (*means, *variances)):
            epsilon = _added(modules, tensors, norm)
            tensors.update(_fused(tensors, norm, epsilon))
            shape = material.target.shapes[f"{norm}{MEAN}"]
            constants |= {f"{norm}{MEAN}": torch.zeros(shape), f"{norm}{VARIANCE}": torch.full(shape, 1 - epsilon)}
    else:
        constants = {name: tensors[name].mean(0) for name in (*means, *variances)}
    return _without(material, tensors, constants)


def measured(target: Target, made: Mapping[str, Tensor], task: Task) -> dict[str, Tensor]:
    """The running statistics of drawn networks, measured on the batches of a task: stacked, for each that the target has as a constant.

    Raises:
        TaskError: the networks do not fit the task.
    """
    count = len(next(iter(made.values())))
    found = []
    for at in range(count):
        state = target.whole({name: tensor[at] for name, tensor in made.items()})
        found.append(repair_many(task, state, [state], mode="reset").state_dict)
    return {name: torch.stack([one[name] for one in found]) for name in unmade(target)}


def unmade(target: Target) -> list[str]:
    """The running statistics that a target has as constants; by their names alone, where its symmetry is not known."""
    named = target.constants if target.spec is None else target.spec.statistics
    return sorted(name for name in named if name in target.constants and name.endswith((MEAN, VARIANCE)))


def expect_positive(made: Mapping[str, Tensor]) -> None:
    """See that no variance is negative.

    Raises:
        GenerationError: one is.
    """
    for name, tensor in made.items():
        if name.endswith(VARIANCE) and bool((tensor < 0).any()):
            raise GenerationError(f"tensor '{name}' came out with negative variances; fit the generator with norms='fuse'")


def _statistics(target: Target) -> tuple[list[str], list[str]]:
    """Running means and running variances that a target makes."""
    return [name for name in target.shapes if name.endswith(MEAN)], [name for name in target.shapes if name.endswith(VARIANCE)]


def _modules(material: Material) -> Mapping[str, torch.nn.Module]:
    """The norms of the architecture, to ask what they add to variances, where its module is known."""
    networks = material.networks
    module = None if networks is None else networks.module
    if module is None and material.tasks:
        module = material.tasks[0].module
    return {} if module is None else dict(module.named_modules())


def _added(modules: Mapping[str, torch.nn.Module], tensors: Mapping[str, Tensor], norm: str) -> float:
    """What a norm adds to variances."""
    missing = next((part for part in ("weight", "bias", MEAN[1:], VARIANCE[1:]) if f"{norm}.{part}" not in tensors), None)
    if missing is not None:
        raise GenerationError(f"norm '{norm}' has no '{missing}', so it cannot be fused; choose norms='generate' or 're-estimate'")
    epsilon = getattr(modules.get(norm), "eps", None)
    if epsilon is None:
        raise GenerationError(
            f"what norm '{norm}' adds to variances is not known, so it cannot be fused; give the networks' module or their task"
        )
    return float(epsilon)


def _fused(tensors: Mapping[str, Tensor], norm: str, epsilon: float) -> dict[str, Tensor]:
    """The gains and shifts of a norm's networks with its statistics in them."""
    gain, shift, mean, variance = (tensors[f"{norm}.{part}"].double() for part in ("weight", "bias", MEAN[1:], VARIANCE[1:]))
    gain = gain / (variance + epsilon).sqrt()
    like = tensors[f"{norm}.weight"]
    return {f"{norm}.weight": gain.to(like), f"{norm}.bias": (shift - mean * gain).to(like)}


def _without(material: Material, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> Material:
    """The material with statistics that are constant, no longer among what is made."""
    assert material.networks is not None
    old = material.target
    shapes = {name: shape for name, shape in old.shapes.items() if name not in constants}
    like = next(iter(tensors.values()))
    target = replace(
        old, shapes=shapes, constants={**old.constants, **old.cast({name: tensor.to(like) for name, tensor in constants.items()})}
    )
    layout = material.networks.layout
    layout = Layout(layout.spec, tuple(slot for slot in layout.slots if slot.tensor not in constants))
    kept = {name: tensor for name, tensor in tensors.items() if name not in constants}
    return replace(material, target=target, networks=WeightBatch(layout, kept, material.networks.module))


__all__ = ["EPSILON", "NORMS", "expect_positive", "measured", "settled", "unmade"]
