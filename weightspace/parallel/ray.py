"""A Ray cluster: the one of RAY_ADDRESS, the one that this process is connected to, or one of this machine for as long as it is needed."""

import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cache, partial
from typing import Any

from weightspace.errors import ClusterError, MissingDependencyError, one_line
from weightspace.parallel.cores import available_cores
from weightspace.parallel.interrupt import deaf_children
from weightspace.parallel.pool import Pool, backend, settle

_STORE = 256 << 20  # bytes of shared memory that a cluster of this machine keeps items and results in
_KNOCK = 5.0  # seconds in which an address has to answer
_RETRIES = 1  # of the cluster, when a worker dies


@backend("ray")
@contextlib.contextmanager
def ray(function: Callable[[Any], Any], jobs: int | None) -> Iterator[Pool]:
    """Open tasks of a Ray cluster, of one core each."""
    with _connected(jobs) as module:
        errors = module.exceptions
        size = jobs or int(module.cluster_resources().get("CPU", 0))
        if not size:
            raise ClusterError("the Ray cluster has no cores to work with; start a node with: ray start --address=ADDRESS")
        remote = module.remote(num_cpus=1, max_retries=_RETRIES)(_work)
        shared = module.put(function)  # crosses once, and not with every item
        handed: dict[Future[Any], Any] = {}

        def submit(item: Any) -> "Future[Any]":
            future: Future[Any] = Future()
            reference = handed[future] = remote.remote(shared, item)
            reference.future().add_done_callback(partial(take, future))
            return future

        def take(future: "Future[Any]", found: "Future[Any]") -> None:
            handed.pop(future, None)
            settle(future, partial(_result, found, errors.RayTaskError), (errors.TaskCancelledError,))

        def withdraw() -> None:
            for reference in list(handed.values()):
                module.cancel(reference)

        died = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError)
        yield Pool(size, submit, withdraw, died)


def _work(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def _result(found: "Future[Any]", of_task: type[BaseException]) -> Any:
    """What the function gave, or the error that it raised itself."""
    try:
        return found.result()
    except of_task as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, BaseException) else error) from None


@contextlib.contextmanager
def _connected(jobs: int | None) -> Iterator[Any]:
    """Ray's module, connected to a cluster; a connection that was made here is closed again."""
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        with _settings(is_own=not address), deaf_children():
            module = _imported()
            if not module.is_initialized():
                stack.callback(_restored(signal.SIGTERM))
                own: dict[str, Any] = {}
                if not address:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
                    own = {
                        "num_cpus": jobs or available_cores(),
                        "object_store_memory": _STORE,
                        "_temp_dir": folder,
                        "include_dashboard": False,
                    }
                _start(module, address or "local", **own)
                stack.callback(module.shutdown)
        yield module


@contextlib.contextmanager
def _settings(is_own: bool) -> Iterator[None]:
    """The environment that Ray is imported and started in, where some of its settings are read at no other time."""
    # What happens to its processes, it would print among the data of a command.
    settings = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_USAGE_STATS_ENABLED": "0"}
    if is_own and ("ray" not in sys.modules or _token.cache_info().currsize):
        # Whoever reaches a cluster can run code on it: it is to be this machine alone, and this user, who has a token for it. Where
        # somebody imported Ray before, it is as that import found it; where it was imported here, every cluster after asks for the token.
        settings |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    before = dict(os.environ)
    os.environ.update(settings | before)
    try:
        yield
    finally:
        for name in settings.keys() - before.keys():
            os.environ.pop(name, None)


@cache
def _token() -> str:
    return secrets.token_hex(32)


def _imported() -> Any:
    try:
        import ray as module
    except ImportError:
        raise MissingDependencyError.of("ray", "the backend 'ray'", "ray") from None
    return module


def _start(module: Any, address: str, **settings: Any) -> None:
    try:
        _knock(address)
        module.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False, **settings)
    except Exception as error:  # Ray raises it bare where starting takes too long
        module.shutdown()
        said = one_line(str(error), 200)
        if address == "local":
            raise ClusterError(f"a Ray cluster could not be started here ({said}); try again when the machine is less busy") from None
        raise ClusterError(
            f"no Ray cluster can be reached at {one_line(address, 100)} ({said}); see that it runs, or unset RAY_ADDRESS"
        ) from None


def _knock(address: str) -> None:
    """See that somebody listens at an address, where it is one: Ray itself goes on asking for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


def _restored(number: signal.Signals) -> Callable[[], None]:
    """What gives a signal its handler back, which Ray changes and leaves."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = signal.getsignal(number)
    return partial(_set, number, before)


def _set(number: signal.Signals, handler: Any) -> None:
    signal.signal(number, handler)
