"""What the experiment on forgetting rests on: adapters are what they claim to be, controls are as large as they should be, runs can be resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from weightspace.analysis.intruders import intruder_dimensions
from weightspace.experiments import forgetting_report, intruder_forgetting
from weightspace.experiments.forgetting_measures import Base, Change, counts, directions, scaled
from weightspace.experiments.forgetting_report import rank_correlation
from weightspace.experiments.forgetting_training import Half, Size, matrices, tune, with_updates
from weightspace.experiments.gpt import GPT, windows


@pytest.fixture
def base() -> GPT:
    torch.manual_seed(0)
    return GPT(11, 16, 1, 2)


@pytest.fixture
def half(generator: torch.Generator) -> Half:
    text = torch.randint(11, (600,), generator=generator)
    seen = windows(text, torch.arange(4))
    return Half(text, seen, seen)


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_a_tuned_network_is_the_base_with_updates_of_the_rank(base: GPT, half: Half, rank: int | None) -> None:
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    tuned = tune(base, half, rank, 1e-2, seed=0, target=0.0, most_steps=5)
    assert tuned.steps == 5 and not tuned.is_matched
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert {name: update.shape for name, update in tuned.updates.items()} == {name: matrix.shape for name, matrix in matrices(base).items()}
    ranks = {int(torch.linalg.matrix_rank(update)) for update in tuned.updates.values()}
    assert ranks == ({rank} if rank else {16})
    moved = with_updates(base, tuned.updates).state_dict()
    torch.testing.assert_close(moved["blocks.0.up.weight"], before["blocks.0.up.weight"] + tuned.updates["blocks.0.up.weight"])
    assert torch.equal(moved["head.weight"], before["head.weight"])


def test_tuning_ends_where_the_loss_is_low_enough(base: GPT, half: Half) -> None:
    tuned = tune(base, half, 1, 1e-3, seed=0, target=10.0, most_steps=50)
    assert tuned.is_matched and tuned.steps == 5


def planted(generator: torch.Generator) -> tuple[dict[str, Base], dict[str, torch.Tensor]]:
    """A base with a steep spectrum, and an update with one large direction that is none of the base's."""
    u, v = (torch.linalg.qr(torch.randn(side, 32, generator=generator)).Q for side in (64, 32))
    base = u * 0.8 ** torch.arange(32) @ v.T
    one = torch.outer(torch.randn(64, generator=generator), torch.randn(32, generator=generator))
    return {"w": Base.of(base)}, {"w": 0.9 * one / one.norm() + 0.001 * torch.randn(64, 32, generator=generator)}


def test_intruders_are_those_that_the_library_counts(generator: torch.Generator) -> None:
    bases, updates = planted(generator)
    found = counts(bases, updates)
    assert found["intruders"] >= 1
    for side, key in (("left", "intruders"), ("right", "right")):
        assert intruder_dimensions(bases["w"].matrix, bases["w"].matrix + updates["w"].double(), side=side).count == found[key]


def test_controls_are_as_large_as_they_should_be(generator: torch.Generator) -> None:
    bases, updates = planted(generator)
    made = {kind: along["w"] for kind, along in directions(bases, updates).items()}
    change = Change.of(bases["w"], updates["w"])
    first = change.intruders[0]
    assert made["intruder"].norm().item() == pytest.approx(change.s[first].item(), rel=1e-5)
    assert float((made["rest of the update"] * made["intruder"]).sum()) == pytest.approx(0, abs=1e-5)
    assert made["rest of the update"].norm() <= made["intruder"].norm()
    for kind in ("intruder", "neighbour"):
        taken = bases["w"].matrix + scaled(updates, {"w": made[kind]}, 0.0)["w"]
        assert int(torch.linalg.matrix_rank(taken, atol=1e-5)) == 31, kind
    assert torch.equal(scaled(updates, {"w": made["intruder"]}, 1.0)["w"], updates["w"])


def test_a_permutation_test_knows_order_from_chance() -> None:
    ranks = np.arange(10.0)
    assert rank_correlation(ranks, ranks).startswith("1.00 (p < 0.0002)")
    assert rank_correlation(ranks, np.array([5, 1, 8, 3, 9, 0, 6, 2, 7, 4.0])).partition("(p ")[2] > "0.1"
    assert rank_correlation(ranks, np.ones(10)) == "-"


def test_a_quick_run_ends_in_tables_and_a_second_call_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = Size(width=32, blocks=1, modules=8, pre_steps=10, most_steps=10, windows=4, final_windows=8)
    tiny = intruder_forgetting.Plan(size, ranks=(None, 2), full_rates=(1e-2,), rates=(1e-1, 1.0), seeds=2, target=3.5)
    monkeypatch.setattr(intruder_forgetting, "QUICK", tiny)
    monkeypatch.setattr(forgetting_report, "PERMUTATIONS", 100)
    monkeypatch.setattr("sys.argv", ["intruder_forgetting", "--quick", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")])
    intruder_forgetting.main()
    first, lines = capsys.readouterr().out, (tmp_path / "cache" / "runs.jsonl").read_text()
    assert len(lines.splitlines()) >= 5 and json.loads(lines.splitlines()[0])["rank"] is None
    assert (tmp_path / "out" / "intruder_forgetting.png").stat().st_size > 10_000
    intruder_forgetting.main()
    again = capsys.readouterr().out
    assert (tmp_path / "cache" / "runs.jsonl").read_text() == lines
    assert first[first.index("by method, fewest steps\n") :] == again[again.index("by method, fewest steps\n") :]
