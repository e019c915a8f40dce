"""What the tables on signatures rest on: what corrupts examples, and what networks are patched with."""

import sys
from pathlib import Path

import pytest
import torch

from weightspace.experiments import signatures
from weightspace.experiments.networks import cnn
from weightspace.experiments.signature_bench import Bench, moved_by
from weightspace.experiments.signature_models import IMAGES, SIDE, SIGNALS, Setting, networks


@pytest.mark.parametrize("corruption", [*(("image", name) for name in IMAGES), *(("signal", name) for name in SIGNALS)], ids="-".join)
def test_a_corruption_changes_every_example_and_keeps_its_shape(corruption: tuple[str, str], generator: torch.Generator) -> None:
    kind, name = corruption
    inputs = torch.rand(6, SIDE * SIDE if kind == "image" else 40, generator=generator)
    found = (IMAGES if kind == "image" else SIGNALS)[name](inputs, generator)
    assert found.shape == inputs.shape and found.isfinite().all()
    assert ((found - inputs).abs().amax(1) > 0.05).all()


def test_what_covers_an_image_is_a_square(generator: torch.Generator) -> None:
    found = IMAGES["occlusion"](torch.zeros(5, SIDE * SIDE), generator).view(5, SIDE, SIDE)
    assert (found.sum((1, 2)) == 13 * 13).all()
    assert (found.amax(1).sum(1) == 13).all() and (found.amax(2).sum(1) == 13).all()


@pytest.fixture
def bench(generator: torch.Generator) -> Bench:
    inputs, classes = torch.randn(64, 40, generator=generator), torch.randint(10, (64,), generator=generator)
    parts = {"a": (inputs, classes), "b": (inputs, classes)}
    some = dict(list(SIGNALS.items())[:2])
    given = Setting("mnist1d", cnn(40, 1, 3, 4, norm=True), some, None, parts, parts, parts)
    return Bench(given, 0, networks(given, 0, 3))


def test_the_task_vector_is_a_signature_with_nothing_taken_off(bench: Bench) -> None:
    start, robust = bench.trained.start, bench.trained.robust["noise"]
    patched = bench.patched(bench.unprojected("noise"), "noise", "replaced")(1.0)
    for name, tensor in moved_by(bench.standard, robust, start).items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(patched[name], tensor)
    assert not torch.allclose(patched["conv1.weight"], bench.patched(bench.signatures["noise"], "noise", "kept")(1.0)["conv1.weight"])


def test_chance_is_as_long_as_the_signature(bench: Bench) -> None:
    own = bench.signatures["blur"]
    for name, change in bench.chance(own).items():
        torch.testing.assert_close(change.norm(), own[name].norm(), rtol=1e-3, atol=1e-6)
    assert bench.chance(own).norms == own.norms


def test_statistics_measured_anew_are_those_of_corrupted_examples(bench: Bench) -> None:
    found = bench.anew(bench.standard, "noise")
    inputs, _ = bench.corrupted("noise", bench.setting.learn["a"], 3)
    first = torch.nn.functional.conv1d(inputs[:, None], bench.standard["conv1.weight"], bench.standard["conv1.bias"], 2, 1)
    torch.testing.assert_close(found["norm1.running_mean"], first.mean((0, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_all_tables_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["signatures", "mnist1d", "--quick", "--out", str(tmp_path), "--cache", str(tmp_path / "cache")])
    signatures.main()
    assert {f"signatures-mnist1d-{name}.md" for name in signatures.TABLES} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "signatures-mnist1d-strength.png").stat().st_size > 5000
