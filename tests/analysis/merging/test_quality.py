"""What merging is for: tuned merges are better than the base, and aligning comes before averaging networks of different seeds."""

from pathlib import Path

import pytest
import torch

from weightspace.analysis.merging.method import methods
from weightspace.experiments import merge_seeds, task_merging, tasks
from weightspace.experiments.tables import Estimate
from weightspace.experiments.tasks import Family, Variant, Weights, families


@pytest.mark.slow
def test_tuned_merges_are_better_than_the_base_and_worse_than_training_on_all_tasks() -> None:
    names = ("base", "trained on all tasks", "uniform average", "task_arithmetic", "ties", "regmean")
    rows = task_merging.run("mnist1d-mlp", 64, range(1), 300, None, names)
    found = {str(row["method"]).strip("*"): row[task_merging.NORMALISED] for row in rows}
    shares = {name: cell.mean for name, cell in found.items() if isinstance(cell, Estimate)}
    assert shares["single-task, each on its own"] == 1
    for name in names[2:]:
        assert shares["base"] + 0.03 < shares[name] < shares["trained on all tasks"], name
    assert shares["one of the eight, on all tasks"] < min(shares[name] for name in names[2:])


@pytest.mark.slow
def test_networks_of_different_seeds_are_aligned_before_they_are_averaged(tmp_path: Path) -> None:
    rows = merge_seeds.of_perceptrons(64, 1, 3, tmp_path)
    found = {(row["networks"], row["alignment"], row["mended"]): row["accuracy"] for row in rows}
    accuracy = {key: cell.mean for key, cell in found.items() if isinstance(cell, Estimate)}
    for size in (2, 3):
        best = accuracy[size, "*ensemble of logits*", ""]
        ways = ("weight", "activation") if size == 2 else merge_seeds.ALIGNMENTS[1:]
        for how in ways:
            assert accuracy[size, "none", "repair"] + 0.1 < accuracy[size, how, ""] < best
            assert accuracy[size, how, ""] < accuracy[size, how, "repair"] < best


def test_a_variant_shifts_and_mirrors_signals_and_renames_classes() -> None:
    variant = Variant("odd", shift=1, mirrored=True, sign=-1, names=(0, 1) * 5)
    assert variant.inputs(torch.arange(4.0)).tolist() == [0, -3, -2, -1]
    assert variant.classes(torch.tensor([3, 8])).tolist() == [1, 0]


def test_folding_counts_every_model_alike(generator: torch.Generator) -> None:
    directions = torch.linalg.qr(torch.randn(8, 4, generator=generator, dtype=torch.float64)).Q.T
    models: list[Weights] = [{"w": direction} for direction in directions]
    for name in ("slerp", "nuslerp"):
        made = task_merging.folded(methods[name], models[:2], None, {})["w"]
        torch.testing.assert_close(made, (directions[0] + directions[1]) / 2**0.5)
    shares = directions @ task_merging.folded(methods["slerp"], models, None, {})["w"]
    assert shares.min() > 0.35  # of an equal 0.5


def test_a_family_comes_back_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made,) = families("mnist1d-mlp", 4, [0], 2, tmp_path)
    monkeypatch.setattr(tasks, "_trained", None)
    (back,) = families("mnist1d-mlp", 4, [0], 2, tmp_path)
    assert isinstance(back, Family) and len(back.tuned) == len(back.heads) == 8
    assert torch.equal(made.tuned[7]["fc3.weight"], back.tuned[7]["fc3.weight"])
    assert torch.equal(made.heads[2]["bias"], back.heads[2]["bias"])
    assert not torch.equal(made.base["fc1.weight"], made.joint["fc1.weight"])
