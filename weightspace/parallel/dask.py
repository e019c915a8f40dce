"""A Dask cluster: the one of DASK_SCHEDULER_ADDRESS, the one that this process is connected to, or one of this machine for as long as it is needed."""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from weightspace.errors import ClusterError, MissingDependencyError, one_line
from weightspace.parallel.cores import available_cores
from weightspace.parallel.interrupt import deaf_children
from weightspace.parallel.pool import Pool, backend, settle

_FAILURES = 1  # of workers that had a task at theirs, before a scheduler of ours gives it up
_PATIENCE = 10  # seconds that a scheduler has to answer


@backend("dask")
@contextlib.contextmanager
def dask(function: Callable[[Any], Any], jobs: int | None) -> Iterator[Pool]:
    """Open tasks of a Dask cluster."""
    try:
        import distributed
    except ImportError:
        raise MissingDependencyError.of("distributed", "the backend 'dask'", "dask") from None
    with _client(distributed, jobs) as client:
        size = jobs or sum(client.nthreads().values())
        if not size:
            raise ClusterError("the Dask cluster has no workers; start one with: dask worker ADDRESS")
        handed: dict[Future[Any], Any] = {}

        def submit(item: Any) -> "Future[Any]":
            future: Future[Any] = Future()
            with warnings.catch_warnings():
                # Items are sent with their work, not scattered before it: what a dead worker held would be lost.
                warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
                task = handed[future] = client.submit(function, item, pure=False)
            task.add_done_callback(partial(take, future))
            return future

        def take(future: "Future[Any]", task: Any) -> None:
            handed.pop(future, None)
            settle(future, task.result, (distributed.client.FutureCancelledError,))

        def withdraw() -> None:
            client.cancel(list(handed.values()))

        yield Pool(size, submit, withdraw, (distributed.KilledWorker,))


@contextlib.contextmanager
def _client(distributed: Any, jobs: int | None) -> Iterator[Any]:
    """A client of a cluster; what was started here ends with it."""
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    own = None if address else _own_client(distributed)
    if own is not None:
        yield own
        return
    with contextlib.ExitStack() as stack:
        with deaf_children():
            where = address or stack.enter_context(_started(distributed, jobs or available_cores()))
            try:
                client = distributed.Client(where, timeout=_PATIENCE, set_as_default=False)
            except (OSError, ValueError) as error:
                raise ClusterError(
                    f"no Dask scheduler can be reached at {one_line(str(where), 100)} ({one_line(str(error), 200)}); "
                    "see that it runs, or unset DASK_SCHEDULER_ADDRESS"
                ) from None
        yield stack.enter_context(client)


def _own_client(distributed: Any) -> Any:
    """The client that this process has already, if it has one."""
    try:
        return distributed.default_client()
    except ValueError:
        return None


@contextlib.contextmanager
def _started(distributed: Any, size: int) -> Iterator[Any]:
    """A cluster of this machine, which nobody else can reach."""
    import dask as settings

    with (
        settings.config.set({"distributed.scheduler.allowed-failures": _FAILURES}),
        tempfile.TemporaryDirectory(prefix="dask-", ignore_cleanup_errors=True) as folder,
        distributed.LocalCluster(
            n_workers=size,
            threads_per_worker=1,
            memory_limit=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        # A worker that dies while it starts is given up by the one who watches it; here another is started.
        cluster.adapt(minimum=size, maximum=size)
        yield cluster
