"""DeepSpeed ZeRO folders, written by code in the layout of DeepSpeed's stages 1 to 3."""

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats import formats, open_checkpoint

GROUPS = [
    {"a.weight": torch.arange(15.0).reshape(5, 3), "b.weight": torch.arange(100.0, 107.0)},
    {"a.bias": torch.arange(200.0, 205.0), "scalar": torch.tensor(3.5)},
]
BUFFER = {"norm.mean": torch.arange(4.0).half()}
FROZEN = {"frozen.weight": torch.arange(300.0, 307.0).bfloat16()}
PARAMETERS = {name: tensor for group in GROUPS for name, tensor in group.items()}


def model_states(fragments: dict[str, torch.Tensor]) -> dict[str, Any]:
    sixteen = {name: tensor.half() for name, tensor in PARAMETERS.items()}
    return {
        "module": {**sixteen, **BUFFER},
        "buffer_names": list(BUFFER),
        "param_shapes": [{name: tensor.shape for name, tensor in group.items()} for group in GROUPS],
        "frozen_param_shapes": {name: tensor.shape for name, tensor in FROZEN.items()},
        "frozen_param_fragments": fragments,
        "shared_params": {"tied.weight": "a.weight"},
        "ds_version": "0.17.0",
        "global_steps": 12,
    }


def write_stage2(folder: Path, world: int, stage: int = 2) -> None:
    torch.save(model_states(FROZEN), folder / "mp_rank_00_model_states.pt")
    flats = []
    for group in GROUPS:
        flat = torch.cat([tensor.reshape(-1) for tensor in group.values()])
        flat = torch.cat([flat, torch.zeros(-flat.numel() % (2 * world))])  # padded to twice the number of ranks
        flats.append(flat.chunk(world))
    for rank in range(world):
        states = {"single_partition_of_fp32_groups": [flat[rank].clone() for flat in flats], "zero_stage": stage}
        states |= {"partition_count": [world, world], "base_optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}}}
        torch.save({"optimizer_state_dict": states}, folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")


def partition(tensor: torch.Tensor, world: int) -> list[torch.Tensor]:
    flat = tensor.reshape(-1)
    return list(torch.cat([flat, flat.new_zeros(-flat.numel() % world)]).chunk(world))


def write_stage3(folder: Path, world: int) -> None:
    for rank in range(world):
        frozen = {name: partition(tensor, world)[rank].clone() for name, tensor in FROZEN.items()}
        torch.save(model_states(frozen), folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        flats = [torch.cat([partition(tensor, world)[rank] for tensor in group.values()]) for group in GROUPS]
        states = {"fp32_flat_groups": flats, "zero_stage": 3, "partition_count": world}
        torch.save({"optimizer_state_dict": states}, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_parameters_are_cut_out_of_the_partitions(tmp_path: Path, stage: int, world: int) -> None:
    if stage == 3:
        write_stage3(tmp_path, world)
    else:
        write_stage2(tmp_path, world, stage)
    checkpoint = open_checkpoint(tmp_path)
    expected = {**BUFFER, **PARAMETERS, **FROZEN, "tied.weight": PARAMETERS["a.weight"]}
    assert set(checkpoint) == set(expected)
    for name, tensor in expected.items():
        assert checkpoint[name].dtype == tensor.dtype and torch.equal(checkpoint[name], tensor), name
    assert checkpoint.id == Checkpoint.of(expected).id
    assert checkpoint.info["tied.weight"].alias_of == "a.weight"
    assert checkpoint.num_params == 4 + sum(prod(one.shape) for one in PARAMETERS.values()) + 7
    assert checkpoint.metadata == {"ds_version": "0.17.0", "global_steps": 12, "zero_stage": stage, "world_size": world}
    claims = formats["deepspeed"].claims
    assert claims is not None and claims(tmp_path) == frozenset(checkpoint.files)
    if stage < 3:
        assert "optimizer.rank0.base_optimizer_state.state.0.exp_avg" in checkpoint.extras


@pytest.mark.parametrize(("stage", "missing"), [(2, "bf16_zero_pp_rank_1"), (3, "zero_pp_rank_1")])
def test_a_missing_rank(tmp_path: Path, stage: int, missing: str) -> None:
    (write_stage3 if stage == 3 else write_stage2)(tmp_path, 2)
    (tmp_path / f"{missing}_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(FormatError, match="expected the optimizer states of 2 ranks, found 1; bring the files of all ranks") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.reason == "missing"


def test_partitions_that_are_too_short(tmp_path: Path) -> None:
    write_stage2(tmp_path, 1)
    states = {"single_partition_of_fp32_groups": [torch.ones(4), torch.ones(6)], "zero_stage": 2, "partition_count": 1}
    torch.save({"optimizer_state_dict": states}, tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(FormatError, match=r"the partitions hold 4 of the 15 elements of 'a.weight'"):
        open_checkpoint(tmp_path)


def test_model_parallel_folders_are_refused(tmp_path: Path) -> None:
    write_stage2(tmp_path, 1)
    torch.save({}, tmp_path / "mp_rank_01_model_states.pt")
    with pytest.raises(FormatError, match="split over model-parallel ranks; convert it with DeepSpeed's ds_to_universal"):
        open_checkpoint(tmp_path)
