import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.adapters import apply_adapter, extract_adapter, read_adapter, save_adapter
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, MergeError

SHAPES = {
    "up.weight": (12, 8), "up.bias": (12,), "norm.weight": (12,), "conv.weight": (6, 4, 3, 3), "line.weight": (5, 4, 3),
    "wte.weight": (20, 8), "still.weight": (4, 4), "cls": (1, 8), "steps": (),
}  # fmt: skip


def model(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}
    return drawn | {"steps": torch.tensor(seed), "still.weight": torch.ones(4, 4)}


def low_rank_change(rank: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A base, and it after a change of exactly this rank in every matrix and kernel."""
    base, generator, tuned = model(0), torch.Generator().manual_seed(1), {}
    for name, tensor in base.items():
        tuned[name] = tensor.clone()
        if tensor.ndim > 1 and name not in ("still.weight", "cls"):
            rows, columns = tensor.flatten(1).shape
            change = (
                torch.randn(rows, rank, generator=generator, dtype=torch.float64) @ torch.randn(rank, columns, generator=generator).double()
            )
            tuned[name] = (tensor.double() + change.reshape(tensor.shape)).float()
    return base, tuned


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


MATRICES = ["up.weight", "conv.weight", "line.weight", "wte.weight"]


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("limit", [{"rank": 2}, {"energy": 1 - 1e-9}, {"rank": 1000}, {"rank": 3, "energy": 1 - 1e-9}], ids=str)
def test_a_change_of_low_rank_comes_back(limit: dict[str, Any], alpha: float | None) -> None:
    base, tuned = (Checkpoint.of(one) for one in low_rank_change(2))
    adapter = extract_adapter(base, tuned, alpha=alpha, **limit)
    applied, updates = apply_adapter(base, adapter), read_adapter(adapter)
    assert sorted(updates) == sorted(MATRICES) == sorted(adapter.metadata["extraction"]["kept"])
    for name in MATRICES:
        assert distance(updates[name].matrix().reshape(SHAPES[name]), tuned[name] - base[name]) < 2e-6
        assert distance(applied[name], tuned[name]) < 2e-6
        kept = adapter.metadata["extraction"]["kept"][name]
        assert kept["energy"] == pytest.approx(1) and kept["norm"] == pytest.approx(float((tuned[name] - base[name]).norm()))
        if limit != {"rank": 1000}:
            assert updates[name].rank == 2 == kept["rank"]
        else:
            assert updates[name].rank == min(tuned[name].flatten(1).shape)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_no_update_of_that_rank_is_nearer(rank: int) -> None:
    base, tuned = Checkpoint.of(model(0)), Checkpoint.of(model(1))
    adapter = extract_adapter(base, tuned, rank=rank)
    for name, update in read_adapter(adapter).items():
        change = (tuned[name] - base[name]).double().flatten(1)
        values = torch.linalg.svdvals(change)[: rank if rank < min(change.shape) else None].square()
        kept = float(values.sum() / change.square().sum())
        assert adapter.metadata["extraction"]["kept"][name]["energy"] == pytest.approx(kept, rel=1e-5)
        assert float((update.matrix() - change).square().sum() / change.square().sum()) == pytest.approx(1 - kept, abs=1e-5)


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.95])
def test_an_energy_takes_as_few_as_reach_it(energy: float) -> None:
    base, tuned = Checkpoint.of(model(0)), Checkpoint.of(model(1))
    for name, kept in extract_adapter(base, tuned, energy=energy).metadata["extraction"]["kept"].items():
        shares = torch.linalg.svdvals((tuned[name] - base[name]).flatten(1)).square().cumsum(0)
        shares = shares / shares[-1]
        assert shares[kept["rank"] - 1] >= energy - 1e-6
        assert kept["rank"] == 1 or shares[kept["rank"] - 2] < energy


def test_what_has_no_low_rank_update_is_listed_or_kept_whole(tmp_path: Path) -> None:
    base, tuned = model(0), {**model(1), "head.weight": torch.ones(3, 12), "head.bias": torch.ones(3)}
    pair = Checkpoint.of(base), Checkpoint.of(tuned)
    listed = extract_adapter(*pair, rank=2).metadata
    assert sorted(listed["extraction"]["left_out"]) == ["cls", "head.bias", "head.weight", "norm.weight", "up.bias"]
    assert listed["extraction"]["left_out"]["norm.weight"] == pytest.approx(float((tuned["norm.weight"] - base["norm.weight"]).norm()))
    assert (listed["adapter_config"]["bias"], listed["adapter_config"]["modules_to_save"]) == ("none", None)
    adapter = extract_adapter(*pair, rank=100, keep_whole=True)
    assert sorted(adapter.metadata["extraction"]["left_out"]) == ["cls"]
    config = adapter.metadata["adapter_config"]
    assert (config["bias"], config["modules_to_save"]) == ("lora_only", ["head", "norm"])
    applied = apply_adapter(pair[0], ws.open(save_adapter(adapter, tmp_path)))
    assert {name for name in tuned if distance(applied[name], tuned[name]) > 2e-6} == {"cls", "steps"}


def test_targets_choose_by_name() -> None:
    adapter = extract_adapter(Checkpoint.of(model(0)), Checkpoint.of(model(1)), rank=2, targets=r"^(up|conv)\.")
    assert sorted(read_adapter(adapter)) == ["conv.weight", "up.weight"]
    assert "wte.weight" in adapter.metadata["extraction"]["left_out"]


def test_updates_of_several_ranks_have_a_pattern_each() -> None:
    base, tuned = Checkpoint.of(model(0)), Checkpoint.of({**low_rank_change(2)[1], "up.weight": low_rank_change(5)[1]["up.weight"]})
    config = extract_adapter(base, tuned, energy=1 - 1e-9).metadata["adapter_config"]
    assert config["r"] == 5 and config["rank_pattern"] == {"conv": 2, "line": 2, "wte": 2, "up": 5} == config["alpha_pattern"]


def test_wide_models_are_taken_in_their_precision() -> None:
    base, tuned = ({name: tensor.double() for name, tensor in one.items()} for one in low_rank_change(2))
    tuned["up.weight"] = base["up.weight"] + torch.ones(12, 1, dtype=torch.float64) @ torch.arange(8, dtype=torch.float64)[None]
    adapter = extract_adapter(Checkpoint.of(base), Checkpoint.of(tuned), rank=1, targets="^up")
    assert distance(read_adapter(adapter)["up.weight"].matrix(), tuned["up.weight"] - base["up.weight"]) < 1e-12


def test_a_wrapper_s_prefix_is_left_off() -> None:
    base, tuned = (Checkpoint.of({f"module.{name}": tensor for name, tensor in model(seed).items()}) for seed in (0, 1))
    adapter = extract_adapter(base, tuned, rank=100, targets="up", keep_whole=True)
    assert "base_model.model.up.lora_A.weight" in adapter and "base_model.model.norm.weight" in adapter
    assert distance(apply_adapter(base, adapter)["module.up.weight"], tuned["module.up.weight"]) < 2e-6


def test_a_folder_is_written_whole_and_again_the_same(tmp_path: Path) -> None:
    adapter = extract_adapter(Checkpoint.of(model(0)), Checkpoint.of(model(1)), rank=2)
    folder = save_adapter(adapter, tmp_path / "new" / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    opened = ws.open(folder)
    assert opened.kind == "adapter" and opened.id == adapter.id
    assert opened.metadata["adapter_config"] == adapter.metadata["adapter_config"]
    save_adapter(opened, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_cannot_be_written_has_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        FormatError, match=r"expected an adapter with 'adapter_config' in its metadata, found none; make it with extract_adapter"
    ):
        save_adapter(Checkpoint.of(model(0)), tmp_path)
    (tmp_path / "file").write_text("")
    adapter = extract_adapter(Checkpoint.of(model(0)), Checkpoint.of(model(1)), rank=2)
    with pytest.raises(FormatError, match=r"file: cannot be written \(.*\); check the folder, its permissions and the free space"):
        save_adapter(adapter, tmp_path / "file")


WRONG: list[tuple[dict[str, Any], dict[str, Tensor], str]] = [
    ({}, {}, r"expected a rank or an energy to extract an adapter at, found neither; pass rank=16 or energy=0.95"),
    ({"rank": 0}, {}, r"expected a rank of 1 or more, found 0; pass rank=16"),
    ({"energy": 1.5}, {}, r"expected an energy above 0 and up to 1, found 1.5; pass energy=0.95"),
    ({"rank": 1, "targets": "("}, {}, r"'\(' is no regular expression \(.*\); correct targets="),
    (
        {"rank": 1, "targets": "nothing"},
        {},
        r"nothing to take out: no weight that was asked for differs between the two models; check targets=",
    ),
    (
        {"rank": 1},
        {"up.weight": torch.ones(13, 8)},
        r"tensor 'up.weight' is \[12, 8\] in the base and \[13, 8\] in the fine-tuned model, .*; resize",
    ),
]


@pytest.mark.parametrize(("asked", "other", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_requests_have_one_line_each(asked: dict[str, Any], other: dict[str, Tensor], message: str) -> None:
    with pytest.raises(MergeError) as caught:
        extract_adapter(Checkpoint.of(model(0)), Checkpoint.of({**model(1), **other}), **asked)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)


def test_models_of_other_names_have_nothing_in_common() -> None:
    with pytest.raises(
        MergeError, match="base and fine-tuned model have no tensor name in common; pass two checkpoints of one architecture"
    ):
        extract_adapter(Checkpoint.of(model(0)), Checkpoint.of({"z": torch.ones(2, 2)}), rank=1)
