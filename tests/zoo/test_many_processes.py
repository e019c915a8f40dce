"""Many processes at once at one zoo: all succeed, nothing is lost, and the content is that of a serial run."""

import json
import multiprocessing
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from safetensors.numpy import save_file

import weightspace as ws
from tests.zoo.trees import arrays, make_tree
from tests.zoo.wholeness import content, faults, leftovers
from weightspace.zoo import Zoo

PROCESSES = 8


def make_ground(folder: Path, *, small: int) -> Path:
    """One tree that every process ingests, one for every two of them, and weights that each adds."""
    make_tree(folder / "shared", small=small, large=0)
    for number in range(PROCESSES // 2):
        make_tree(folder / f"own-{number}", small=small, large=1, large_width=1000, first=10_000 * (number + 1))
    for number in range(PROCESSES):
        save_file(arrays(-number % 97 + 90_000), folder / f"made-{number}.safetensors")
    return folder


def change(folder: Path, home: Path, number: int, rounds: int) -> Iterator[Zoo]:
    """What one process changes, step by step."""
    zoo, shared = Zoo(home), folder / "shared/group-0/net-0000.safetensors"
    for turn in range(rounds):
        for tree in ("shared", f"own-{number // 2}"):  # one tree for all, and one for every two
            zoo.ingest(folder / tree, jobs=1, tags={f"by-{number}": str(turn)}, copy=number % 2 == 0)
            zoo.record(str(shared), metrics={"score": {f"{number}": turn + 0.5}}, tags={f"tag-{number}": str(turn)}, step=turn)
            yield zoo
        zoo.add(ws.open(folder / f"made-{number}.safetensors"), name=f"made/{number}", metrics={"test": {"accuracy": number / 10}})
        yield zoo


def work(folder: Path, home: Path, number: int, rounds: int) -> None:
    """What one process does: change something, ask about it, in turns."""
    for zoo in change(folder, home, number, rounds):
        assert zoo.sql("select count(*) as n from tensor_table where model = 'group-0/net-0000'").to_pylist() == [{"n": 3}]
        assert zoo.models("num_params > 0", order_by="num_params desc", limit=3).num_rows == 3
        assert zoo.page(str(folder / "shared/group-0/net-0000.safetensors")).tensors.num_rows == 3
        with zoo.reading() as connection:
            assert zoo.duplicates().num_rows > 0 and zoo.runs().num_rows > 0
            assert connection.execute("select count(*) from quarantine").fetchall() >= [(3,)]


def together(folder: Path, rounds: int) -> None:
    serial, shared = folder / "serial", folder / "zoo"
    for number in range(PROCESSES):
        list(change(folder, serial, number, rounds))
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(work, folder, shared, number, rounds) for number in range(PROCESSES)]:
            future.result(timeout=250)
    assert faults(Zoo(shared)) == [] and leftovers(Zoo(shared)) == []
    found = content(Zoo(shared))
    for table, rows in content(Zoo(serial)).items():
        assert found[table] == rows, table


def test_eight_processes_ingest_and_ask_at_once(tmp_path: Path) -> None:
    together(make_ground(tmp_path, small=7), 1)


@pytest.mark.slow
def test_eight_processes_ingest_and_ask_for_longer(tmp_path: Path) -> None:
    together(make_ground(tmp_path, small=40), 5)


def weightspace(*arguments: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from weightspace.cli.main import main; main()", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(processes: Sequence["subprocess.Popen[str]"]) -> list[str]:
    """Wait for commands that must all succeed without a complaint; returns what they printed."""
    said = [process.communicate(timeout=120) for process in processes]
    told = [(process.returncode, errors) for process, (_, errors) in zip(processes, said, strict=True)]
    assert [one for one in told if one[0] != 0 or re.search("error|warn|traceback|leak", one[1], re.IGNORECASE)] == []
    return [out for out, _ in said]


def test_ten_commands_at_one_zoo_at_once(tmp_path: Path) -> None:
    for number in range(4):
        make_tree(tmp_path / f"tree-{number}", small=8, large=0, first=10_000 * number)
    zoo = "--zoo", tmp_path / "zoo"
    ended([weightspace("ingest", tmp_path / "tree-0", *zoo)])
    model = tmp_path / "tree-0/group-0/net-0000.safetensors"
    ended(
        [
            *(weightspace("ingest", tmp_path / f"tree-{number}", "--jobs", str(number % 2 + 1), *zoo) for number in range(4)),
            *(weightspace("record", model, f"score={number}", "--split", split, *zoo) for number, split in enumerate(("test", "val"))),
            weightspace("tag", model, "seen=yes", *zoo),
            weightspace("ls", *zoo),
            weightspace("sql", "select count(*) from models", *zoo),
            weightspace("duplicates", *zoo),
        ]
    )
    [said] = ended([weightspace("sql", "select split, value from metrics where name = 'score' order by 1", "--format", "json", *zoo)])
    assert json.loads(said) == [{"split": "test", "value": 0.0}, {"split": "val", "value": 1.0}]
    serial = Zoo(tmp_path / "serial")
    for number in range(4):
        serial.ingest(tmp_path / f"tree-{number}", jobs=1)
    serial.record(str(model), metrics={"test": {"score": 0}, "val": {"score": 1}}, tags={"seen": "yes"})
    assert faults(Zoo(tmp_path / "zoo")) == []
    assert content(Zoo(tmp_path / "zoo")) == content(serial)
