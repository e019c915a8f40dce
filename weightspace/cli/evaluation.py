"""What a command judges weights by: `--eval module:function`, or the task that a population's recipe names."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from weightspace.checkpoint import Checkpoint
    from weightspace.task import Task

Evaluation = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="MODULE:FUNCTION",
        show_default=False,
        help="A function of a state dict that returns its loss (or loss and metrics by name), or one without arguments that returns a weightspace Task; by default the task of the population that the model comes from.",
    ),
]


def evaluation_of(reference: str | None, checkpoint: "Checkpoint") -> "Task | Callable[..., Any]":
    """Find what to judge by.

    Raises:
        TaskError: nothing was named, and the checkpoint comes from no population with a task.
    """
    from weightspace.modules import load_function
    from weightspace.task import task_for

    if reference is None:
        return task_for(checkpoint)
    function = load_function(reference)
    needed = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    return function if needed else function()


def task_of(reference: str | None, checkpoint: "Checkpoint") -> "Task":
    """Find a task: what looks into the module needs more than a function of a state dict.

    Raises:
        TaskError: what was named gives no task.
    """
    from weightspace.errors import TaskError
    from weightspace.task import Task

    found = evaluation_of(reference, checkpoint)
    if not isinstance(found, Task):
        raise TaskError(
            f"'{reference}' is a function of a state dict, but this looks into the module; name a function without arguments that returns a Task"
        )
    return found


def needs_task(method: str) -> bool:
    """Whether a matching method looks into the module, and not at weights alone."""
    from weightspace.analysis.matching.match import methods

    return "task" in inspect.signature(methods[method]).parameters
