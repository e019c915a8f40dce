"""Bounds that reading any file keeps to: CPU time, memory, and errors of one clear line."""

import contextlib
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import weightspace as ws
from weightspace.errors import FormatError, one_line

SECONDS = 5  # of CPU time that one file may take in this process
MEMORY = 256 << 20  # bytes by which this process may grow while it reads one file


class Hung(BaseException):
    """A file took more than `SECONDS`."""


@contextlib.contextmanager
def bounded(what: str) -> Iterator[None]:
    """Bound CPU time and address space while a file is read; pytest's own timeout watches the clock."""

    def ring(signum: int, frame: object) -> None:
        raise Hung(what)

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def check(error: FormatError, where: Path) -> None:
    """One line that names the file, with a known reason and some advice."""
    text = str(error)
    assert text.isprintable() and text
    assert one_line(str(where)) in text, text
    assert error.reason in FormatError.REASONS and error.advice, text
    # What ran out of memory or stack was not checked before it was believed.
    assert not re.search(r"MemoryError|cannot allocate|Unable to allocate|reader failed", text), text


def refused(path: Path, reason: str, says: str = "", megabytes: int = 64) -> str:
    """Open and read a file that must be refused for this reason, with little memory and at once."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # lets the high-water mark begin anew
    with pytest.raises(FormatError) as caught, bounded(str(path)):
        checkpoint = ws.open(path)
        for name in checkpoint.info:
            checkpoint.raw(name)
    grown = memory("VmHWM") - before
    check(caught.value, path)
    assert caught.value.reason == reason and says in str(caught.value), str(caught.value)
    assert grown < megabytes << 20, grown
    return str(caught.value)


def memory(kind: str) -> int:
    """Bytes of this process: resident now, or at most since the mark was reset."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{kind}:\s+(\d+) kB", status)[0]) << 10
