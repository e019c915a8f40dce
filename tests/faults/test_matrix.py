"""The fault matrix: whatever a hub does, an operation is done or refused in one line, all stays whole, and a second run completes."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import disable_progress_bars

from tests.faults.columns import COLUMNS, STALL, Column, Fault
from tests.faults.rows import ROWS, Ground, Outcome, Row, target, wrong
from tests.hub.loopback_hub import loopback_hub
from tests.hub.loopback_requests import Settings
from tests.remote.hubs import running
from tests.zoo.hub.test_push_pull import network
from weightspace.remote import client
from weightspace.zoo import Zoo
from weightspace.zoo.hub import push_zoo
from weightspace.zoo.zoo import Added

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")

QUICK = 40  # cells that are always tried
LONGEST = 6 * client.LONGEST_WAIT  # seconds that an operation may wait in all


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix: what is done, what goes wrong, with which of its requests, and whether once or for ever."""

    row: Row
    column: Column
    target: str
    is_once: bool

    def __str__(self) -> str:
        return f"{self.row.name}-{self.column.name}-{self.target}-{'once' if self.is_once else 'for ever'}"


CELLS = [Cell(row, column, one, once) for row in ROWS for column in COLUMNS for one in row.targets for once in (True, False)]
FAILED_ONCE = {
    "hub push-429, Retry-After: years-send-for ever",  # waited for half an hour
    "hub pull MODEL-other bytes-file-once",  # kept what was no configuration
    "hub ingest-redirect loop-talk-once",  # took an answer without sizes for a repository without weights
}
CHOSEN = set(map(str, random.Random(9).sample(CELLS, QUICK))) | FAILED_ONCE


@dataclass
class Waits:
    """What was waited for, without waiting."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    made = Waits()
    monkeypatch.setattr(time, "sleep", made)
    disable_progress_bars()  # as the command line does
    return made


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with a model and a zoo on it, and a zoo here that has grown since it was pushed."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch, running(folder, patch) as hub:
        hub.model("lab/toy")
        zoo = Zoo(folder / "zoo")
        zoo.add_many([Added(network(0), "base", metrics={"test": {"accuracy": 0.5}}), Added(network(1), "other")])
        push_zoo(zoo, "lab/zoo", private=True)
        zoo.add(network(2), "third", parents=["base"])
    return folder


@contextmanager
def ground_at(template: Path, folder: Path, patch: pytest.MonkeyPatch, fault: Callable[[str, str], Fault | None]) -> Iterator[Ground]:
    """A copy of the template with its hub running."""
    shutil.copytree(template / "hub", folder / "hub")
    (folder / "out").mkdir()
    settings = Settings(fault=fault)
    with loopback_hub(folder / "hub", settings) as url:
        for name, value in {"HF_ENDPOINT": url, "HF_TOKEN": "any", "WEIGHTSPACE_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        yield Ground(
            Zoo(shutil.copytree(template / "zoo", folder / "zoo")),
            Zoo(folder / "there"),
            folder / "out" / "out.safetensors",
            folder / "hub",
        )


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Outcome]:
    """What a row leads to when nothing goes wrong."""

    @cache
    def result(name: str) -> Outcome:
        [row] = [one for one in ROWS if one.name == name]
        with (
            pytest.MonkeyPatch.context() as patch,
            ground_at(template, tmp_path_factory.mktemp("undisturbed"), patch, lambda method, path: None) as ground,
        ):
            return row.run(ground)

    return lambda row: result(row.name)


def expected(cell: Cell) -> set[str]:
    """How a cell may end."""
    if cell.is_once and cell.column.is_passing:
        return {"done"}
    if not cell.is_once and cell.column.is_passing:
        return {"refused"}
    # What is refused may be asked for in another way, and what is wrong in an answer that nobody reads does not matter.
    return {"done", "refused"}


def told(outcome: Outcome) -> str:
    """Done, or refused in one line that says what and where, and what to do."""
    if outcome.is_done:
        return "done"
    line = outcome.said.removeprefix("error: ")
    assert line and "\n" not in line and "; " in line and ("lab/" in line or "lab" in line), outcome.said
    assert len(line) < 600 and line.isprintable(), outcome.said
    return "refused"


def play(cell: Cell, template: Path, folder: Path, patch: pytest.MonkeyPatch, waits: Waits) -> tuple[Ground, Outcome, Outcome, list[str]]:
    """Run a cell and then the same without the fault; returns both outcomes, and the requests that met the fault."""
    met: list[str] = []
    is_over: list[bool] = []

    def fault(method: str, path: str) -> Fault | None:
        if is_over or target(method, path) != cell.target or (cell.is_once and met):
            return None
        met.append(path)
        return cell.column.fault(path)

    if cell.column.name == "slow":  # elsewhere a busy machine may take its time
        patch.setattr(client, "QUIET", STALL / 2)
        patch.setattr(client, "COMMIT", STALL / 2)
    with ground_at(template, folder, patch, fault) as ground:
        first = cell.row.run(ground)
        patch.setattr(client, "QUIET", 30.0)
        patch.setattr(client, "COMMIT", 30.0)
        assert wrong(ground) == []
        is_over.append(True)
        assert sum(waits.seconds) <= LONGEST and all(0 <= seconds <= client.LONGEST_WAIT + 1 for seconds in waits.seconds), waits.seconds
        second = cell.row.run(ground)
        assert wrong(ground) == []
    return ground, first, second, met


def test_cells_that_failed_once_are_still_there() -> None:
    assert set(map(str, CELLS)) >= FAILED_ONCE


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=str(cell), marks=() if str(cell) in CHOSEN else pytest.mark.slow) for cell in CELLS]
)
def test_a_cell_of_the_matrix(
    cell: Cell, template: Path, undisturbed: Callable[[Row], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: Waits
) -> None:
    wanted = undisturbed(cell.row)
    _, first, second, met = play(cell, template, tmp_path, monkeypatch, waits)
    assert met, "no request met the fault"
    assert told(first) in expected(cell), first
    if told(first) == "done":
        assert first.result == wanted.result
    if cell.column.name in ("401", "403", "404"):
        assert len(met) <= 3, "asked again after a refusal"
    assert second.is_done, second.said
    assert second.result == wanted.result
