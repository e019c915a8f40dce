"""Kill -9 at any moment of an ingest: the catalog opens, what is in it is whole, and the next run leads to the same content."""

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.zoo.trees import make_contested, make_tree
from tests.zoo.wholeness import Rows, content_with_keys, faults, leftovers
from weightspace.zoo import Zoo

QUICK, ALL = 4, 100  # moments tried
STEPS = {"create": 0, "insert": 40, "commit": 6, "committed": 6, "put": 9, "replace": 9}  # how often the trap below lets a step pass
QUICK_STEPS = ("create", "insert", "put")

# Small batches and parts, so that a short run has many transactions; a trap kills it inside a step.
INGEST = """
import os, signal, sys
from weightspace.zoo import Zoo, catalog, ingest, reading, write
from weightspace.zoo.store import putting

zoo, tree, jobs, copy, step, after = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "copy", sys.argv[5], int(sys.argv[6])
ingest.FLUSH_TENSORS, ingest.TASK_FILES, ingest._FEW, reading.PART_BYTES = 0, 4, 0, 1 << 18

def trap(module, name):
    real, left = getattr(module, name), [after]
    def trapped(*arguments, **keywords):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)
    setattr(module, name, trapped)

class Writing:
    def __init__(self, real):
        self.real = real
    def __enter__(self):
        self.connection = self.real.__enter__()
        return self.connection
    def __exit__(self, *raised):
        global after
        after -= 1
        if after < 0 and step == "commit":
            os.kill(os.getpid(), signal.SIGKILL)
        self.real.__exit__(*raised)
        if after < 0:
            os.kill(os.getpid(), signal.SIGKILL)

if step == "create":
    trap(catalog, "refresh_model_table")
elif step == "insert":
    trap(write, "_insert")
elif step == "put":
    trap(putting, "save")
elif step == "replace":
    trap(putting, "open_held")
elif step in ("commit", "committed"):
    real = catalog.Catalog.writing
    catalog.Catalog.writing = lambda self: Writing(real(self))
print(Zoo(zoo).ingest(tree, jobs=jobs, copy=copy))
"""


Way = tuple[int, str]
"""Jobs, and whether weights are copied into the store."""

QUICK_WAYS: tuple[Way, ...] = ((1, "copy"), (2, "copy"))
ALL_WAYS: tuple[Way, ...] = ((1, "leave"), (2, "leave"), *QUICK_WAYS)


@dataclass(frozen=True)
class Undisturbed:
    """What an ingest of the tree leads to when nobody disturbs it, and how long it takes."""

    tree: Path
    content: dict[str, Rows]
    seconds: float


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_tree(tmp_path_factory.mktemp("kill") / "tree", small=16, large=2, large_width=40_000)
    make_contested(made / "contested")
    return made


@pytest.fixture(scope="module")
def undisturbed(tree: Path) -> Callable[[Way], Undisturbed]:
    @functools.cache
    def run(way: Way) -> Undisturbed:
        zoo = Zoo(tree.parent / f"zoo-{way[0]}-{way[1]}")
        started = time.monotonic()
        done = subprocess.run(command(zoo, tree, way), capture_output=True, text=True, timeout=100)
        seconds = time.monotonic() - started
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert faults(zoo) == [] and leftovers(zoo) == []
        return Undisturbed(tree, content_with_keys(zoo), seconds)

    return run


def command(zoo: Zoo, tree: Path, way: Way, step: str = "none", after: int = 0) -> list[str]:
    return [sys.executable, "-c", INGEST, str(zoo.folder), str(tree), str(way[0]), way[1], step, str(after)]


def check_and_finish(zoo: Zoo, undisturbed: Undisturbed, way: Way) -> None:
    """After a kill: the catalog is whole, can be written, and the next run makes it what it should be."""
    assert faults(zoo) == []
    if zoo.catalog.exists():
        with zoo.catalog.writing() as connection:
            connection.execute("create table trial (a int)")
            connection.execute("drop table trial")
    zoo.ingest(undisturbed.tree, jobs=1, copy=way[1] == "copy")
    assert faults(zoo) == []
    found = content_with_keys(zoo)
    for table, rows in undisturbed.content.items():
        assert found[table] == rows, table
    # What a killed copy leaves has a hidden name of its own, which no later copy trips over.
    assert all(Path(name).parts[0] == "store" and Path(name).name.startswith(".") for name in leftovers(zoo))


def killed(zoo: Zoo, undisturbed: Undisturbed, way: Way, moment: float) -> None:
    """Run an ingest and kill it after a fraction of the time that it takes; its workers must be gone soon."""
    with subprocess.Popen(command(zoo, undisturbed.tree, way), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(moment * undisturbed.seconds)
        except subprocess.TimeoutExpired:
            pass
        workers = children(process.pid)
        process.kill()
    _, alive = psutil.wait_procs(workers, 8)
    assert alive == []


def children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def moments(count: int) -> Iterator[float]:
    """Moments over the whole duration, one drawn in each of `count` equal parts."""
    drawn = random.Random(count)
    return ((at + drawn.random()) / count for at in range(count))


@pytest.mark.parametrize(
    ("way", "moment"),
    [pytest.param(QUICK_WAYS[at % 2], moment, id=f"{moment:.3f}") for at, moment in enumerate(moments(QUICK))]
    + [pytest.param(ALL_WAYS[at % 4], moment, id=f"{moment:.3f}", marks=pytest.mark.slow) for at, moment in enumerate(moments(ALL))],
)
def test_killed_at_a_moment(tmp_path: Path, undisturbed: Callable[[Way], Undisturbed], way: Way, moment: float) -> None:
    zoo = Zoo(tmp_path / "zoo")
    killed(zoo, undisturbed(way), way, moment)
    check_and_finish(zoo, undisturbed(way), way)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path, undisturbed: Callable[[Way], Undisturbed]) -> None:
    """Every run goes on where the last one was killed."""
    zoo, way = Zoo(tmp_path / "zoo"), (2, "copy")
    for moment in moments(8):
        killed(zoo, undisturbed(way), way, moment)
        assert faults(zoo) == []
    check_and_finish(zoo, undisturbed(way), way)


@pytest.mark.parametrize("step", [step if step in QUICK_STEPS else pytest.param(step, marks=pytest.mark.slow) for step in STEPS])
def test_killed_inside_a_step(tmp_path: Path, undisturbed: Callable[[Way], Undisturbed], step: str) -> None:
    """Inside the making of the catalog, a transaction, around its commit, and inside a copy."""
    zoo, way = Zoo(tmp_path / "zoo"), (1, "copy")
    ended = subprocess.run(command(zoo, undisturbed(way).tree, way, step, STEPS[step]), capture_output=True, timeout=100)
    assert ended.returncode == -signal.SIGKILL
    check_and_finish(zoo, undisturbed(way), way)


SLEEPS = """
import sys, time
from weightspace import parallel

if __name__ == "__main__":
    for _ in parallel.run(time.sleep, [0.1, 0.1, 600, 600], jobs=2):
        print("done", flush=True)
"""


def test_workers_end_with_a_parent_that_is_killed_even_in_the_middle_of_work(tmp_path: Path) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text(SLEEPS)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() and process.stdout.readline()
        workers = children(process.pid)
        assert len(workers) >= 2
        os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, 5)
    assert alive == []
