"""Fan-out: one function over many items on several processes, results in order, through joblib."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[[Item], Result], items: Iterable[Item], *, jobs: int) -> Iterator[Result]:
    """Apply a function to every item and yield the results in the order of the items.

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

    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1, idle_worker_timeout=10):
        # Workers start with SIGINT blocked: Ctrl-C reaches them too, but it is this process that ends them, without a traceback of theirs.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            results: Any = joblib.Parallel(return_as="generator", pre_dispatch="3*n_jobs", batch_size=1)(
                joblib.delayed(function)(item) for item in items
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield from results
        except TerminatedWorkerError as error:
            raise WorkerDiedError(str(error).splitlines()[0]) from None
        finally:
            results.close()


class WorkerDiedError(RuntimeError):
    """A worker process was ended from outside (out of memory, a crash in a C library, a signal)."""
