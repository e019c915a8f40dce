"""What every backend promises: order, laziness, errors as they were raised, dead workers survived, nothing left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from weightspace import parallel
from weightspace.errors import ClusterError, FormatError, MissingDependencyError, UnknownNameError
from weightspace.parallel.ray import _start

KILLER = 5


def slower_first(item: int) -> tuple[int, int]:
    time.sleep(0.1 if item == 0 else 0.005)
    return item, os.getpid()


def refused(item: int) -> int:
    if item == 3:
        raise FormatError("file 3 is damaged", reason="corrupt", advice="copy it again")
    return item


def watched(task: tuple[int, Path]) -> int:
    """Tell who works, and be slow."""
    item, folder = task
    (folder / f"{item}.{os.getpid()}").touch()
    time.sleep(0.3)
    return item


def deadly(task: tuple[int, Path]) -> int:
    """The killer kills whoever works at it."""
    item, folder = task
    (folder / f"{item}.{time.time_ns()}").touch()
    if item == KILLER:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_results_come_in_order_whoever_is_first(backend: str) -> None:
    found = list(parallel.run(slower_first, range(12), jobs=2, backend=backend))
    assert [item for item, _ in found] == list(range(12))
    assert (os.getpid() in {pid for _, pid in found}) == (backend == "threads")


def test_items_are_drawn_a_few_ahead(backend: str) -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10**9):
            drawn.append(item)
            yield item

    results = parallel.run(slower_first, items(), jobs=2, backend=backend)
    assert not drawn
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    assert len(drawn) <= 2 + 6
    results.close()
    assert len(drawn) <= 2 + 6


def test_an_error_is_raised_as_it_was_in_the_place_of_its_item(backend: str) -> None:
    results = parallel.run(refused, range(9), jobs=2, backend=backend)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FormatError) as raised:
        next(results)
    assert type(raised.value) is FormatError and raised.value.reason == "corrupt"
    assert str(raised.value) == "file 3 is damaged; copy it again"
    # The workers are there for the next one.
    assert next(parallel.run(refused, [1], jobs=2, backend=backend)) == 1


def test_no_items_are_no_results(backend: str) -> None:
    assert list(parallel.run(refused, [], jobs=2, backend=backend)) == []


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(processes: str, tmp_path: Path) -> None:
    results = parallel.run(watched, ((item, tmp_path) for item in range(8)), jobs=2, backend=processes)
    assert next(results) == 0
    deadline = time.monotonic() + 60
    while not (at_work := [file for file in tmp_path.iterdir() if file.name.partition(".")[0] in "345"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim = int(at_work[0].suffix[1:])
    assert victim != os.getpid() and psutil.Process().pid in {one.pid for one in psutil.Process(victim).parents()}
    os.kill(victim, signal.SIGKILL)
    assert list(results) == list(range(1, 8))
    item = at_work[0].stem
    assert len({file.suffix for file in tmp_path.glob(f"{item}.*")}) > 1, "done again by another worker"


@pytest.mark.parametrize("processes", ["local", pytest.param("ray", marks=pytest.mark.slow), "dask"], indirect=True)
def test_an_item_that_always_kills_its_worker_costs_that_item_only(processes: str, tmp_path: Path) -> None:
    blamed: list[tuple[int, str]] = []

    def stand_in(task: tuple[int, Path], error: parallel.WorkerDiedError) -> int:
        blamed.append((task[0], str(error)))
        return -1

    tasks = [(item, tmp_path) for item in range(9)]
    found = list(parallel.run(deadly, tasks, jobs=2, backend=processes, died=stand_in))
    assert found == [-1 if item == KILLER else item for item in range(9)]
    [(item, said)] = blamed
    assert item == KILLER and said.startswith("a worker died twice of one item (") and "not be enough memory" in said
    assert len(list(tmp_path.glob(f"{KILLER}.*"))) <= 4


def test_without_a_stand_in_it_is_raised_after_what_came_before(tmp_path: Path) -> None:
    results = parallel.run(deadly, [(item, tmp_path) for item in range(9)], jobs=2)
    assert [next(results) for _ in range(KILLER)] == list(range(KILLER))
    with pytest.raises(parallel.WorkerDiedError, match="a worker died twice of one item"):
        next(results)


def test_an_unknown_backend_is_told_at_once() -> None:
    with pytest.raises(UnknownNameError, match=r"no backend named 'rya'; did you mean 'ray'\? \(known: .*local.*\)"):
        parallel.run(refused, [1], backend="rya")


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_a_missing_package_is_one_line(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as raised:
        next(parallel.run(refused, [1], backend=name))
    assert str(raised.value) == (
        f"the backend '{name}' needs the package '{package}', which is not installed; pip install 'weightspace[{name}]'"
    )


def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    monkeypatch.setattr("weightspace.parallel.dask._PATIENCE", 0.3)
    with pytest.raises(
        ClusterError, match=r"no Dask scheduler can be reached at tcp://127.0.0.1:9 \(.*\); see that it runs, or unset DASK"
    ):
        next(parallel.run(refused, [1], backend="dask"))


def test_nobody_else_can_reach_what_is_started(cluster: str) -> None:
    assert next(parallel.run(refused, [1], backend=cluster)) == 1
    listening = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            listening |= {one.laddr.ip.removeprefix("::ffff:") for one in process.net_connections() if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_one_job_is_done_in_this_process() -> None:
    assert list(parallel.run(slower_first, [1])) == [(1, os.getpid())]
    assert list(parallel.run(lambda item: item + 1, [1], jobs=1)) == [2]


def test_ctrl_c_is_raised_when_what_was_done_is_told(backend: str) -> None:
    results = parallel.run(slower_first, range(10**6), jobs=2, backend=backend)
    found = [next(results)]
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        found += results
    assert [item for item, _ in found] == list(range(len(found))) and len(found) <= 1 + 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert next(parallel.run(refused, [1], jobs=2, backend=backend)) == 1


PRESSED = """
import sys, time
from weightspace import parallel

if __name__ == "__main__":
    try:
        for one in parallel.run(time.sleep, [0.1] * 1000, jobs=2, backend=sys.argv[1]):
            print("done", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
"""

AGAIN = """
import sys
from weightspace import parallel

if __name__ == "__main__":
    for _ in range(2):
        print(list(parallel.run(abs, [-1, 2], jobs=2, backend=sys.argv[1])), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray", "dask"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_that_was_started_ends_with_its_process(name: str, number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group, as in a terminal; kill -9 the first process alone."""
    script = tmp_path / "pressed.py"
    script.write_text(PRESSED)
    arguments = [sys.executable, str(script), name]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline() == "done\n"
        everybody = psutil.Process(process.pid).children(recursive=True)
        assert len(everybody) >= 2
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        out, errors = process.communicate(timeout=100)
    _, alive = psutil.wait_procs(everybody, 120)  # Ray's agents look for their parent now and then
    assert alive == []
    if number is signal.SIGINT:
        assert (out.replace("done\n", ""), errors, process.returncode) == ("interrupted\n", "", 0)


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_a_process_may_start_one_cluster_after_another(name: str, tmp_path: Path) -> None:
    script = tmp_path / "again.py"
    script.write_text(AGAIN)
    done = subprocess.run([sys.executable, str(script), name], capture_output=True, text=True, timeout=200, check=False)
    assert (done.stdout, done.returncode) == ("[1, 2]\n[1, 2]\n", 0), done.stderr


def test_a_ray_address_where_nobody_listens_is_said_at_once() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        code = "from weightspace import parallel; list(parallel.run(abs, [-1, 2], jobs=2, backend='ray'))"
        environment = {**os.environ, "RAY_ADDRESS": address}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert f"no Ray cluster can be reached at {address} (" in done.stderr and "unset RAY_ADDRESS" in done.stderr


def test_a_cluster_that_does_not_start_is_said_in_a_line() -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("Failed to start GCS.\nLast lines of its log")

    module = SimpleNamespace(init=fail, shutdown=lambda: None)
    with pytest.raises(ClusterError, match=r"^a Ray cluster could not be started here \(Failed to start GCS.*; try again when"):
        _start(module, "local")
