"""Ingest: what is found, what is refused, and that a second run reads nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import weightspace as ws
from weightspace.errors import FormatError
from weightspace.zoo import Progress, Zoo


def weights(seed: int, width: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"fc.weight": torch.randn(width, 3, generator=generator), "fc.bias": torch.randn(width, generator=generator)}


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree as people have them: two copies, a training run, junk, a broken file, a NaN."""
    root = tmp_path / "tree"
    for folder in ("a", "b", "run/checkpoint-10", "run/checkpoint-20", ".hidden", "bad"):
        (root / folder).mkdir(parents=True)
    ws.save(weights(0), root / "a/first.safetensors")
    torch.save(weights(0), root / "b/same.pt")
    for step in (10, 20):
        ws.save(weights(step), root / f"run/checkpoint-{step}/model.safetensors")
        (root / f"run/checkpoint-{step}/trainer_state.json").write_text(
            json.dumps({"global_step": step, "log_history": [{"eval_loss": 1 / step, "step": step}]})
        )
    ws.save({"w": torch.tensor([1.0, float("nan"), float("inf")])}, root / "bad/nan.safetensors")
    (root / "bad/cut.safetensors").write_bytes((root / "a/first.safetensors").read_bytes()[:-3])
    (root / "bad/junk.pth").write_bytes(b"not a checkpoint at all")
    ws.save(weights(9), root / ".hidden/x.safetensors")
    (root / "README.md").write_text("# hello")
    (root / "data.csv").write_text("a,b\n1,2\n")
    return root


def test_a_tree_is_catalogued_and_the_rest_goes_on(zoo: Zoo, tree: Path) -> None:
    report = zoo.ingest(tree, jobs=1)
    assert report.catalogued == 5 and report.new_models == 4 and report.passed_over == 4
    assert sorted(refusal.reason for refusal in report.quarantined) == ["truncated", "unknown"]
    assert report.non_finite == ["bad/nan"]
    names = zoo.models().column("name").to_pylist()
    assert names == ["a/first", "bad/nan", "run/checkpoint-10", "run/checkpoint-20"]
    refused = {Path(row["path"]).name: row for row in zoo.quarantined().to_pylist()}
    assert set(refused) == {"cut.safetensors", "junk.pth", "nan.safetensors"}
    assert refused["nan.safetensors"]["reason"] == "non-finite"
    assert "1 NaN and 1 infinite elements in 1 tensors, first in w" in refused["nan.safetensors"]["detail"]
    assert all(row["advice"] for row in refused.values())


def test_a_second_run_changes_nothing_and_reads_nothing(zoo: Zoo, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.ingest(tree, jobs=1)
    before = zoo.catalog.path.read_bytes()
    monkeypatch.setattr("weightspace.zoo.reading.measure_many", lambda items: pytest.fail("read again") if items else [])
    report = zoo.ingest(tree, jobs=1)
    assert report.catalogued == report.new_models == report.bytes_read == 0
    assert report.unchanged == 7 and not report.quarantined
    assert zoo.catalog.path.read_bytes() == before


def test_a_changed_file_is_read_again_and_its_old_row_goes(zoo: Zoo, tree: Path) -> None:
    zoo.ingest(tree, jobs=1)
    ws.save(weights(77), tree / "b/same.pt")
    report = zoo.ingest(tree, jobs=1)
    assert report.catalogued == 1 and report.new_models == 1
    assert zoo.sql("select count(*) as n from files where path like '%same.pt'").to_pylist() == [{"n": 1}]
    assert zoo.duplicates().num_rows == 0


def test_a_mended_file_leaves_the_quarantine(zoo: Zoo, tree: Path) -> None:
    zoo.ingest(tree, jobs=1)
    ws.save(weights(5), tree / "bad/cut.safetensors")
    zoo.ingest(tree, jobs=1)
    assert "truncated" not in zoo.quarantined().column("reason").to_pylist()


def test_metadata_that_comes_later_is_taken_in_without_reading_weights(zoo: Zoo, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(weights(3), tree / "a/first.safetensors", metadata={"maker": "me"})
    zoo.ingest(tree, jobs=1)
    (tree / "a/metrics.json").write_text('{"test": {"accuracy": 0.75}}')
    (tree / "a/README.md").write_text("---\nlicense: mit\nbase_model: some/base\ndatasets: [d1, d2]\nlanguage: en\n---\n")
    monkeypatch.setattr("weightspace.zoo.reading.measure_many", lambda items: pytest.fail("read again") if items else [])
    report = zoo.ingest(tree, jobs=1)
    assert report.redescribed == 1 and report.catalogued == 0
    [row] = zoo.models("name = 'a/first'").to_pylist()
    assert row["test_accuracy"] == 0.75 and row["licence"] == "MIT" and row["base_model"] == "some/base"
    assert row["datasets"] == ["d1", "d2"] and row["languages"] == ["en"] and row["format"] == "safetensors"
    metadata = zoo.page("a/first").files.to_pylist()[0]["metadata"]
    assert json.loads(metadata)["container"]["maker"] == "me"


def test_checkpoints_of_a_training_belong_to_a_run(zoo: Zoo, tree: Path) -> None:
    zoo.ingest(tree, jobs=1)
    rows = zoo.models("run = 'run'", order_by="step").to_pylist()
    assert [(row["step"], row["eval_loss"]) for row in rows] == [(10, 0.1), (20, 0.05)]


def test_copies_are_one_model_in_two_places_with_their_cost(zoo: Zoo, tree: Path) -> None:
    zoo.ingest(tree, jobs=1)
    [row] = zoo.duplicates().to_pylist()
    sizes = [(tree / "a/first.safetensors").stat().st_size, (tree / "b/same.pt").stat().st_size]
    assert row["copies"] == 2 and row["wasted_bytes"] == min(sizes)
    assert [Path(path).name for path in row["paths"]] == ["first.safetensors", "same.pt"]


def test_workers_write_the_same_catalog_as_one_process(tmp_path: Path, tree: Path) -> None:
    for number in range(150):
        ws.save(weights(number % 60 + 100), tree / f"a/{number:03d}.safetensors")
    zoos = [Zoo(tmp_path / name) for name in ("one", "two")]
    zoos[0].ingest(tree, jobs=1)
    zoos[1].ingest(tree, jobs=2)
    assert content(zoos[0]) == content(zoos[1])


def test_a_large_checkpoint_is_measured_in_parts_with_the_same_result(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = torch.randn(40, 25)
    path = ws.save({**{f"l{i}": torch.randn(50, 30) for i in range(7)}, "tied.a": tied, "tied.b": tied}, tmp_path / "large.safetensors")
    monkeypatch.setattr("weightspace.zoo.reading.PART_BYTES", 9000)
    told: list[int] = []
    report = zoo.ingest(path, jobs=1, progress=lambda progress: told.append(progress.bytes_done))
    assert report.catalogued == 1
    assert len(told) == 5 and told == sorted(set(told)) and told[-1] == path.stat().st_size
    [row] = zoo.models().to_pylist()
    assert row["id"] == ws.open(path).id and row["num_params"] == 7 * 1500 + 1000
    assert zoo.page("large").tensors.num_rows == 9


def test_a_part_that_cannot_be_read_quarantines_the_whole(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ws.save({f"l{i}": torch.randn(50, 30) for i in range(7)}, tmp_path / "large.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr("weightspace.zoo.reading.PART_BYTES", 9000)
    report = zoo.ingest(path, jobs=1)
    assert report.catalogued == 0 and [refusal.reason for refusal in report.quarantined] == ["truncated"]


def test_tags_reach_new_and_known_models(zoo: Zoo, tree: Path) -> None:
    zoo.ingest(tree / "a", jobs=1)
    zoo.ingest(tree, jobs=1, tags={"project": "x"})
    assert zoo.sql("select count(distinct model_id) as n from tags where key = 'project' and value = 'x'").to_pylist() == [{"n": 4}]


def test_copying_keeps_the_weights_in_the_store(zoo: Zoo, tree: Path) -> None:
    zoo.ingest(tree / "a", jobs=1, copy=True)
    shutil.rmtree(tree)
    assert zoo.open("first").id == zoo.models().to_pylist()[0]["id"]
    assert zoo.duplicates().num_rows == 0


def test_a_zoo_that_moves_finds_the_models_inside_it(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    ws.save(weights(1), tmp_path / "old/m.safetensors")
    Zoo(tmp_path / "old").ingest(tmp_path / "old", jobs=1)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Zoo(tmp_path / "new")
    assert torch.equal(moved.open("m")["fc.bias"], weights(1)["fc.bias"])
    assert moved.ingest(tmp_path / "new", jobs=1).catalogued == 0


def test_links_lead_nowhere_outside_the_root(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    ws.save(weights(1), tmp_path / "outside/secret.safetensors")
    (tmp_path / "root/file.safetensors").symlink_to(tmp_path / "outside/secret.safetensors")
    (tmp_path / "root/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root")
    (tmp_path / "root/dangling.safetensors").symlink_to(tmp_path / "nowhere")
    assert zoo.ingest(tmp_path / "root", jobs=1).catalogued == 0


def test_the_hub_cache_is_read_through_its_links_once(zoo: Zoo, tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--org--net"
    for folder in ("blobs", "refs", "snapshots/abc123"):
        (repository / folder).mkdir(parents=True)
    ws.save(weights(1), repository / "blobs/deadbeef")
    (repository / "blobs/cafe").write_text('{"architectures": ["NetForTests"], "model_type": "net"}')
    (repository / "snapshots/abc123/model.safetensors").symlink_to("../../blobs/deadbeef")
    (repository / "snapshots/abc123/config.json").symlink_to("../../blobs/cafe")
    report = zoo.ingest(tmp_path / "hub", jobs=1)
    assert report.catalogued == 1
    [row] = zoo.models().to_pylist()
    assert row["name"] == "org/net" and row["family"] == "NetForTests"
    assert zoo.page("org/net").tags == {"revision": "abc123"}


def test_fifos_and_unreadable_files_do_not_stop_it(zoo: Zoo, tree: Path) -> None:
    os.mkfifo(tree / "a/pipe.safetensors")
    assert zoo.ingest(tree, jobs=1).catalogued == 5
    with pytest.raises(FormatError, match="is not a regular file"):
        ws.open(tree / "a/pipe.safetensors")


def test_a_missing_root_is_one_clear_line(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nowhere: does not exist; check the path"):
        zoo.ingest(tmp_path / "nowhere")


def test_ctrl_c_keeps_what_was_done(zoo: Zoo, tree: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 6:
            raise KeyboardInterrupt

    report = zoo.ingest(tree, jobs=1, progress=interrupt)
    assert report.interrupted and 0 < report.catalogued < 5
    assert zoo.models().num_rows == report.new_models
    assert zoo.ingest(tree, jobs=1).catalogued == 5 - report.catalogued


DIES_ON_ONE_FILE = """
import os, sys
from weightspace.zoo import Zoo, ingest, reading

work = reading.work

def dies(task):
    if any(path.name == "same.pt" for path in task.paths):
        os._exit(1)
    return work(task)

ingest._FEW = 0
reading.work = dies
report = Zoo(sys.argv[1]).ingest(sys.argv[2], jobs=2)
[crashed] = [refusal for refusal in report.quarantined if refusal.reason == "crashed"]
assert crashed.place.path.endswith("same.pt") and "the process that read it died" in crashed.detail, crashed
assert report.catalogued == 4, report
"""


def test_a_worker_that_dies_costs_only_its_file(zoo: Zoo, tree: Path) -> None:
    """The process ends without a word on one file, as a crash in a C library would end it."""
    done = subprocess.run([sys.executable, "-c", DIES_ON_ONE_FILE, str(zoo.folder), str(tree)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_one_content_has_one_id_in_four_containers(zoo: Zoo, tmp_path: Path) -> None:
    state_dict = weights(1, width=600)
    folder = tmp_path / "containers"
    (folder / "sharded").mkdir(parents=True)
    torch.save(state_dict, folder / "a.pt")
    torch.save(state_dict, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state_dict, folder / "b.safetensors")
    arrays: Any = {name: tensor.numpy() for name, tensor in state_dict.items()}
    np.savez(folder / "c.npz", **arrays)
    index = {}
    for number, (name, tensor) in enumerate(state_dict.items(), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensor}, folder / "sharded" / shard)
        index[name] = shard
    (folder / "sharded/model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    report = zoo.ingest(folder, jobs=1)
    assert report.catalogued == 5 and report.new_models == 1
    assert zoo.duplicates().to_pylist()[0]["copies"] == 5


def test_every_weight_file_of_the_manifest_has_the_stated_parameters(zoo: Zoo, real_checkpoints: Path) -> None:
    report = zoo.ingest(real_checkpoints, jobs=2)
    assert [(Path(refusal.place.path).name, refusal.reason) for refusal in report.quarantined] == [("mtcnn_pnet.lz4", "needs-code")]
    found = {row["path"]: row["num_params"] for row in zoo.models().to_pylist()}
    stated = dict(_stated_counts(real_checkpoints))
    assert len(stated) >= 23
    assert {path: found.get(path) for path in stated} == stated
    suffixes = (".pt", ".pth", ".th", ".tar", ".bin", ".hdf5", ".onnx", ".safetensors")
    assert len(found) == sum(path.name.endswith(suffixes) for path in real_checkpoints.rglob("*"))
    again = zoo.ingest(real_checkpoints, jobs=2)
    assert again.catalogued == 0 and again.seconds < report.seconds / 4


def _stated_counts(folder: Path) -> Iterator[tuple[str, int]]:
    for line in (folder / "MANIFEST.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        count = re.search(r"([\d,]{4,}) params", cells[6]) if len(cells) > 6 else None
        if count and (folder / cells[1]).is_file():
            yield str(folder / cells[1]), int(count[1].replace(",", ""))


def content(zoo: Zoo) -> dict[str, list[tuple[object, ...]]]:
    """The whole catalog without times: for comparing one with another."""
    with zoo.reading() as connection:
        return {
            "models": connection.execute("select * exclude (catalogued) from models order by all").fetchall(),
            "tensors": connection.execute("select * from tensors order by all").fetchall(),
            "model_tensors": connection.execute("select * from model_tensors order by all").fetchall(),
            "files": connection.execute("select * exclude (ingested) from files order by all").fetchall(),
            "architectures": connection.execute("select * from architectures order by all").fetchall(),
            "quarantine": connection.execute("select * exclude (seen) from quarantine order by all").fetchall(),
            "metrics": connection.execute("select * exclude (recorded) from metrics order by all").fetchall(),
            "runs": connection.execute("select * from runs order by all").fetchall(),
        }


def test_a_moved_file_is_not_taken_for_a_copy_and_a_deleted_bad_one_is_forgotten(zoo: Zoo, tree: Path) -> None:
    zoo.ingest(tree, jobs=1)
    (tree / "b/same.pt").unlink()
    (tree / "a/first.safetensors").rename(tree / "a/second.safetensors")
    (tree / "bad/junk.pth").unlink()
    zoo.ingest(tree, jobs=1)
    assert zoo.duplicates().num_rows == 0
    assert zoo.open("a/first").path == tree / "a/second.safetensors"
    assert not [path for path in zoo.quarantined().column("path").to_pylist() if "junk" in path]


def test_a_metric_taken_out_of_a_file_goes(zoo: Zoo, tree: Path) -> None:
    (tree / "a/metrics.json").write_text('{"acc": 0.5}')
    zoo.ingest(tree / "a", jobs=1)
    zoo.record("first", metrics={"mine": 1.0})
    (tree / "a/metrics.json").write_text('{"loss": 0.75}')
    zoo.ingest(tree / "a", jobs=1)
    names = zoo.sql("select name from metrics order by name").column("name").to_pylist()
    assert names == ["loss", "mine"]


def test_an_empty_path_is_not_the_working_folder(zoo: Zoo) -> None:
    with pytest.raises(FormatError, match="a path to ingest is empty"):
        zoo.ingest("")
