"""Asking the system to fetch what will soon be read, on one thread, so that the disk works while the processor does."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from weightspace.storage import FileSpan

AHEAD = 1 << 28  # bytes that are fetched before they are needed: they lie in the system's cache, not in this process


class ReadAhead:
    """Fetches spans of files in their order, up to `AHEAD` bytes before the place that the work has come to."""

    def __init__(self, spans: Sequence[FileSpan]) -> None:
        self._spans = spans
        self._here = 0
        self._moved = threading.Condition()
        self._ended = False

    def reached(self, num_bytes: int) -> None:
        """Take in that so many bytes more were read."""
        with self._moved:
            self._here += num_bytes
            self._moved.notify()

    def end(self) -> None:
        """Stop."""
        with self._moved:
            self._ended = True
            self._moved.notify()

    def run(self) -> None:
        """Fetch until all is fetched, or until the end."""
        fetched = 0
        for span in self._spans:
            with self._moved:
                self._moved.wait_for(lambda: self._ended or fetched <= self._here + AHEAD)  # noqa: B023 - called before the next span
                if self._ended:
                    return
            with suppress(OSError):  # who reads it says what is wrong
                descriptor = os.open(span.file.path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, span.offset, span.nbytes, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)
            fetched += span.nbytes


@contextmanager
def reading_ahead(spans: Sequence[FileSpan]) -> Iterator[ReadAhead]:
    """Fetch spans while the block works; where the system cannot be asked, nothing happens."""
    ahead = ReadAhead(spans)
    thread = threading.Thread(target=ahead.run, daemon=True) if hasattr(os, "posix_fadvise") else None
    if thread is not None:
        thread.start()
    try:
        yield ahead
    finally:
        ahead.end()
        if thread is not None:
            thread.join()
