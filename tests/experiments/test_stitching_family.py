"""The experiment on families of stitched networks, with networks and data as small as can be."""

import argparse
from pathlib import Path

import pytest
import torch

from weightspace.experiments import data
from weightspace.experiments import stitching_family as experiment
from weightspace.experiments.data import Examples
from weightspace.experiments.resumable import known
from weightspace.experiments.stitching_family_tables import gain, tables


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    monkeypatch.setattr(data, "load", lambda name: Examples(x[:150], y[:150], x[150:], y[150:]))
    family = experiment.Family("points", experiment.perceptron(6), ((2, 1), (3, 2), (5, 3)), 20, 20, 1e-3)
    monkeypatch.setattr(experiment, "FAMILIES", {"points": family})


@pytest.mark.slow
def test_every_variant_is_measured_once_and_told(tiny: None, tmp_path: Path) -> None:
    variants = ["default", "random stitches", "frozen anchors", "controls", "alone", "distilled"]
    options = argparse.Namespace(data=["points"], seeds=1, first=0, variants=variants, results=tmp_path / "results.jsonl", tune=False)
    experiment.run(options)
    experiment.run(options)
    rows = known(options.results)
    assert [row["variant"] for row in rows] == variants
    frozen = rows[2]
    assert all(frozen[f"anchor {at}"] == frozen[f"zero-shot anchor {at}"] for at in range(3))
    text = "\n".join(tables(rows))
    for said in (
        "least squares",
        "raw input",
        "random stitches",
        "frozen anchors",
        "in the family, alone",
        "distilled from scratch",
        "**w2d1**",
    ):
        assert said in text
    assert all(row["distilled 0 flops"] <= row["stitch 0 flops"] for row in rows[-1:])


def test_what_tunes_is_not_what_is_judged_by(tiny: None) -> None:
    tuning, judging = (experiment.Material.of("points", tune=tune) for tune in (True, False))
    assert len(tuning.train) == 120 and len(tuning.test) == 30 and len(judging.train) == 150
    assert torch.equal(torch.cat([tuning.train, tuning.test]), judging.train)


def test_a_gain_is_over_the_better_of_both_networks_before_or_after() -> None:
    one = {"rows": [[0, "a", True, 1.0, 0.5, 0.6, True, False], [1, "b", True, 3.0, 0.8, 0.7, True, False]]}
    assert gain(one, [2, "a:x > b:y", False, 2.0, 0.1, 0.85, True, True]) == pytest.approx(0.05)
