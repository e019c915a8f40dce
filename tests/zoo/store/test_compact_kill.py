"""Kill -9 at any moment of a compaction or restoring: every model opens as what it was, and a second run completes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.zoo.store.files import family, held
from tests.zoo.wholeness import faults
from weightspace.zoo import Zoo

STEPS = {"fresh": 3, "put": 2, "commit": 0, "committed": 0, "remove": 0, "removed": 2}
QUICK = ("put", "committed", "remove")

WORK = """
import os, signal, sys
from weightspace.zoo import Zoo, catalog
from weightspace.zoo.store import roots, running

zoo, what, step, after = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
running.FLUSH_SECONDS = 0.0 if after else 2.0

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def trap(thing, name, is_before=True):
    real, left = getattr(thing, name), [after]
    def trapped(*arguments, **keywords):
        left[0] -= 1
        if left[0] < 0 and is_before:
            kill()
        made = real(*arguments, **keywords)
        if left[0] < 0:
            kill()
        return made
    setattr(thing, name, trapped)

class Writing:
    def __init__(self, real):
        self.real = real
    def __enter__(self):
        return self.real.__enter__()
    def __exit__(self, *raised):
        if step == "commit":
            kill()
        self.real.__exit__(*raised)
        kill()

if step in ("fresh", "put", "remove"):
    trap(roots.LocalRoot, step)
elif step == "removed":
    trap(roots.LocalRoot, "remove", False)
elif step in ("commit", "committed"):
    real = catalog.Catalog.writing
    catalog.Catalog.writing = lambda self: Writing(real(self))
house = Zoo(zoo)
print(house.compact(jobs=2) if what == "compact" else house.restore_store(jobs=2))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    zoo = Zoo(tmp_path_factory.mktemp("kill") / "zoo")
    family(zoo, children=4)
    family(zoo, children=1, seed=1)
    return zoo


def copied(zoo: Zoo, place: Path) -> Zoo:
    shutil.copytree(zoo.folder, place)
    return Zoo(place)


def command(zoo: Zoo, what: str, step: str = "none", after: int = 0) -> list[str]:
    return [sys.executable, "-c", WORK, str(zoo.folder), what, step, str(after)]


def check_and_finish(zoo: Zoo, before: Zoo, what: str) -> None:
    """Nothing is lost, and the next run makes it what it should be; the way back gives the first bytes."""
    ids = {row["name"]: row["id"] for row in before.models().to_pylist()}
    assert {name: zoo.open(name).id for name in ids} == ids
    report = zoo.compact(jobs=1) if what == "compact" else zoo.restore_store(jobs=1)
    assert report.refused == [] and faults(zoo) == []
    suffix = ".compact" if what == "compact" else ".safetensors"
    assert sorted(held(zoo, suffix)) == sorted(f"{one}{suffix}" for one in ids.values())
    # Of the other form nothing is left; scratch of the killed process has a hidden name.
    assert [name for name in held(zoo) if not name.endswith(suffix) and not name.startswith(".")] == []
    zoo.restore_store(jobs=1)
    assert held(zoo, ".safetensors").items() >= held(before).items() and faults(zoo) == []
    zoo.collect_garbage(spare=-60.0)
    assert held(zoo) == held(before)


@pytest.mark.parametrize("what", ["compact", "restore"])
@pytest.mark.parametrize("step", [step if step in QUICK else pytest.param(step, marks=pytest.mark.slow) for step in STEPS])
def test_killed_inside_a_step(tmp_path: Path, before: Zoo, what: str, step: str) -> None:
    zoo = copied(before, tmp_path / "zoo")
    if what == "restore":
        zoo.compact()
    ended = subprocess.run(command(zoo, what, step, STEPS[step]), capture_output=True, timeout=100)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    check_and_finish(zoo, before, what)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [at / 40 + random.Random(at).random() / 40 for at in range(40)])
def test_killed_at_a_moment(tmp_path: Path, before: Zoo, moment: float) -> None:
    zoo = copied(before, tmp_path / "zoo")
    started = time.monotonic()
    subprocess.run(command(copied(before, tmp_path / "undisturbed"), "compact"), capture_output=True, timeout=100, check=True)
    whole = time.monotonic() - started
    with subprocess.Popen(command(zoo, "compact"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(whole * moment)
        os.kill(process.pid, signal.SIGKILL)
    check_and_finish(zoo, before, "compact")
