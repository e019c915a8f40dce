"""What a command judges weights by: `--eval module:function`, or the task that a population's recipe names."""

import inspect
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weightspace.errors import TaskError, WeightSpaceError

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


def judge_option(what: str) -> Any:
    """The option `--eval` where nothing is judged by default: `what` is judged by it."""
    return typer.Option(
        "--eval",
        metavar="MODULE:FUNCTION",
        show_default=False,
        help=f"Judge {what}: a function of a state dict that returns numbers, or one without arguments that returns a Task.",
    )


def evaluation_of(reference: str | None, checkpoint: "Checkpoint") -> "Task | Callable[..., Any]":
    """Find what to judge by.

    Raises:
        TaskError: nothing was named, and the checkpoint comes from no population with a task.
    """
    from weightspace.task import task_for

    return task_for(checkpoint) if reference is None else judge_at(reference)


def judge_at(reference: str) -> "Task | Callable[..., Any]":
    """What a user named to judge by.

    Raises:
        TaskError: it is neither a function of one state dict nor one that returns a Task.
    """
    from weightspace.modules import load_function
    from weightspace.task import Task

    function = load_function(reference)
    needed = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if len(needed) == 1:
        return lambda state_dict: _called(reference, function, state_dict)
    made = _called(reference, function) if not needed else None
    if not isinstance(made, Task):
        found = f"takes {len(needed)} arguments" if needed else f"returned something of type {type(made).__name__}"
        raise TaskError(f"'{reference}' {found}; name a function of one state dict, or one without arguments that returns a Task")
    return made


def _called(reference: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what a user wrote; what goes wrong there is said in one line, with the place."""
    try:
        return function(*arguments)
    except WeightSpaceError:
        raise
    except (Exception, SystemExit) as error:  # a script's own exit is no end of ours
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise TaskError(f"'{reference}' raised {what} ({place.filename}:{place.lineno}); mend it") from error


def task_of(reference: str | None, checkpoint: "Checkpoint") -> "Task":
    """Find a task: what looks into the module needs more than a function of a state dict.

    Raises:
        TaskError: what was named gives no task.
    """
    from weightspace.task import Task

    found = evaluation_of(reference, checkpoint)
    if not isinstance(found, Task):
        raise TaskError(
            f"'{reference}' is a function of a state dict, but this looks into the module; name a function without arguments that returns a Task"
        )
    return found


def values_of(judge: "Task | Callable[..., Any]", checkpoint: "Checkpoint") -> dict[str, float]:
    """What a judge says of a model: numbers by name.

    Raises:
        TaskError: it says something else.
    """
    from weightspace.task import Task, numbers_of

    return numbers_of(judge.evaluate(checkpoint) if isinstance(judge, Task) else judge(checkpoint.state_dict()))


def needs_task(method: str) -> bool:
    """Whether a matching method looks into the module, and not at weights alone."""
    from weightspace.analysis.matching.match import methods

    return "task" in inspect.signature(methods[method]).parameters
