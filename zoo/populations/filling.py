"""Filling a zoo with the networks of a population, from where an earlier filling stopped."""

import contextlib
import inspect
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from weightspace.errors import UnknownNameError
from weightspace.zoo.ingest import Progress
from weightspace.zoo.populations import populations
from weightspace.zoo.zoo import Added, Zoo

if TYPE_CHECKING:
    from weightspace.checkpoint import Checkpoint

_PATIENCE = 5.0  # seconds after which what was trained is written
_MOST = 512  # checkpoints that wait at most, or thereabouts

_OWN = ("skip", "seeds")  # settings that are not the user's


@dataclass(frozen=True)
class Filled:
    """What was done.

    Attributes:
        networks: trained and catalogued.
        checkpoints: of these.
        known: networks of the population that were there already.
        failed: of the new ones, those whose training is told as failed.
    """

    networks: int
    checkpoints: int
    known: int
    failed: int


class _Known(set[str]):
    """Keys of runs that are in the catalog, which counts those that were asked for."""

    found = 0

    def __contains__(self, key: object) -> bool:
        known = super().__contains__(key)
        self.found += known
        return known


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a population with their defaults.

    Raises:
        UnknownNameError: there is no such population.
    """
    return {key: one.default for key, one in inspect.signature(populations[name]).parameters.items() if key not in _OWN}


def summary_of(name: str) -> str:
    """The first line of what a population says of itself.

    Raises:
        UnknownNameError: there is no such population.
    """
    return (inspect.getdoc(populations[name]) or "").partition("\n")[0]


def fill(zoo: Zoo, name: str, *, progress: Callable[[Progress], None] = lambda one: None, **settings: Any) -> Filled:
    """Train the networks of a population that a zoo does not have, and add them; see the population for its settings.

    Whole runs are written every few seconds, so that it may be ended at any time and goes on where it stopped.

    Args:
        zoo: what to add to; made if it is not there.
        name: of the population.
        progress: called when networks are done.
        settings: keywords of the population.

    Raises:
        UnknownNameError: no such population or setting.
        RecordError: a setting cannot be used.
    """
    defaults = settings_of(name)
    for key in settings:
        if key not in defaults:
            raise UnknownNameError.of(f"setting of population '{name}'", key, defaults)
    zoo.create()
    known = _Known(row["key"] for row in zoo.sql("select key from runs where source = 'population'").to_pylist())
    wanted = (defaults | settings).get("count")
    waiting: list[Added] = []
    counts = {"networks": 0, "checkpoints": 0, "failed": 0, "bytes": 0}
    written = time.monotonic()

    def write() -> None:
        zoo.add_many(waiting)
        waiting.clear()

    made = cast(Generator[Added, None, None], populations[name](**settings, skip=known))
    with contextlib.closing(made):
        last = None
        for one in made:
            key = one.run.key if one.run else one.name
            if key != last:
                if len(waiting) >= _MOST or (waiting and time.monotonic() - written > _PATIENCE):
                    write()
                    written = time.monotonic()
                counts["networks"] += 1
                counts["failed"] += one.run is not None and one.run.status == "failed"
                last = key
            waiting.append(one)
            counts["checkpoints"] += 1
            counts["bytes"] += _bytes(one.tensors)
            to_come = max(counts["networks"], (wanted or 0) - known.found)
            progress(Progress(counts["networks"], to_come, counts["bytes"], counts["bytes"] * to_come // counts["networks"]))
        if waiting:
            write()
    return Filled(counts["networks"], counts["checkpoints"], known.found, counts["failed"])


def _bytes(tensors: "Checkpoint | Any") -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
