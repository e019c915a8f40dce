"""Distributed checkpoints: real folders written by torch, and what is refused."""

import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats import formats, open_checkpoint


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2).bfloat16())


def saved(state: dict[str, Any], folder: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):
        dcp.save(state, checkpoint_id=folder, no_dist=True)  # type: ignore[attr-defined]
    return folder


def agrees(checkpoint: Checkpoint, state_dict: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint) == set(state_dict)
    for name, tensor in state_dict.items():
        assert checkpoint[name].dtype == tensor.dtype and torch.equal(checkpoint[name], tensor)
    assert checkpoint.id == Checkpoint.of(state_dict).id


def test_a_trainer_state(model: torch.nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    torch.stack([one.float().sum() for one in model.parameters()]).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": 7, "run": "a"}
    folder = saved(state, tmp_path / "dcp")
    checkpoint = open_checkpoint(folder)
    agrees(checkpoint, model.state_dict())
    assert (checkpoint.metadata["state_dict_key"], checkpoint.metadata["step"], checkpoint.metadata["run"]) == ("model", 7, "a")
    assert "foreign_globals" not in checkpoint.metadata
    assert checkpoint.extras["optim.state.0.exp_avg"].shape == (4, 3)
    assert {path.name for path in checkpoint.files} == {".metadata", "__0_0.distcp"}
    claims = formats["distcp"].claims
    assert claims is not None and claims(folder) == frozenset(checkpoint.files)
    assert open_checkpoint(folder / "__0_0.distcp").id == open_checkpoint(folder / ".metadata").id == checkpoint.id


def test_a_flat_state_dict(model: torch.nn.Module, tmp_path: Path) -> None:
    agrees(open_checkpoint(saved(dict(model.state_dict()), tmp_path / "dcp")), model.state_dict())


def test_missing_truncated_and_swapped_files(model: torch.nn.Module, tmp_path: Path) -> None:
    folder = saved(dict(model.state_dict()), tmp_path / "dcp")
    data = (folder / "__0_0.distcp").read_bytes()
    (folder / "__0_0.distcp").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"lies in bytes .* which has") as caught:
        open_checkpoint(folder)
    assert caught.value.reason == "truncated"
    (folder / "__0_0.distcp").write_bytes(b"\0" * len(data))
    with pytest.raises(FormatError, match="its archive has no directory"):
        open_checkpoint(folder).raw("0.weight")
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(FormatError, match=r"'__0_0.distcp', which its metadata names, is not there; bring all files") as caught:
        open_checkpoint(folder)
    assert caught.value.reason == "missing"


def test_files_outside_the_folder_are_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    folder = saved(dict(model.state_dict()), tmp_path / "dcp")
    raw = (folder / ".metadata").read_bytes().replace(b"__0_0.distcp", b"../_0.distcp")
    (folder / ".metadata").write_bytes(raw)
    shutil.copy(folder / "__0_0.distcp", tmp_path / "_0.distcp")
    with pytest.raises(FormatError, match="outside its own folder") as caught:
        open_checkpoint(folder)
    assert caught.value.reason == "hostile"


class Runs:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.canary)],)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_hostile_metadata_run_nothing(model: torch.nn.Module, tmp_path: Path, protocol: int) -> None:
    folder = saved(dict(model.state_dict()), tmp_path / "dcp")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = Runs(tmp_path / "canary")
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol))
    with pytest.raises(FormatError, match=r"would run code: (subprocess|commands).call") as caught:
        open_checkpoint(folder)
    assert caught.value.reason == "needs-code"
    hostile = saved({"model": model.state_dict(), "x": Runs(tmp_path / "canary")}, tmp_path / "item")
    with pytest.raises(FormatError, match="would run code"):
        open_checkpoint(hostile)
    assert not (tmp_path / "canary").exists()


TWO_RANKS = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 3))
whole = {name: one.detach().clone() for name, one in model.state_dict().items()}
whole |= {"columns": torch.arange(8.0).reshape(2, 4), "same": torch.arange(4.0), "plain": torch.ones(3)}
fully_shard(model, mesh=mesh)
state = dict(model.state_dict())
state["columns"] = distribute_tensor(whole["columns"], mesh, [Shard(1)])
state["same"] = distribute_tensor(whole["same"], mesh, [Replicate()])
state["plain"] = whole["plain"]
torch.save(state, f"{folder}/ranks/model_world_size_2_rank_{rank}.pt")
dcp.save({"model": state, "step": 3}, checkpoint_id=f"{folder}/dcp")
if rank == 0:
    torch.save(whole, f"{folder}/whole.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_with_sharded_tensors(tmp_path: Path) -> None:
    (tmp_path / "ranks").mkdir()
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    ranks = [subprocess.Popen([sys.executable, "-c", TWO_RANKS, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    assert [one.wait(240) for one in ranks] == [0, 0]
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    for folder in (tmp_path / "dcp", tmp_path / "ranks"):
        agrees(open_checkpoint(folder), whole)
    assert open_checkpoint(tmp_path / "dcp").metadata["step"] == 3
    with pytest.raises(FormatError, match=r"a DTensor shard .* name the folder that holds all ranks"):
        open_checkpoint(tmp_path / "ranks" / "model_world_size_2_rank_0.pt")
    (tmp_path / "ranks" / "model_world_size_2_rank_0.pt").unlink()
    with pytest.raises(FormatError, match="expected the files of 2 ranks, that of rank 0 is not there"):
        open_checkpoint(tmp_path / "ranks")
