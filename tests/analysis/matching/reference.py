"""The published coordinate descent, written out slowly on our specs: what weight matching is to be at least as good as."""

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightspace.spec import NeuronGroup, SymmetrySpec, place
from weightspace.symmetry import Symmetry, act


def objective(a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: SymmetrySpec) -> float:
    """The inner product of two sets of weights in float64, running statistics and integers left out, tied tensors once."""
    return sum(float((a[name].double() * b[name].double()).sum()) for name in counted(a, spec))


def counted(a: Mapping[str, Tensor], spec: SymmetrySpec) -> list[str]:
    """The tensors that make the objective."""
    return [name for name in spec.tensors if name not in spec.statistics and a[name].is_floating_point()]


def published_coordinate_descent(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: SymmetrySpec, generator: torch.Generator, max_iter: int = 100
) -> tuple[Symmetry, float]:
    """Align b to a by Algorithm 1 of Ainsworth, Hayase & Srinivasa, Git Re-Basin (arXiv:2209.04836).

    Until a sweep makes no progress: for every group in random order, the assignment that is best while all others are held. As in
    the authors' code the start is the identity, and a group on both axes of a tensor is assigned as if the other axis were another
    group's. What the paper has no word for is done in the plainest way: members of a `per` group are assigned for each of their
    parents' members, and travel with these. Permutations alone: signs, scales and matrices stay as they are.

    Returns:
        The element, and the objective after it.
    """
    groups = [group for group in spec.movable if group.kind == "permutable" and group.size > 1]
    element, moved = spec.identity(), dict(b)
    for _ in range(max_iter):
        has_gained = False
        for at in torch.randperm(len(groups), generator=generator).tolist():
            gains = inner_products(a, moved, spec, groups[at])
            index = best_assignment(gains)
            before = gains.diagonal(dim1=-2, dim2=-1).sum()
            after = gains.gather(-1, index[..., None]).sum()
            if after > before + 1e-12 * before.abs():
                has_gained = True
                element = spec.element({groups[at].name: index}) @ element
                moved = dict(act(element, b))
        if not has_gained:
            break
    return element, objective(a, moved, spec)


def inner_products(a: Mapping[str, Tensor], b: Mapping[str, Tensor], spec: SymmetrySpec, group: NeuronGroup) -> Tensor:
    """Of each member of a group in a with each in b, over every axis where it stands: shape (*parents, size, size)."""
    total = torch.zeros(*(parent.size for parent in spec.parents(group.name)), group.size, group.size, dtype=torch.float64)
    for name in counted(a, spec):
        for left, right in zip(spec.blocks(name, a[name]), spec.blocks(name, b[name]), strict=True):
            for j in left.where(group.name):
                total += table(left.view, (*place(spec, name, left, j), j)) @ table(right.view, (*place(spec, name, right, j), j)).mT
    return total


def table(values: Tensor, front: tuple[int, ...]) -> Tensor:
    """The values in float64 with some dimensions in front and all others flattened behind."""
    moved = values.double().movedim(front, tuple(range(len(front))))
    return moved.reshape(*moved.shape[: len(front)], -1)


def best_assignment(gains: Tensor) -> Tensor:
    """The best index for each of the leading dimensions."""
    flat = gains.reshape(-1, *gains.shape[-2:])
    found = [torch.from_numpy(linear_sum_assignment(one.numpy(), maximize=True)[1]) for one in flat]
    return torch.stack(found).reshape(gains.shape[:-1])
