"""Ctrl-C in the middle of an ingest on several processes: what was done is kept, nobody complains, and no process stays behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.zoo.trees import make_tree
from tests.zoo.wholeness import Rows, content_with_keys, faults
from weightspace.zoo import Zoo

INGEST = """
import signal, sys
from weightspace.zoo import Zoo, ingest

ingest.TASK_FILES, ingest._FEW = 2, 0
zoo = Zoo(sys.argv[1])
print("begins", flush=True)
try:
    report = zoo.ingest(sys.argv[2], jobs=2, progress=lambda progress: print("done", flush=True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what follows is the end of this script
    print("interrupted" if report.interrupted else "finished", report.catalogued)
except KeyboardInterrupt:
    print("interrupted outside")
"""
COMMAND = "from weightspace.cli.main import main; main()"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("interrupt") / "tree", small=40, large=0)


@pytest.fixture(scope="module")
def whole(tree: Path) -> dict[str, Rows]:
    """What an ingest that nobody interrupts leads to."""
    zoo = Zoo(tree.parent / "whole")
    zoo.ingest(tree, jobs=1)
    return content_with_keys(zoo)


def interrupted(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Press Ctrl-C, which reaches a whole process group, and wait for the end of all of it."""
    everybody = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(everybody, 15)
    assert alive == []
    return out, errors


@pytest.mark.parametrize(
    ("lines", "wait"),
    [(5, 0.0), (1, 0.0)]
    # While workers start, and at other moments.
    + [pytest.param(1, wait / 20, marks=pytest.mark.slow) for wait in range(1, 30)]
    + [pytest.param(lines, 0.0, marks=pytest.mark.slow) for lines in range(2, 60, 6)],
)
def test_ctrl_c_keeps_what_was_done_and_leaves_nobody_behind(
    tmp_path: Path, tree: Path, whole: dict[str, Rows], lines: int, wait: float
) -> None:
    zoo = Zoo(tmp_path / "zoo")
    arguments = [sys.executable, "-c", INGEST, str(zoo.folder), str(tree)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        for _ in range(lines):
            process.stdout.readline()
        time.sleep(wait)
        out, errors = interrupted(process)
    # Python reports a SIGINT that it met while running code from a string, although it was handled.
    assert process.returncode in (0, -signal.SIGINT) and errors == ""
    said = re.search(r"(interrupted|finished) (\d+|outside)", out)
    assert said and faults(zoo) == []
    catalogued = 0 if said[2] == "outside" else int(said[2])
    if zoo.catalog.exists() and said[2] != "outside":
        assert zoo.files().num_rows == catalogued
    assert zoo.ingest(tree, jobs=1).unchanged >= catalogued
    assert content_with_keys(zoo) == whole


def test_ctrl_c_on_the_command_line_is_one_line(tmp_path: Path, tree: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    zoo.create()
    arguments = [sys.executable, "-c", COMMAND, "ingest", str(tree), "--jobs", "2", "--zoo", str(zoo.folder)]
    with (
        zoo.catalog.writing(),
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process,
    ):  # it waits for the catalog, however quick this machine is
        while not (lock := [file for file in psutil.Process(process.pid).open_files() if file.path.endswith("gate")]):
            assert process.poll() is None
            time.sleep(0.02)
        assert lock
        _, errors = interrupted(process)
    assert process.returncode == 130
    assert errors == "interrupted; the catalog is valid, and nothing half done is in it\n"
