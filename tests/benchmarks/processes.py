"""Running a command and measuring it: wall time, and the memory of it and all its children together."""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Taken:
    """What a command took: seconds of wall time, and the largest sum of resident memory of its whole process tree, in bytes."""

    seconds: float
    peak_memory: int


def run(command: Sequence[str | Path], *, folder: Path | None = None) -> Taken:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the end of what it printed is in the message.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        started = time.perf_counter()
        process = psutil.Popen([str(part) for part in command], cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{command[0]} failed: {output.read()[-2000:]}")
    return Taken(seconds, peak)


def _memory(process: psutil.Popen) -> int:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total
