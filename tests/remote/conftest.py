"""A hub for every test here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.hubs import Hub, running


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that is running."""
    with running(tmp_path, monkeypatch) as made:
        yield made
