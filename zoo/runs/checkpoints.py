"""The checkpoints of one run in order: of a catalogued run, of a folder, or as somebody lists them."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from weightspace.checkpoint import Checkpoint
from weightspace.errors import CatalogError, FormatError, RecordError, UnknownNameError, one_line
from weightspace.formats import open_checkpoint
from weightspace.zoo.discover import discover
from weightspace.zoo.runs.places import Places, place_in_run

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo


def checkpoints_of(zoo: "Zoo", named: Sequence[str]) -> Iterator[tuple[int, Checkpoint]]:
    """Open the checkpoints of a run one after another, with their steps.

    Args:
        zoo: where runs are catalogued.
        named: one name or key of a run, one folder, or two or more checkpoints in order. Those are counted from 0 where their names
            do not give steps that rise.

    Raises:
        UnknownNameError: no such run.
        RecordError: several runs have the name, a folder holds the steps of several or of none, or a single checkpoint is named.
        CatalogError: it is no path, and there is no zoo.
        FormatError: a file is gone or damaged.
    """
    if len(named) > 1:
        yield from zip(_steps(named), map(zoo.checkpoint, named), strict=True)
        return
    [run] = named
    if Path(run).is_file():
        raise RecordError(f"{run}: is one checkpoint; give two checkpoints or more, in order, or the folder of a run")
    places = _in_folder(Path(run)) if Path(run).is_dir() else _catalogued(zoo, run)
    for step, path in places:
        yield step, open_checkpoint(path)


def _steps(named: Sequence[str]) -> list[int]:
    places = [place_in_run(Path(one).absolute(), Path(one).absolute().parent) for one in named]
    steps = [place.step for place in places if place is not None and place.step is not None]
    is_rising = len(steps) == len(named) and all(a < b for a, b in itertools.pairwise(steps))
    return steps if is_rising else list(range(len(named)))


def _in_folder(folder: Path) -> list[tuple[int, Path]]:
    """The numbered checkpoints of a folder; it must hold one run only."""
    found = [one.path for one in discover([folder])]
    places = Places(folder.absolute())
    numbered: dict[Path, dict[int, Path]] = {}
    for path in found:
        place = places.of(path)
        if place is not None and place.run is not None and place.step is not None:
            numbered.setdefault(place.run, {}).setdefault(place.step, path)
    if len(numbered) > 1:
        names = ", ".join(sorted(run.name for run in numbered)[:4])
        raise RecordError(f"{folder}: holds {len(numbered)} runs ({one_line(names, 200)}); name the folder of one")
    if not numbered:
        raise RecordError(f"{folder}: no names with steps among {len(found)} checkpoints; name the checkpoints themselves, in order")
    [steps] = numbered.values()
    return sorted(steps.items())


def _catalogued(zoo: "Zoo", run: str) -> list[tuple[int, Path]]:
    if not zoo.catalog.exists():
        raise CatalogError(
            f"'{one_line(run, 120)}' is no path, and there is no zoo in {zoo.folder} that could have a run of this name; "
            "name a folder of checkpoints, or two checkpoints or more"
        )
    rows = zoo.sql(
        "select runs.key, step, path from runs left join files using (run_id) where runs.name = ? or runs.key = ? order by step, file_id",
        [run, run],
    ).to_pylist()
    if not rows:
        known = zoo.sql("select distinct name from runs order by name").column("name").to_pylist()
        raise UnknownNameError.of("run", run, [name for name in known if name is not None])
    keys = sorted({row["key"] for row in rows})
    if len(keys) > 1:
        raise RecordError(f"{len(keys)} runs are named '{one_line(run, 120)}'; name one by its key: {one_line(', '.join(keys[:4]), 300)}")
    made: dict[int, Path] = {}
    for row in rows:
        if row["step"] is not None:
            made.setdefault(row["step"], zoo.folder / row["path"])
    gone = [path for path in made.values() if not path.exists()]
    if gone:
        raise FormatError(f"{gone[0]}: is catalogued as a checkpoint of run '{run}', but is gone", reason="missing", advice="bring it back")
    return sorted(made.items())
