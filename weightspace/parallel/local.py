"""Processes of this machine, through joblib's loky: started when they are needed, idle for a while after, and never longer here than this one."""

import contextlib
import os
import secrets
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

from weightspace.parallel.cores import available_cores
from weightspace.parallel.interrupt import deaf_children
from weightspace.parallel.pool import Pool, backend

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
_IDLE = 10  # seconds after which a worker ends that has nothing to do


@backend("local")
@contextlib.contextmanager
def local(function: Callable[[Any], Any], jobs: int | None) -> Iterator[Pool]:
    """Open processes of this machine."""
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # Said when idle workers end just as new work comes, which is no fault: they are started again. Where warnings are errors
    # it would be raised in the thread that starts them, and this one would wait for ever.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given", category=UserWarning)
    size = jobs or available_cores()
    stop = Path(tempfile.gettempdir()) / f"weightspace-{os.getpid()}-{secrets.token_hex(8)}.stop"
    work = partial(_work, function, stop)
    executor: Any = None

    def submit(item: Any) -> Any:
        nonlocal executor
        with deaf_children():
            # The one that there is already, but where a worker of it died.
            executor = get_reusable_executor(size, timeout=_IDLE, initializer=_begin, initargs=(os.getpid(),), env=_ONE_THREAD)
            return executor.submit(work, item)

    def withdraw() -> None:
        with contextlib.suppress(OSError):  # on a full disk they go on to the end of what was handed out
            stop.touch()

    try:
        yield Pool(size, submit, withdraw, (BrokenProcessPool,))
    except KeyboardInterrupt:  # nobody waits for what has begun
        if executor is not None:
            executor.shutdown(kill_workers=True)
        raise
    finally:
        with contextlib.suppress(OSError):
            stop.unlink()


def _work(function: Callable[[Any], Any], stop: Path, item: Any) -> Any:
    """Do one item in a worker, unless there is no point any more."""
    if stop.exists():
        raise CancelledError
    return function(item)


def _begin(parent: int) -> None:
    """Begin a worker's life: it is to end when its parent is gone, even in the middle of work."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
