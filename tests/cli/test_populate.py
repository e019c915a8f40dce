"""`weightspace populate`: networks into the catalog, talk on stderr, the registry listed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from weightspace.zoo import Zoo
from weightspace.zoo.populations import populations

TINY = ("populate", "mlps", "--data", "digits", "--set", "widths=4", "--set", "depths=1", "--set", "steps=0,3")


@pytest.mark.usefixtures("sandbox")
def test_networks_come_into_the_catalog_and_nothing_twice(run: Run) -> None:
    first = run(*TINY, "--count", "2", "--zoo", "small", "--format", "json")
    assert json.loads(first.stdout) == [{"population": "mlps", "networks": 2, "checkpoints": 4, "known": 0, "failed": 0}]
    assert first.stderr.strip() == "trained 2 networks; 0 were there already"
    again = run(*TINY, "--count", "3", "--zoo", "small", "--jobs", "1", "--format", "json")
    assert json.loads(again.stdout)[0]["known"] == 2 and Zoo("small").runs().num_rows == 3


@pytest.mark.usefixtures("sandbox")
def test_failed_fits_are_told(run: Run) -> None:
    result = run("populate", "sirens", "--count", "2", "--set", "steps=1", "--set", "width=4", "--zoo", "small")
    assert "trained 2 networks, 2 of them failed and in no split" in result.stderr


def test_the_registry_is_listed_with_settings(run: Run) -> None:
    rows = json.loads(run("populate", "--list", "--format", "json").stdout)
    assert [row["name"] for row in rows] == list(populations)
    assert all(row["summary"] and "seed=0" in row["settings"] for row in rows)
    assert json.loads(run("populate", "--format", "json").stdout) == rows


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mlp",), "no population named 'mlp'; did you mean 'mlps'"),
        (("digits-mlp", "--count", "3"), "population 'digits-mlp' has no setting 'count'; leave --count out"),
        (("transformers", "--data", "digits"), "has no setting 'data'"),
        (("cnns", "--set", "data=digits"), "population 'cnns': 'data' has an option of its own; write --data digits"),
        (("mlps", "--set", "width=3"), "did you mean 'widths'"),
        (("mlps", "--set", "widths=0"), "widths is (0,), expected a list of whole numbers from 1 on"),
        (("mlps", "--data", "nowhere"), "expected one of digits, mnist1d, an .npz file with x and y, or a folder of idx files"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    result = run("populate", *arguments, "--zoo", "small", code=1)
    assert said in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_leaves_whole_runs_and_ends_soon(tmp_path: Path) -> None:
    place = tmp_path / "small"
    command = [sys.executable, "-m", "weightspace", *TINY[:4], "--set", "steps=0,1000000", "--count", "4", "--zoo", str(place)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as child:
        for _ in range(600):
            if Zoo(place).catalog.exists():
                break
            time.sleep(0.05)
        time.sleep(1.5)  # it trains by now, or is about to
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130 and "interrupted; the catalog is valid" in said and "Traceback" not in said
    assert Zoo(place).runs().num_rows == 0
