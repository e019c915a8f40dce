"""Sharded state dicts saved one file a rank, in the layout that torch pickles DTensors in (real ones: test_distcp, slow)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats import formats, open_checkpoint


class Sharded:
    """Pickles as the DTensor of one rank does."""

    def __init__(self, whole: torch.Tensor, mesh: torch.Tensor, placements: tuple[Any, ...], rank: int) -> None:
        self.whole, self.local = whole, whole
        coordinates = (mesh == rank).nonzero()[0].tolist()
        for size, at, place in zip(mesh.shape, coordinates, placements, strict=True):
            if isinstance(place, Shard):
                parts = self.local.chunk(size, place.dim)
                self.local = parts[at] if at < len(parts) else self.local.narrow(place.dim, 0, 0)
        self.spec = SimpleNamespace(mesh=SimpleNamespace(mesh=mesh), placements=placements)

    def __reduce__(self) -> tuple[Any, ...]:
        whole = self.whole
        outer = (DTensor, whole.dtype, tuple(whole.shape), whole.stride(), 0, torch.strided, torch.device("cpu"), False)
        state = (None, {"_local_tensor": self.local, "_spec": self.spec})
        return torch._tensor._rebuild_from_type_v2, (torch._utils._rebuild_wrapper_subclass, DTensor, outer, state)


WHOLE = {
    "rows": torch.arange(15.0).reshape(5, 3),
    "columns": torch.arange(14).reshape(2, 7).bfloat16(),
    "same": torch.arange(4),
    "few": torch.ones(1, 2),
}


def saved(folder: Path, mesh: torch.Tensor, outer: tuple[Any, ...] = ()) -> Path:
    world = mesh.numel()
    for rank in range(world):
        state = {
            "rows": Sharded(WHOLE["rows"], mesh, (*outer, Shard(0)), rank),
            "columns": Sharded(WHOLE["columns"], mesh, (*outer, Shard(1)), rank),
            "same": Sharded(WHOLE["same"], mesh, (*outer, Replicate()), rank),
            "few": Sharded(WHOLE["few"], mesh, (*outer, Shard(0)), rank),
        }
        torch.save(state, folder / f"model_world_size_{world}_rank_{rank}.pt")
        torch.save({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, folder / f"optim_world_size_{world}_rank_{rank}.pt")
    return folder


def agrees(checkpoint: Checkpoint) -> None:
    assert checkpoint.id == Checkpoint.of(WHOLE).id
    for name, tensor in WHOLE.items():
        assert torch.equal(checkpoint[name], tensor)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_one_mesh_axis(tmp_path: Path, world: int) -> None:
    checkpoint = open_checkpoint(saved(tmp_path, torch.arange(world)))
    agrees(checkpoint)
    assert checkpoint.format == "fsdp" and checkpoint.metadata == {"world_size": world}
    claims = formats["fsdp"].claims
    assert claims is not None and len(claims(tmp_path)) == 2 * world


@pytest.mark.parametrize("outer", [Replicate(), Shard(0)])
def test_two_mesh_axes(tmp_path: Path, outer: Any) -> None:
    agrees(open_checkpoint(saved(tmp_path, torch.arange(4).reshape(2, 2), (outer,))))


def test_a_missing_rank(tmp_path: Path) -> None:
    saved(tmp_path, torch.arange(3))
    (tmp_path / "model_world_size_3_rank_1.pt").unlink()
    with pytest.raises(
        FormatError, match="expected the files of 3 ranks, that of rank 1 is not there; bring the files of all ranks together"
    ) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.reason == "missing"


def test_ranks_that_do_not_fit_together(tmp_path: Path) -> None:
    saved(tmp_path, torch.arange(2))
    torch.save({"rows": Sharded(torch.ones(4, 3), torch.arange(2), (Shard(0),), 1)}, tmp_path / "model_world_size_2_rank_1.pt")
    with pytest.raises(FormatError, match=r"tensor 'rows' cannot be read: rank 1 has it with shape \(4, 3\), rank 0 with \(5, 3\)"):
        open_checkpoint(tmp_path)
    torch.save({"x": Sharded(torch.ones(4, 3), torch.arange(2), (Partial(),), 1)}, tmp_path / "model_world_size_2_rank_1.pt")
    torch.save({"x": Sharded(torch.ones(4, 3), torch.arange(2), (Partial(),), 0)}, tmp_path / "model_world_size_2_rank_0.pt")
    with pytest.raises(FormatError, match="its placement is Partial, expected Shard or Replicate; consolidate it with torch"):
        open_checkpoint(tmp_path)


def test_one_rank_alone_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, torch.arange(2))
    with pytest.raises(FormatError, match=r"tensor 'rows' is of a wrapper subclass .* name the folder that holds all ranks"):
        open_checkpoint(tmp_path / "model_world_size_2_rank_0.pt")
