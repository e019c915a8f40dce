"""The bench of these tests."""

from pathlib import Path

import pytest

from tests.analysis.merging.bench import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    return Bench(tmp_path)
