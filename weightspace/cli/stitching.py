"""Networks to be stitched: opened, built and cut, with the task that they have in common."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weightspace.cli import cells
from weightspace.cli.evaluation import judge_at
from weightspace.cli.left_out import LeftOut
from weightspace.cli.networks import rows_of
from weightspace.cli.progress import progress
from weightspace.errors import AnalysisError, TaskError, WeightSpaceError, one_line

if TYPE_CHECKING:
    from weightspace.analysis.stitching import Chain
    from weightspace.analysis.stitching.plan import Planned
    from weightspace.analysis.stitching.saving import Member
    from weightspace.checkpoint import Checkpoint
    from weightspace.task import Task
    from weightspace.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Network:
    """A network that can be stitched.

    Attributes:
        name: as it was named.
        checkpoint: its weights.
        build: the function that builds its module, where it does not say so itself.
        member: how it is built again.
        chain: in parts.
    """

    name: str
    checkpoint: "Checkpoint"
    build: str | None
    member: "Member"
    chain: "Chain"


@dataclass(frozen=True, eq=False)
class Material:
    """Networks and what they are stitched and judged on.

    Attributes:
        networks: in order.
        fitting: the data that stitches are found on, and that training sees.
        test: the data that is judged by.
    """

    networks: list[Network]
    fitting: "Task"
    test: "Task"

    @property
    def chains(self) -> "list[Chain]":
        """The networks in parts."""
        return [one.chain for one in self.networks]


def named_by(zoo: "Zoo", models: Sequence[str], where: str | None) -> list[str]:
    """The models that a user names, or that a query finds.

    Raises:
        AnalysisError: none, or both ways at once.
    """
    if bool(models) == (where is not None):
        raise AnalysisError("name two models or more, or find them with --where; see what there is with: weightspace ls")
    if where is None:
        return list(models)
    stitched = set(zoo.sql("select name from models join tags using (model_id) where key = 'stitched'").column(0).to_pylist())
    found = [row["name"] for row in rows_of(zoo, where) if row["name"] not in stitched]
    if not found:
        raise AnalysisError("the query finds no networks; widen --where, or look at what there is with: weightspace ls")
    return found


def material_of(
    zoo: "Zoo", models: "Sequence[Planned]", modules: Sequence[str], evaluation: str | None, left_out: LeftOut | None = None
) -> Material:
    """Open networks, build and cut them, and find the task that they have in common.

    Args:
        zoo: that they are in, if they are.
        models: as they are named.
        modules: functions that build those that do not say how themselves: one for all of these, or one for each in order.
        evaluation: what gives the task; by default that of the last network that comes from a population with one.
        left_out: is told of networks that cannot be stitched; without it they are errors.

    Raises:
        AnalysisError: a network is not what it was, does not run on the task's data, or is nowhere to be cut.
        TaskError: one cannot be built, or there is no task.
    """
    from weightspace.analysis.stitching.origin import Origin

    checkpoints = [_opened(zoo, one) for one in models]
    builders = _builders(models, checkpoints, modules)
    fitting, test = _tasks(checkpoints, evaluation)
    found: list[Network] = []
    with progress("cutting networks", "networks") as bar:
        for at, (one, checkpoint, build) in enumerate(zip(models, checkpoints, builders, strict=True)):
            bar.count(at, len(models))
            try:
                origin = Origin.of(checkpoint, build)
                found.append(_network(one.model, checkpoint, build, origin, fitting))
            except WeightSpaceError as error:
                if left_out is None:
                    raise
                left_out(one.model, error)
    if left_out is not None:
        left_out.report("cuts", is_all=not found)
    return Material(found, fitting, test)


def _opened(zoo: "Zoo", one: "Planned") -> "Checkpoint":
    checkpoint = zoo.checkpoint(one.model)
    if one.id and not checkpoint.id.startswith(one.id):
        raise AnalysisError(
            f"model '{one.model}' is another than when the plan was made ({checkpoint.id[:12]}, was {one.id[:12]}); plan again, or take its id out of the plan"
        )
    return checkpoint


def _builders(models: "Sequence[Planned]", checkpoints: "Sequence[Checkpoint]", modules: Sequence[str]) -> list[str | None]:
    """For each network the function that builds it, where it does not say how itself.

    Raises:
        TaskError: there are not as many functions as networks that need one.
    """
    from weightspace.analysis.stitching.origin import Origin

    known = [one.module for one in models]
    needing = []
    for at, (one, checkpoint) in enumerate(zip(models, checkpoints, strict=True)):
        if one.module is None:
            try:
                Origin.of(checkpoint)
            except TaskError as error:
                if not modules:
                    raise TaskError(f"model '{one.model}': {_first(error)}; name it with --module MODULE:FUNCTION") from None
                needing.append(at)
    if modules and len(modules) not in (1, len(needing)):
        raise TaskError(
            f"{len(modules)} functions are given with --module, and {cells.counted(len(needing), 'network')} does not say how it is built; "
            "give one for each, in order, or one for all"
        )
    for place, at in enumerate(needing):
        known[at] = modules[min(place, len(modules) - 1)]
    return known


def _first(error: Exception) -> str:
    """What is wrong, without what to do about it."""
    return str(error).partition(";")[0]


def _tasks(checkpoints: "Sequence[Checkpoint]", evaluation: str | None) -> "tuple[Task, Task]":
    """The data to find stitches on, and the data to judge by: what training saw and did not see, or two halves of a user's task."""
    from weightspace.modules import population_recipe, task_builders
    from weightspace.task import Task, halves, task_for, task_like

    if evaluation is not None:
        found = judge_at(evaluation)
        if not isinstance(found, Task):
            raise TaskError(
                f"'{evaluation}' is a function of a state dict, but stitching looks into modules; name a function without arguments that returns a Task"
            )
        if next(iter(found.batches), None) is None:
            raise AnalysisError(f"the task of '{evaluation}' has no batches, so there is nothing to stitch on; give it data")
        return halves(found)
    recipes = [population_recipe(one) for one in reversed(checkpoints)]
    known = next(
        (one for one in recipes if isinstance(one.get("name"), str) and one["name"] in task_builders and one["name"] != "stitched"), None
    )
    if known is None:
        with contextlib.suppress(AnalysisError):
            return task_for(checkpoints[-1], "train"), task_for(checkpoints[-1])
    return task_like(known or {}, "train"), task_like(known or {})


def _network(name: str, checkpoint: "Checkpoint", build: str | None, origin: Any, task: "Task") -> Network:
    import torch

    from weightspace.analysis.stitching import Chain
    from weightspace.analysis.stitching.saving import Member
    from weightspace.modules import module_for
    from weightspace.task import batch_inputs

    module = module_for(checkpoint, build)
    args, kwargs = batch_inputs(next(iter(task.batches)))
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception as error:
        said = one_line(str(error).strip().partition("\n")[0], 160)
        raise AnalysisError(
            f"model '{name}' does not run on the task's batches ({type(error).__name__}: {said}); take networks of one task, or name it with --eval MODULE:FUNCTION"
        ) from error
    try:
        chain = Chain.of(module, *args, **kwargs)
    except WeightSpaceError as error:
        raise AnalysisError(f"model '{name}' cannot be stitched: {error}") from error
    return Network(name, checkpoint, build, Member(origin, module, name, checkpoint.id), chain)


def cut_pair(text: str, front: Network, end: Network) -> tuple[int, int]:
    """Read `CUT:CUT`: a cut of the first network, or input, and one of the second, by name or number; names may have colons themselves.

    Raises:
        AnalysisError: it is not of that form, or leads into an input.
        UnknownNameError: there is no such cut.
    """
    from weightspace.errors import UnknownNameError

    ways = [(text[:at], text[at + 1 :]) for at, letter in enumerate(text) if letter == ":"]
    ways = [(left, right) for left, right in ways if left and right]
    if not ways:
        raise AnalysisError(
            f"expected --at CUT:CUT, a cut of '{front.name}' and one of '{end.name}', found '{one_line(text, 80)}'; name both"
        )
    known = [(_place(left, front), _place(right, end)) for left, right in ways]
    found = next(((a, b) for a, b in known if a is not None and b is not None), None)
    if found is None:
        left, right = next((way for way, (a, _) in zip(ways, known, strict=True) if a is not None), ways[0])
        one, name = (front, left) if _place(left, front) is None else (end, right)
        inputs = ["input"] if one is front else []
        raise UnknownNameError.of(f"cut of '{one.name}'", name, [*inputs, *(cut.name for cut in one.chain.cuts)])
    if found[1] == -1:
        raise AnalysisError(
            f"nothing is stitched onto the input of '{end.name}'; name one of its cuts: {', '.join(cut.name for cut in end.chain.cuts)}"
        )
    return found


def _place(text: str, network: Network) -> int | None:
    try:
        return network.chain.index(int(text) if text.lstrip("-").isdigit() else text)
    except WeightSpaceError:
        return None


__all__ = ["Material", "Network", "cut_pair", "material_of", "named_by"]
