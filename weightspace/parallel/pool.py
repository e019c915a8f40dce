"""Pool: workers that take one item at a time, wherever they are; a backend opens one."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from weightspace.registry import Registry

Opener = TypeVar("Opener", bound="Backend")


@dataclass(frozen=True)
class Pool:
    """Workers that were opened for one function.

    Attributes:
        size: how many items are worked on at once.
        submit: hands out an item. The future has what the function gave or raised; an error of `died` where the worker died and its work was
            not done elsewhere; and CancelledError where it was taken back.
        withdraw: takes back what was handed out and has not begun.
        died: errors by which the death of a worker is known.
    """

    size: int
    submit: Callable[[Any], "Future[Any]"]
    withdraw: Callable[[], None]
    died: tuple[type[BaseException], ...] = ()


@runtime_checkable
class Backend(Protocol):
    """Opens a pool; what it started for it ends with the block."""

    def __call__(self, function: Callable[[Any], Any], jobs: int | None) -> AbstractContextManager[Pool]:
        """Open a pool for a function, of as many workers as there are where `jobs` is None."""


backends: Registry[Backend] = Registry("backend", "weightspace.parallel")


def backend(name: str) -> Callable[[Opener], Opener]:
    """Register what opens the pools of a backend."""

    def register(opener: Opener) -> Opener:
        backends.add(name, opener)
        return opener

    return register


def settle(future: "Future[Any]", result: Callable[[], Any], taken_back: tuple[type[BaseException], ...]) -> None:
    """Give a future what another kind of future has.

    Args:
        future: is waited for here.
        result: gives or raises what it is to have.
        taken_back: errors that say that the work was taken back.
    """
    try:
        future.set_result(result())
    except taken_back:
        future.set_exception(CancelledError())
    except BaseException as error:
        future.set_exception(error)
