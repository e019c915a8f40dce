"""Threads of this process, for work that lets go of the interpreter, as torch does while it computes."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

from weightspace.parallel.cores import available_cores
from weightspace.parallel.pool import Pool, backend

_worker = threading.local()


def is_wanted() -> bool:
    """Whether anybody still waits for the work that this thread does: long work asks now and then, and raises CancelledError where not."""
    stop: threading.Event | None = getattr(_worker, "stop", None)
    return stop is None or not stop.is_set()


@backend("threads")
@contextlib.contextmanager
def threads(function: Callable[[Any], Any], jobs: int | None) -> Iterator[Pool]:
    """Open threads of this process; what has begun when they are closed ends where it asks `is_wanted`."""
    size, stop = jobs or available_cores(), threading.Event()

    def work(item: Any) -> Any:
        if not is_wanted():
            raise CancelledError
        return function(item)

    def begin() -> None:
        _worker.stop = stop

    with ThreadPoolExecutor(size, initializer=begin) as executor:

        def submit(item: Any) -> "Future[Any]":
            return executor.submit(work, item)

        try:
            yield Pool(size, submit, stop.set)
        finally:
            stop.set()
