"""Fan-out: one function over many items on several processes, results in order, through joblib."""

import contextlib
import os
import secrets
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(function: Callable[[Item], Result], items: Iterable[Item], *, jobs: int) -> Generator[Result, None, None]:
    """Apply a function to every item and yield the results in the order of the items.

    With several jobs, Ctrl-C is raised here and nowhere else: when the work that has begun is done, and at once when it
    is pressed again. A caller that stops early waits for what has begun, and closes the generator. Workers of a process
    that was killed end by themselves.

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

    # Said when idle workers end just as new work comes, which is no fault: they are started again. Where warnings are errors
    # it would be raised in the thread that starts them, and this one would wait for ever.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given", category=UserWarning)
    options = {"inner_max_num_threads": 1, "idle_worker_timeout": 10, "initializer": _begin, "initargs": (os.getpid(),)}
    with _Stop(Path(tempfile.gettempdir()) / f"weightspace-{os.getpid()}-{secrets.token_hex(8)}.stop") as stop:
        with joblib.parallel_config("loky", n_jobs=jobs, **options), _deaf_children():
            results: Any = joblib.Parallel(return_as="generator", pre_dispatch="3*n_jobs", batch_size=1)(
                joblib.delayed(_work)(function, stop.path, item) for item in stop.until(items)
            )
        try:
            for done in results:
                if done is None:
                    break
                yield done[0]
        except TerminatedWorkerError as error:
            if stop.is_interrupted:
                raise KeyboardInterrupt from None
            raise WorkerDiedError(str(error).splitlines()[0]) from None
        finally:
            # Run to its end, not closed: joblib and loky are noisy about work that is taken from them.
            stop.ask()
            for _ in results:
                pass
        if stop.is_interrupted:
            raise KeyboardInterrupt


class _Stop:
    """Tells workers to begin nothing more, by making a file; Ctrl-C asks for it instead of being raised anywhere in joblib's own code."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_asked, self.is_interrupted = path, False, False
        self._before: Any = None

    def __enter__(self) -> "_Stop":
        # Only where Ctrl-C would be raised in this thread, and not if somebody handles it in another way.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.is_interrupted:
            raise KeyboardInterrupt
        self.is_interrupted = True
        self.ask()

    def ask(self) -> None:
        self.is_asked = True
        with contextlib.suppress(OSError):  # on a full disk they go on to the end of what was handed out
            self.path.touch()

    def until(self, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if self.is_asked:
                return
            yield item


def _work(function: Callable[[Item], Result], stop: Path, item: Item) -> tuple[Result] | None:
    """Do one item in a worker; None when there is no point any more."""
    return None if stop.exists() else (function(item),)


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that are started in the block never hear of Ctrl-C, which a terminal sends to all: it is for this one to end them."""
    resource_tracker.ensure_running()  # which would unblock it again
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
