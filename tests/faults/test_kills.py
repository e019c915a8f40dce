"""kill -9 at any moment of a push, a pull, an ingest and a map, of the client and of its workers: nothing is lost, and a plain run completes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.rows import models, tree
from tests.hub.loopback_hub import loopback_hub
from tests.hub.loopback_store import Repo
from tests.zoo.hub.test_push_pull import network
from tests.zoo.trees import make_tree
from tests.zoo.wholeness import content_with_keys, faults
from weightspace.zoo import Zoo
from weightspace.zoo.zoo import Added

QUICK, ALL = 3, 50  # kills of each kind of work
IN_A_ROW = 5  # kills before a plain run has to complete
MODELS = 6


class Zygote:
    """The process that forks one for each piece of work."""

    def __init__(self, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )

    def _read(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def begin(self, work: str, arguments: Sequence[str]) -> int:
        """Start a piece of work; returns its process."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"work": work, "arguments": list(arguments)}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def ended(self) -> int:
        """Wait for it; returns how it ended."""
        return self._read()

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@dataclass(frozen=True)
class Ground:
    """Where the work is done: folders, with the hub that serves one of them."""

    folder: Path

    @property
    def zoo(self) -> Zoo:
        return Zoo(self.folder / "zoo")

    @property
    def there(self) -> Zoo:
        return Zoo(self.folder / "there")

    @property
    def hub(self) -> Path:
        return self.folder / "hub"


Result = Any
WORK: Mapping[str, tuple[Callable[[Ground, int], list[str]], Callable[[Ground], Result]]] = {
    "push": (lambda ground, jobs: [str(ground.zoo.folder)], lambda ground: tree(ground.hub, Repo("dataset", "lab/zoo"))),
    "pull": (lambda ground, jobs: [str(ground.there.folder)], lambda ground: models(ground.there)),
    "ingest": (
        lambda ground, jobs: [str(ground.there.folder), str(ground.folder / "tree"), str(jobs)],
        lambda ground: content_with_keys(ground.there),
    ),
    "map": (
        lambda ground, jobs: [str(ground.zoo.folder), str(jobs)],
        lambda ground: ground.zoo.sql(
            "select m.name, x.key, x.value from measurements x join models m using (model_id) order by all"
        ).to_pylist(),
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Zygote, Path, Path]]:
    """The zygote, whose hub serves one folder, that folder, and what it is filled from."""
    template, live = tmp_path_factory.mktemp("template"), tmp_path_factory.mktemp("live")
    Zoo(template / "zoo").add_many([Added(network(seed), f"model {seed}", metrics={"loss": seed}) for seed in range(MODELS)])
    make_tree(template / "tree", small=8, large=1, large_width=40_000)
    (template / "hub").mkdir()
    with loopback_hub(live / "hub") as url:
        zygote = Zygote(HF_ENDPOINT=url, HF_TOKEN="any", WEIGHTSPACE_CACHE=str(template / "cache"), OMP_NUM_THREADS="1")
        try:
            filled(live, template)
            zygote.begin("push", [str(live / "zoo")])
            assert zygote.ended() == 0
            shutil.copytree(live / "hub", template / "pushed")
            yield zygote, live, template
        finally:
            zygote.close()


def filled(live: Path, template: Path, hub: str = "hub") -> Ground:
    """A fresh ground."""
    for name in ("zoo", "there", "tree", "hub"):
        shutil.rmtree(live / name, ignore_errors=True)
    shutil.copytree(template / "zoo", live / "zoo")
    shutil.copytree(template / "tree", live / "tree")  # with its times
    shutil.copytree(template / hub, live / "hub")
    for folder in ("blobs", "lfs", "repos", "incoming"):
        (live / "hub" / folder).mkdir(exist_ok=True)
    return Ground(live)


def children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def killed(zygote: Zygote, work: str, arguments: Sequence[str], seconds: float, of_worker: bool, choose: random.Random) -> str:
    """Begin work and kill it, or one of its workers, after some seconds; returns who was killed."""
    pid = zygote.begin(work, arguments)
    time.sleep(seconds)
    workers = children(pid)
    victim = choose.choice(workers).pid if of_worker and workers else pid
    try:
        os.kill(victim, signal.SIGKILL)
        who = "client" if victim == pid else "worker"
    except ProcessLookupError:
        who = "nobody"
    zygote.ended()
    _, alive = psutil.wait_procs(workers, 10)
    assert alive == [], "workers live on"
    return who


def undisturbed(zygote: Zygote, ground: Ground, work: str) -> tuple[Result, float]:
    """What the work leads to when nobody disturbs it, and the seconds that it takes."""
    make, result = WORK[work]
    started = time.monotonic()
    zygote.begin(work, make(ground, 1))
    assert zygote.ended() == 0
    return result(ground), time.monotonic() - started


@pytest.mark.parametrize("count", [QUICK, pytest.param(ALL, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("work", WORK)
def test_killed_at_random_moments(place: tuple[Zygote, Path, Path], work: str, count: int) -> None:
    zygote, live, template = place
    hub = "pushed" if work == "pull" else "hub"
    make, result = WORK[work]
    wanted, seconds = undisturbed(zygote, filled(live, template, hub), work)
    choose = random.Random(f"{work} {count}")
    tally = dict.fromkeys(("client", "worker", "nobody"), 0)
    ground = filled(live, template, hub)
    longest = {1: seconds, 2: 2 * seconds}  # workers have to start first
    in_a_row = 0
    while (at := tally["client"] + tally["worker"]) < count:
        of_worker = work in ("ingest", "map") and at % 3 == 2
        jobs = 2 if of_worker else 1
        who = killed(zygote, work, make(ground, jobs), choose.random() * longest[jobs], of_worker, choose)
        tally[who] += 1
        in_a_row += 1
        if who == "nobody":  # the work was done before: what is left of it takes less time, or the machine has become faster
            longest[jobs] = max(longest[jobs] * 0.7, 0.05)
        assert faults(ground.zoo) == [] and faults(ground.there) == []
        if who == "nobody" or in_a_row == IN_A_ROW or at == count - 1:
            zygote.begin(work, make(ground, 1))
            assert zygote.ended() == 0, "a plain run does not complete"
            assert faults(ground.zoo) == [] and faults(ground.there) == []
            assert result(ground) == wanted
            ground, in_a_row = filled(live, template, hub), 0
    print(work, tally, f"{seconds:.2f} s undisturbed")
