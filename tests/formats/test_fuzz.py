"""Damaged files of every registered format: read, or refused in one clear line; never run, hung on, or paid for with memory."""

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import weightspace as ws
from tests.formats.bounds import bounded, check
from tests.formats.corpus import Sample, makers, samples
from tests.formats.mutations import mutant, payloads
from weightspace.errors import FormatError
from weightspace.formats import formats, sniff
from weightspace.zoo import Zoo
from weightspace.zoo.discover import discover

CHILDREN = ("keras", "keras_h5")  # read in child processes, a third of a second each


def outcome(path: Path) -> str:
    """Open a file and read all its tensors: `opened`, or the reason for which it was refused."""
    where = path if path.is_dir() else path.parent
    with bounded(str(path)):
        try:
            checkpoint = ws.open(path)
            for name, info in checkpoint.info.items():
                assert len(checkpoint.raw(name)) == info.nbytes, name
                with contextlib.suppress(FormatError):  # torch lacks some dtypes
                    assert checkpoint.format in CHILDREN or checkpoint[name].numel() >= info.numel // 2, name
            assert len(checkpoint.architecture_id) == 64 and repr(checkpoint).isprintable()
        except FormatError as error:
            check(error, where)
            return error.reason
    return "opened"


@dataclass
class Tally:
    """What became of the mutants of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")

    def run(self, path: Path, name: str) -> None:
        started = time.perf_counter()
        self.outcomes[outcome(path)] += 1
        self.slowest = max(self.slowest, (time.perf_counter() - started, name))

    def __str__(self) -> str:
        return f"{dict(sorted(self.outcomes.items()))}, slowest {self.slowest[0]:.2f} s ({self.slowest[1]})"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sample]]:
    return {format: samples(format, tmp_path_factory.mktemp("corpus")) for format in makers}


def sampled(corpus: dict[str, list[Sample]], format: str) -> list[Sample]:
    assert format in corpus, f"format '{format}' has no maker in tests/formats/corpus.py"
    return corpus[format]


@pytest.mark.parametrize("format", formats)
def test_every_format_has_samples_that_open(corpus: dict[str, list[Sample]], format: str, tmp_path: Path) -> None:
    for number, sample in enumerate(sampled(corpus, format)):
        path = sample.write(tmp_path / str(number))
        found = sniff(path)
        assert found is not None and found.name == format
        assert outcome(path) == ("opened" if format != "pickle" else "needs-code" if "joblib" in path.name else "unsupported")


@pytest.mark.parametrize("payload", payloads(""))
def test_the_payloads_do_run_when_they_are_unpickled(payload: str, tmp_path: Path) -> None:
    """Otherwise a canary that stays away would prove nothing."""
    canary = tmp_path / "canary"
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({payloads(str(canary))[payload] + b'.'!r})"], check=True)
    assert canary.exists()


@pytest.mark.parametrize("format", formats)
def test_mutants_are_read_or_refused_in_one_line(corpus: dict[str, list[Sample]], format: str, tmp_path: Path) -> None:
    whole, canary, tally = sampled(corpus, format), tmp_path / "canary", Tally()
    for seed in range(10 if format in CHILDREN else 25):
        made, name = mutant(whole[seed % len(whole)], seed, str(canary))
        tally.run(made.write(tmp_path / str(seed)), f"{seed}: {name}")
    assert not canary.exists()
    assert tally.outcomes.total() - tally.outcomes["opened"] >= 3, tally


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("format", formats)
def test_many_mutants_one_by_one_and_in_an_ingest(
    corpus: dict[str, list[Sample]], format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, canary, tally = sampled(corpus, format), tmp_path / "canary", Tally()
    tree = tmp_path / "tree"
    for seed in range(1000, 1000 + int(os.environ.get("WEIGHTSPACE_MUTANTS", "135"))):
        made, name = mutant(whole[seed % len(whole)], seed, str(canary))
        tally.run(made.write(tree / str(seed)), f"{seed}: {name}")
    found = list(discover([tree]))
    report = Zoo(tmp_path / "zoo").ingest([tree], jobs=2)
    assert report.catalogued + report.passed_over + len(report.quarantined) == len(found)
    for refusal in report.quarantined:
        line = f"{refusal.detail}; {refusal.advice}"
        assert line.isprintable() and refusal.reason in FormatError.REASONS and refusal.advice
        assert "reader failed" not in line and "process that read it died" not in line, line
        assert str(tree) in refusal.detail
    assert not canary.exists()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    with capsys.disabled():
        print(f"\n{format}: {tally}; ingest of {len(found)} in {report.seconds:.1f} s: {report.catalogued} catalogued, "
              f"{report.passed_over} passed over, {len(report.quarantined)} quarantined; peak {peak} MiB")  # fmt: skip
