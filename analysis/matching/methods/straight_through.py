"""Method `straight_through`: weight matching to a copy of a that gradients push to where the midpoint has a low loss."""

import torch
from torch import Tensor

from weightspace.analysis.connectivity.paths import blend
from weightspace.analysis.matching.best import Actions, Best
from weightspace.analysis.matching.family import Rules
from weightspace.analysis.matching.match import Match, matching_method, result
from weightspace.analysis.matching.midpoint import cycled, on_device, path_loss
from weightspace.analysis.matching.pair import Pair
from weightspace.analysis.matching.search import descend, usual_shakes
from weightspace.checkpoint import Checkpoint
from weightspace.dtypes import widened
from weightspace.errors import TaskError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry, act
from weightspace.task import Task

FEW_SWEEPS = 10  # of weight matching in one step, from where the last one ended


@matching_method("straight_through")
def match_straight_through(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    generator: torch.Generator,
    task: Task | None = None,
    steps: int = 100,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    check_every: int = 10,
    batch_statistics: bool = False,
    solver: str | None = None,
) -> Match:
    """Lower the loss half-way between a and the moved b, by a gradient that passes straight through the matching.

    Ainsworth et al., Git Re-Basin (arXiv:2209.04836), section 3.3. A copy begins at a; in every step b is matched to the copy by
    weights, from where it was, the midpoint of a and the moved b gives a loss on one batch, and the copy takes the gradient that
    the moved b has. Two departures: the element kept is the best that was seen, by the loss over all batches, where the paper takes
    the last; and the first step is a whole anchored weight matching, so that this and the identity are the least one gets.

    Args:
        a: what is aligned to.
        b: what is moved.
        spec: the symmetry of both.
        generator: of the order of visits.
        task: the loss; its batches are taken in turn. The objective is the loss of the midpoint, its sign turned.
        steps: of the gradient.
        learning_rate: of the copy.
        momentum: of the copy.
        check_every: steps between evaluations over all batches.
        batch_statistics: whether batch norms use the statistics of each batch, as running ones do not fit between networks.
        solver: of linear assignments.

    Raises:
        TaskError: there is no task, it has no batches, or the networks do not fit its module.
    """
    if task is None:
        raise TaskError("method 'straight_through' follows a loss, and there is no task; give one, or use method 'weight'")
    left, right = on_device(a, task), on_device(b, task)
    # The pair's blocks are views of the copy, so they follow it.
    copy = _copy(left, spec)
    pair = Pair.of({**left, **copy}, right, spec, device=task.device)
    rules = Rules.of(spec, matrices=False, solver=solver)
    still = {name: spec.identity().action(name) for family in pair.families for name in family.members}

    def moved(actions: Actions) -> StateDict:
        return act(Symmetry(spec, actions), right)

    best = Best(lambda actions: -path_loss(left, moved(actions), task, batch_statistics=batch_statistics), still)
    run = descend(pair, rules, still, anchored=True, max_sweeps=100, generator=generator, shakes=usual_shakes(pair))
    optimizer = torch.optim.SGD(copy.values(), lr=learning_rate, momentum=momentum)
    batches, assignments = cycled(task), run.assignments
    for step in range(steps + 1):
        if step % check_every == 0 or step == steps:
            best.look(run.actions)
        if step == steps:
            break
        optimizer.zero_grad()
        middle = blend((0.5, 0.5), (left, _through(moved(run.actions), copy, spec)))
        torch.autograd.backward(task.loss_of(middle, next(batches), batch_statistics=batch_statistics))
        optimizer.step()
        run = descend(pair, rules, run.actions, anchored=False, max_sweeps=FEW_SWEEPS, generator=generator)
        assignments += run.assignments
    element = Symmetry(spec, best.actions)
    return result(a, b, element, method="straight_through", ties={}, runs=[best.run(f"stopped after {steps} steps", assignments)])


def _copy(state_dict: StateDict, spec: SymmetrySpec) -> dict[str, Tensor]:
    """Copies of the tensors that take part in matching, in float32 or wider, that take gradients."""
    made: dict[str, Tensor] = {}
    for name in spec.tensors:
        tensor = state_dict[name]
        if name not in spec.statistics and tensor.is_floating_point():
            made[name] = widened(tensor).clone().requires_grad_()
    return made


def _through(moved: StateDict, copy: StateDict, spec: SymmetrySpec) -> dict[str, Tensor]:
    """The values of the moved b, with gradients that go to the copy."""
    made = {name: widened(moved[name]) + (tensor - tensor.detach()) for name, tensor in copy.items()}
    tied = {name: made[owner] for name, owner in spec.aliases.items() if name in moved and owner in made}
    return {**moved, **made, **tied}
