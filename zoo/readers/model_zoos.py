"""Readers of public model zoos: one file each, found by what lies in a folder, yielding trainings with the networks they left."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.errors import DAMAGE, RecordError, WeightSpaceError, one_line
from weightspace.registry import Registry
from weightspace.zoo.runs.run import Run


@dataclass(frozen=True)
class Network:
    """A checkpoint that a zoo's own files say is of a training.

    Attributes:
        weights: the path of its file; or the network itself, read lazily, where many share a file.
        step: step or epoch within the training.
        name: in the catalog, for one without a file of its own; a file is named after its path.
    """

    weights: Path | Checkpoint
    step: int | None = None
    name: str = ""


@dataclass(frozen=True)
class Training:
    """One training of a zoo.

    Attributes:
        run: what is known of it; its metrics come to its networks by their steps.
        networks: what it left; none where the files that are named are not there.
        labels: labels of its networks, such as the class of the image that they were fitted to.
    """

    run: Run
    networks: tuple[Network, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


Found = Iterator[Training | str]
"""Trainings one by one; text is a line about something that was left out, after which the rest goes on."""


@dataclass(frozen=True)
class ZooReader:
    """How one zoo's format on disk is recognised and read.

    Attributes:
        name: as the user gives it.
        sniff: tells from a folder or file whether this reader fits; never fails.
        read: yields trainings and lines about what was left out.
    """

    name: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path], Found]


zoo_readers: Registry[ZooReader] = Registry("reader of model zoos", package="weightspace.zoo.readers")


def zoo_reader(name: str, *, sniff: Callable[[Path], bool]) -> Callable[[Callable[[Path], Found]], Callable[[Path], Found]]:
    """Register a function that yields the trainings of a zoo."""

    def register(read: Callable[[Path], Found]) -> Callable[[Path], Found]:
        zoo_readers.add(name, ZooReader(name, sniff, read))
        return read

    return register


def zoo_reader_for(source: str, kind: str | None = None) -> ZooReader | None:
    """Find the reader of a model zoo by name, or by what lies there; None where a tracker's reader is meant, or nothing is known."""
    if kind is not None:
        return zoo_readers.get(kind)
    path = Path(source)
    if "://" in source or not path.exists():
        return None
    return next((one for one in zoo_readers.values() if _fits(one, path)), None)


def _fits(reader: ZooReader, path: Path) -> bool:
    try:
        return reader.sniff(path)
    except (WeightSpaceError, *DAMAGE):
        return False


def read_zoo(reader: ZooReader, source: str | Path) -> Found:
    """Yield the trainings of a zoo, read as they are asked for; nothing there is changed or executed.

    Raises:
        RecordError: nothing there, or damaged records; trainings already yielded stay good.
    """
    path = Path(source).absolute()
    if not path.exists():
        raise RecordError(f"{path}: does not exist; name the folder of a model zoo")
    try:
        yield from reader.read(path)
    except DAMAGE as error:
        if isinstance(error, WeightSpaceError):
            raise
        text = one_line(str(error) or type(error).__name__, 200)
        raise RecordError(f"{path}: damaged {reader.name} files ({text}); copy or download them again") from None


def folders_below(root: Path, levels: int) -> Iterator[Path]:
    """The folder and those below it, sorted, to a depth; hidden ones and links are passed over."""
    pending = [(root, levels)]
    while pending:
        folder, left = pending.pop()
        yield folder
        if left:
            inside = sorted((one for one in folder.iterdir() if not one.name.startswith(".")), reverse=True)
            pending += [(one, left - 1) for one in inside if one.is_dir() and not one.is_symlink()]
