"""Ctrl-C while others work: it is noted, to be raised where it does no harm, and workers never hear of it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any


class Interrupt:
    """Notes Ctrl-C in place of raising it in the block; a second one is raised at once."""

    def __init__(self) -> None:
        self.is_pressed = False
        self._before: Any = None

    def __enter__(self) -> "Interrupt":
        # Only where Ctrl-C would be raised in this thread, and not if somebody handles it in another way.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.is_pressed:
            raise KeyboardInterrupt
        self.is_pressed = True


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Let processes that are started in the block never hear of Ctrl-C, which a terminal sends to all: it is for this one to end them."""
    resource_tracker.ensure_running()  # which would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
