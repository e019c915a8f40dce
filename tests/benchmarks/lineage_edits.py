"""Edits that make one model from another without training: pruning, rounding, moving along a symmetry, merging."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.lineage_networks import StateDict
from weightspace.analysis.matching import match
from weightspace.analysis.merging import merge
from weightspace.checkpoint import Checkpoint
from weightspace.inference import infer_spec
from weightspace.symmetry import act

Edit = Callable[[StateDict, torch.Generator], StateDict]


def pick(options: Sequence[float], generator: torch.Generator) -> float:
    """One of several, evenly."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def _over_weights(state: StateDict, change: Callable[[Tensor], Tensor]) -> StateDict:
    return {name: change(tensor) if tensor.ndim > 1 else tensor.clone() for name, tensor in state.items()}


def prune_smallest(state: StateDict, generator: torch.Generator) -> StateDict:
    """Set the smallest entries of each matrix to zero, 20 to 90 % of them."""
    share = pick((0.2, 0.35, 0.5, 0.65, 0.8, 0.9), generator)
    return _over_weights(state, lambda tensor: tensor * (tensor.abs() > tensor.abs().flatten().quantile(share)))


def prune_any(state: StateDict, generator: torch.Generator) -> StateDict:
    """Set entries of each matrix to zero by lot, 20 to 90 % of them."""
    share = pick((0.2, 0.35, 0.5, 0.65, 0.8, 0.9), generator)
    return _over_weights(state, lambda tensor: tensor * (torch.rand(tensor.shape, generator=generator) >= share))


def _rounded(bits: int, by_row: bool) -> Callable[[Tensor], Tensor]:
    top = 2 ** (bits - 1) - 1

    def change(tensor: Tensor) -> Tensor:
        rows = tensor.flatten(1) if by_row else tensor.flatten()[None]
        scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
        levels = (rows / scale).round()
        made: Tensor = (levels * scale).reshape(tensor.shape)
        return made

    return change


def round_to_8_bits(state: StateDict, generator: torch.Generator) -> StateDict:
    """Round matrices to 255 levels, by row or as a whole, and write them out as floats."""
    return _over_weights(state, _rounded(8, pick((0, 1), generator) == 1))


def round_to_4_bits(state: StateDict, generator: torch.Generator) -> StateDict:
    """Round matrices to 15 levels by row, and write them out as floats."""
    return _over_weights(state, _rounded(4, by_row=True))


def cast_to_half(state: StateDict, generator: torch.Generator) -> StateDict:
    """Store all tensors as float16."""
    return {name: tensor.to(torch.float16) for name, tensor in state.items()}


def cast_to_brain(state: StateDict, generator: torch.Generator) -> StateDict:
    """Store all tensors as bfloat16."""
    return {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}


def permute(state: StateDict, generator: torch.Generator) -> StateDict:
    """Give hidden units another order."""
    spec = infer_spec(state, "gelu")  # whose units have no scale
    return act(spec.random(generator), state)


def permute_and_rescale(state: StateDict, generator: torch.Generator) -> StateDict:
    """Give hidden units another order and another scale."""
    return act(infer_spec(state, "relu").random(generator), state)


def keep(state: StateDict, generator: torch.Generator) -> StateDict:
    """Change no value: the copy is written under other names, or in another container."""
    return dict(state)


EDITS: dict[str, Edit] = {
    "pruned, smallest": prune_smallest,
    "pruned, by lot": prune_any,
    "8 bits": round_to_8_bits,
    "4 bits": round_to_4_bits,
    "float16": cast_to_half,
    "bfloat16": cast_to_brain,
    "permuted": permute,
    "permuted and rescaled": permute_and_rescale,
    "renamed": keep,
    "other container": keep,
}
COPIES = frozenset({"permuted", "permuted and rescaled", "renamed", "other container"})
"""Edits that leave no trace of which model was first."""
CASTS = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True)
class Merging:
    """A merge: its method and weight of each parent; those of task arithmetic and ties are added to a base."""

    method: str
    weights: tuple[float, ...]


def merged(merging: Merging, parents: Sequence[StateDict], base: StateDict | None) -> StateDict:
    """Carry out a merge; an aligned one moves every parent onto the first before it averages."""
    if merging.method == "aligned":
        first, *others = parents
        spec = infer_spec(first, "gelu")
        moved = [act(match(first, other, spec).element, other) for other in others]
        return _combined([first, *moved], merging.weights)
    if merging.method == "linear":
        return _combined(parents, merging.weights)
    models = {f"p{at}": Checkpoint.of(parent) for at, parent in enumerate(parents)}
    names = list(models)
    if merging.method == "slerp":
        recipe: dict[str, Any] = {
            "merge_method": "slerp",
            "base_model": names[0],
            "models": names[1:],
            "parameters": {"t": merging.weights[1]},
        }
    else:
        models["base"] = Checkpoint.of(base or {})
        entries = [{"model": name, "parameters": {"weight": weight}} for name, weight in zip(names, merging.weights, strict=True)]
        density = 0.5 if merging.method == "ties" else 1.0
        recipe = {"merge_method": merging.method, "base_model": "base", "models": entries, "parameters": {"density": density}}
    return merge(recipe, opener=models.__getitem__).state_dict()


def _combined(parents: Sequence[StateDict], weights: Sequence[float]) -> StateDict:
    return {name: sum(weight * parent[name] for weight, parent in zip(weights, parents, strict=True)) for name in parents[0]}  # type: ignore[misc]
