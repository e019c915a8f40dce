"""Intruders of real fine-tunes and of a real adapter, the latter on a base made by code, since its own is not here."""

from pathlib import Path

import torch

import weightspace as ws
from tests.analysis.intruders.planted import counted, drawn
from weightspace.adapters import apply_adapter, read_adapter
from weightspace.analysis.intruders import intruder_dimensions, mitigate
from weightspace.analysis.layers import layers
from weightspace.checkpoint import Checkpoint


def test_a_fine_tuned_text_generator_has_no_more_than_chance_gives(real_checkpoints: Path, generator: torch.Generator) -> None:
    base, tuned = (ws.open(real_checkpoints / "textgenrnn" / f"{name}.hdf5") for name in ("base", "hacker_news"))
    found = intruder_dimensions(base, tuned, null=9, generator=generator)
    by_hand = {one.name: counted(one.matrix(base[one.name]), one.matrix(tuned[one.name])) for one in layers(base)}
    assert {one.name: one.count for one in found.layers} == by_hand and found.count == 5 and found.guarded < found.count
    assert found.p is not None and found.p > 0.2
    assert set(found.skipped) == {"embedding/embedding/embeddings:0"}


def test_of_one_start_the_fine_tune_has_none_and_the_run_of_its_own_has_some(real_checkpoints: Path) -> None:
    folder = real_checkpoints / "outlier-exposure"
    base, tuned, other = (ws.open(folder / f"{name}.pt") for name in ("baseline_epoch_9", "oe_tune_epoch_4", "oe_scratch_epoch_9"))
    near, far = intruder_dimensions(base, tuned), intruder_dimensions(base, other)
    assert (near.left, near.right) == (0, 0) and far.left + far.right > 0


def test_a_published_adapter_is_read_scaled_and_put_back(real_checkpoints: Path) -> None:
    adapter = read_adapter(ws.open(real_checkpoints / "microsoft-lora" / "roberta_base_lora_mnli.bin"), alpha=8.0)
    names = [name for name in adapter if ".layer.0.attention.self.query" in name]
    table = drawn(768, 768) * 0.03
    base = Checkpoint.of({name: table.clone() for name in adapter.factors})
    pattern = "*.layer.0.attention.self.query*"
    found = intruder_dimensions(base, adapter, layers=pattern)
    assert [one.name for one in found.layers] == names and found.count > 0
    mended = mitigate(base, adapter, 0.0, "all", layers=pattern)
    model = mitigate(base, adapter, 0.0, "all", layers=pattern, merged=True)
    for name in names:
        there = apply_adapter(base, mended)[name]
        assert float((there - model[name]).norm() / model[name].norm()) < 1e-5
    other = next(name for name in adapter if name not in names).removesuffix(".weight")
    assert torch.equal(mended[f"base_model.model.{other}.lora_B.weight"], adapter.checkpoint[f"{other}.lora_B"])
