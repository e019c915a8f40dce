"""Progress of long work on stderr: nothing for a second, then bar, throughput and time left."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from weightspace.cli import cells

PATIENCE = 1.0  # seconds of work that need no comment


@runtime_checkable
class Done(Protocol):
    """How far the work has come; `weightspace.zoo.Progress` is one."""

    @property
    def done(self) -> int:
        """Items done."""

    @property
    def found(self) -> int:
        """Items known so far."""

    @property
    def bytes_done(self) -> int:
        """Bytes done."""

    @property
    def bytes_found(self) -> int:
        """Bytes known so far."""


class Bar:
    """Shows what `update` is told."""

    def __init__(self, what: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.table import Column

        console = Console(stderr=True)
        self._unit = unit
        narrow = console.width < 80
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16 if narrow else 30),
            TextColumn("{task.fields[said]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            *([] if narrow else [TimeElapsedColumn()]),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(what, total=None, said="")
        self._timer = threading.Timer(PATIENCE, self._progress.start)
        self._timer.daemon = True

    def update(self, done: Done) -> None:
        """Take in how far the work has come."""
        speed: Any = self._progress.tasks[0].speed
        said = f"{done.done:,}/{done.found:,} {self._unit}  {cells.size(done.bytes_done)}/{cells.size(done.bytes_found)}"
        self._progress.update(
            self._task, completed=done.bytes_done, total=done.bytes_found, said=said + (f"  {cells.size(speed)}/s" if speed else "")
        )

    def count(self, done: int, found: int) -> None:
        """Take in how far work has come that is not of bytes."""
        self._progress.update(self._task, completed=done, total=found, said=f"{done:,}/{found:,} {self._unit}")

    def open(self) -> None:
        """Begin to wait."""
        self._timer.start()

    def close(self) -> None:
        """Take the bar away, whether or not it was ever seen."""
        self._timer.cancel()
        self._timer.join()
        self._progress.stop()


@contextlib.contextmanager
def progress(what: str, unit: str = "files") -> Iterator[Bar]:
    """Show a bar while the block works, from the second second on; `unit` is what is counted."""
    bar = Bar(what, unit)
    bar.open()
    try:
        yield bar
    finally:
        bar.close()
