"""Fan-out: one function over many items on several processes, results in order, through joblib."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[[Item], Result], items: Iterable[Item], *, jobs: int) -> Generator[Result, None, None]:
    """Apply a function to every item and yield the results in the order of the items.

    Ctrl-C reaches this process alone, which ends its workers; workers of a process that was killed end by themselves.

    Args:
        function: importable by name, since it crosses a process border.
        items: drawn as they are needed, a few ahead.
        jobs: processes; 1 means this one, without any start-up.

    Raises:
        WorkerDiedError: a worker process ended from outside; results already yielded stay good.
    """
    if jobs <= 1:
        yield from map(function, items)
        return
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    options = {"inner_max_num_threads": 1, "idle_worker_timeout": 10, "initializer": _begin, "initargs": (os.getpid(),)}
    with joblib.parallel_config("loky", n_jobs=jobs, **options), _without_interrupts():
        results: Any = joblib.Parallel(return_as="generator", pre_dispatch="3*n_jobs", batch_size=1)(
            joblib.delayed(function)(item) for item in items
        )
    try:
        yield from results
    except TerminatedWorkerError as error:
        raise WorkerDiedError(str(error).splitlines()[0]) from None
    finally:
        results.close()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back until the block is over; processes started in it never get any, so none of them dies complaining."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the tracker of Python's own multiprocessing lets SIGINT through again (in Python 3.11), so it is started before.
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int) -> None:
    """Begin a worker's life: it is to end when its parent is gone, even in the middle of work."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class WorkerDiedError(RuntimeError):
    """A worker process was ended from outside (out of memory, a crash in a C library, a signal)."""
