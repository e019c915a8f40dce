"""Readers of experiment trackers: one file each, found by what lies at a path or address, yielding runs one by one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from weightspace.errors import RecordError, one_line
from weightspace.registry import Registry
from weightspace.zoo.runs.run import Run


@dataclass(frozen=True)
class TrackerReader:
    """How the records of one tracker are recognised and read.

    Attributes:
        name: as the user gives it.
        sniff: tells from a path or address whether this reader fits; never fails.
        read: yields runs, each complete.
    """

    name: str
    sniff: Callable[[str], bool]
    read: Callable[[str], Iterator[Run]]


tracker_readers: Registry[TrackerReader] = Registry("tracker reader", package="weightspace.zoo.readers")


def tracker_reader(
    name: str, *, sniff: Callable[[str], bool]
) -> Callable[[Callable[[str], Iterator[Run]]], Callable[[str], Iterator[Run]]]:
    """Register a function that yields the runs found at a path or address."""

    def register(read: Callable[[str], Iterator[Run]]) -> Callable[[str], Iterator[Run]]:
        tracker_readers.add(name, TrackerReader(name, sniff, read))
        return read

    return register


def read_runs(source: str | Path, kind: str | None = None) -> Iterator[Run]:
    """Yield the runs of a tracker's folder, file or server, read as they are asked for; nothing there is changed or executed.

    Args:
        source: a path, or the address of a server.
        kind: name of a reader, when the source cannot be told by its content.

    Raises:
        RecordError: nothing there, no reader fits, or the records are damaged; runs already yielded stay good.
        UnknownNameError: no reader of this kind.
    """
    text = str(source)
    if kind is None and "://" not in text and not Path(text).exists():
        raise RecordError(f"{text}: does not exist; name a tracker's folder, file or server")
    reader = tracker_readers[kind] if kind else next((one for one in tracker_readers.values() if one.sniff(text)), None)
    if reader is None:
        from weightspace.zoo.readers.model_zoos import zoo_readers  # which needs this package

        known = ", ".join([*tracker_readers, *zoo_readers])
        raise RecordError(f"{text}: no tracker's records and no model zoo are recognised there; readers: {known}, or name the kind")
    return _guarded(reader, text)


def _guarded(reader: TrackerReader, source: str) -> Iterator[Run]:
    """Turn whatever damaged records make a reader raise into one clear error."""
    try:
        yield from reader.read(source)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        OSError,
        RecursionError,
        TypeError,
        UnicodeError,
        ValueError,
    ) as error:
        if isinstance(error, RecordError):
            raise
        text = one_line(str(error) or type(error).__name__, 200)
        raise RecordError(f"{source}: damaged {reader.name} records ({text}); export them again") from None
