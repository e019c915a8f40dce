"""Kill -9 at any moment of an ingest: the catalog opens, what is in it is whole, and the next run leads to the same content."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.zoo.trees import make_contested, make_tree
from tests.zoo.wholeness import Rows, content_with_keys, faults, leftovers
from weightspace.zoo import Zoo

QUICK, ALL = 5, 100  # moments tried
STEPS = {"create": 1, "insert": 40, "commit": 6, "committed": 6, "put": 9, "replace": 9}  # how often the trap below lets a step pass

# Small batches and parts, so that a short run has many transactions; a trap kills it inside a step.
INGEST = """
import contextlib, os, signal, sys
from weightspace.zoo import Zoo, catalog, ingest, reading, store, write

zoo, tree, jobs, copy, step, after = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "copy", sys.argv[5], int(sys.argv[6])
ingest.FLUSH_SECONDS, ingest.TASK_FILES, ingest._FEW, reading.PART_BYTES = 0.0, 4, 0, 1 << 18

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
    after = 0
elif step == "insert":
    trap(write, "_insert")
elif step == "put":
    trap(store, "save")
elif step == "replace":
    trap(store, "open_safetensors")
elif step in ("commit", "committed"):
    real = catalog.Catalog.writing
    catalog.Catalog.writing = lambda self: Writing(real(self))
print(Zoo(zoo).ingest(tree, jobs=jobs, copy=copy))
"""


@dataclass(frozen=True)
class Undisturbed:
    """What an ingest of the tree leads to when nobody disturbs it, and how long it takes, by how it is run."""

    tree: Path
    content: dict[tuple[int, str], dict[str, Rows]]
    seconds: dict[tuple[int, str], float]


WAYS = ((1, "leave"), (2, "leave"), (1, "copy"), (2, "copy"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("kill")
    tree = make_tree(folder / "tree", small=24, large=2, large_width=40_000)
    make_contested(tree / "contested")
    content, seconds = {}, {}
    for jobs, copy in WAYS:
        zoo = Zoo(folder / f"zoo-{jobs}-{copy}")
        started = time.monotonic()
        done = subprocess.run(command(zoo, tree, jobs, copy), capture_output=True, text=True, timeout=100)
        seconds[jobs, copy] = time.monotonic() - started
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert faults(zoo) == [] and leftovers(zoo) == []
        content[jobs, copy] = content_with_keys(zoo)
    for copy in ("leave", "copy"):
        assert content[1, copy] == content[2, copy]
    return Undisturbed(tree, content, seconds)


def command(zoo: Zoo, tree: Path, jobs: int, copy: str, step: str = "none", after: int = 0) -> list[str]:
    return [sys.executable, "-c", INGEST, str(zoo.folder), str(tree), str(jobs), copy, step, str(after)]


def check_and_finish(zoo: Zoo, undisturbed: Undisturbed, way: tuple[int, str]) -> None:
    """After a kill: the catalog is whole, can be written, and the next run makes it what it should be."""
    assert faults(zoo) == []
    if zoo.catalog.exists():
        with zoo.catalog.writing() as connection:
            connection.execute("create table trial (a int)")
            connection.execute("drop table trial")
    zoo.ingest(undisturbed.tree, jobs=1, copy=way[1] == "copy")
    assert faults(zoo) == []
    found, expected = content_with_keys(zoo), undisturbed.content[way]
    for table, rows in expected.items():
        assert found[table] == rows, table
    # What a killed copy leaves has a hidden name of its own, which no later copy trips over.
    assert all(Path(name).parts[0] == "store" and Path(name).name.startswith(".") for name in leftovers(zoo))


def killed(zoo: Zoo, undisturbed: Undisturbed, way: tuple[int, str], moment: float) -> None:
    """Run an ingest and kill it after a fraction of the time that it takes; its workers must be gone soon."""
    with subprocess.Popen(command(zoo, undisturbed.tree, *way), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(moment * undisturbed.seconds[way])
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
    ("number", "moment"),
    [pytest.param(*one, id=f"{one[1]:.3f}") for one in enumerate(moments(QUICK))]
    + [pytest.param(*one, id=f"{one[1]:.3f}", marks=pytest.mark.slow) for one in enumerate(moments(ALL))],
)
def test_killed_at_a_moment(tmp_path: Path, undisturbed: Undisturbed, number: int, moment: float) -> None:
    zoo, way = Zoo(tmp_path / "zoo"), WAYS[number % len(WAYS)]
    killed(zoo, undisturbed, way, moment)
    if number % 10 == 9:  # and once more, since an interrupted run may be interrupted again
        assert faults(zoo) == []
        killed(zoo, undisturbed, way, moment)
    check_and_finish(zoo, undisturbed, way)


@pytest.mark.parametrize("step", STEPS)
def test_killed_inside_a_step(tmp_path: Path, undisturbed: Undisturbed, step: str) -> None:
    """Inside the making of the catalog, a transaction, around its commit, and inside a copy."""
    zoo, way = Zoo(tmp_path / "zoo"), (1, "copy")
    ended = subprocess.run(command(zoo, undisturbed.tree, *way, step, STEPS[step]), capture_output=True, timeout=100)
    assert ended.returncode == -signal.SIGKILL
    check_and_finish(zoo, undisturbed, way)


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
