"""The random networks of the experiment on graph hypernetworks, and its report."""

import json
from pathlib import Path

import torch

from weightspace.experiments import ghn
from weightspace.experiments.ghn_networks import CLASSES, INPUTS, Dag, plans
from weightspace.experiments.resumable import known


def test_architectures_are_all_different_and_run() -> None:
    drawn = plans(60)
    assert len(set(drawn)) == 60 and drawn[:10] == plans(10)
    assert {plan.kind for plan in drawn} == {"mlp", "cnn"} and {plan.has_skips for plan in drawn} == {False, True}
    for plan in drawn:
        module = Dag(plan).eval()
        assert module(torch.randn(2, INPUTS)).shape == (2, CLASSES)
        assert 100 < sum(tensor.numel() for tensor in module.parameters()) < 20_000


def test_work_is_the_same_whatever_is_known_and_holds_every_arm() -> None:
    work = ghn.work(5)
    assert len(set(work)) == len(work) and {arm for arm, _ in work} == {ghn.TRAINED, ghn.KAIMING, ghn.INITIAL, *ghn.ARMS}
    assert [seed for arm, seed in work if arm == ghn.FIRST] == list(range(5))


def test_the_report_pairs_networks_and_counts_steps(tmp_path: Path) -> None:
    wanted = max(ghn.REACHED)
    rows = [
        {"arm": ghn.TRAINED, "unseen": [0.9] * ghn.UNSEEN, "curves": [[0.1, 0.2, wanted]] * ghn.UNSEEN},
        {"arm": ghn.FIRST, "unseen": [0.5] * ghn.UNSEEN, "seen": [0.6]},
        {"arm": "GHN-3 layers", "unseen": [0.3] * ghn.UNSEEN, "seen": [0.6]},
        {"arm": ghn.INITIAL, "unseen": [0.5], "curves": [[0.1, wanted, wanted]] * ghn.TUNED},
    ]
    results = tmp_path / "results.jsonl"
    results.write_text("\n".join(json.dumps({"seed": 0, "cpu": 1.0, **row}) for row in rows))
    lines = "\n".join(ghn.report(known(results))).splitlines()
    assert "| GHN-2 | 0.500 | 0.600 |  | 0.50 | 1 | 1 |" in lines
    assert "| GHN-3 layers | 0.300 | 0.600 | -0.200 ± 0.000 | 0.25 | 1 | 1 |" in lines
    assert f"| {wanted} | 40.000 | 20.000 | 20.000 | {ghn.TUNED} | 0 |" in lines
