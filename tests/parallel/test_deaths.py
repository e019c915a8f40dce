"""Work that kills its workers, in an ingest and in a run over models; here nothing heavy is imported, since every new worker does it again."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.zoo.trees import make_tree
from tests.zoo.wholeness import faults
from weightspace.checkpoint import Checkpoint
from weightspace.errors import RecordError
from weightspace.zoo import Zoo, reading

DEADLY = "net-0003"


def deadly_for_one(checkpoint: Checkpoint) -> dict[str, int]:
    rows = checkpoint.info["w"].shape[0]
    if rows == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"rows": rows}


def deadly_reading(task: reading.Task) -> list[reading.Outcome]:
    if any(DEADLY in path.name for path in task.paths):
        os.kill(os.getpid(), signal.SIGKILL)
    return reading.work(task)


@pytest.mark.parametrize("processes", ["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ray", "dask"))], indirect=True)
def test_a_file_that_kills_every_worker_is_quarantined(
    processes: str, tmp_path: Path, in_many_tasks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree", small=6, large=0)
    alone, together = Zoo(tmp_path / "alone"), Zoo(tmp_path / "together")
    whole = alone.ingest(tree, jobs=1)
    monkeypatch.setattr(reading, "work", deadly_reading)
    report = together.ingest(tree, jobs=2, backend=processes)
    [crashed] = [refusal for refusal in report.quarantined if refusal.reason == "crashed"]
    assert DEADLY in crashed.place.path and "the process that read it died" in crashed.detail
    assert report.catalogued == whole.catalogued - 1 and faults(together) == []


def test_a_model_that_kills_its_worker_is_left_out(tmp_path: Path) -> None:
    for rows in (1, 2, 3, 4):
        save_file({"w": np.ones((rows, 2), np.float32)}, tmp_path / f"net-{rows}.safetensors")
    zoo = Zoo(tmp_path / "zoo")
    zoo.ingest(tmp_path, jobs=1)
    left_out: list[tuple[str, str]] = []
    table = zoo.map(deadly_for_one, measure="n", jobs=2, skip=lambda name, error: left_out.append((name, str(error))))
    assert table["rows"].to_pylist() == [1, 2, 4]
    [(name, said)] = left_out
    assert name.endswith("net-3") and said.startswith("a worker died twice of one item")
    with pytest.raises(RecordError, match=r"measure 'n' of '.*net-3': a worker died twice of one item"):
        zoo.map(deadly_for_one, measure="n", jobs=2)
