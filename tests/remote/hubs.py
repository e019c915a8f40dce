"""A loopback hub with small models on it, which our own code asks as it would ask the Hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi
from safetensors.numpy import save_file

from tests.hub.loopback_hub import loopback_hub
from tests.hub.loopback_requests import Settings


@dataclass
class Hub:
    """A hub that is running.

    Attributes:
        url: its address.
        settings: how it behaves.
        folder: for files on their way.
    """

    url: str
    settings: Settings
    folder: Path

    @property
    def api(self) -> HfApi:
        """The real client."""
        return HfApi(endpoint=self.url, token="any")

    def model(
        self, name: str, seed: int = 0, *, width: int = 8, card: str = "license: mit", files: Mapping[str, Any] | None = None
    ) -> Path:
        """Upload a model; returns the folder that it came from."""
        folder = self.folder / name.replace("/", "--") / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).normal(size=(width, width)).astype(np.float32)
        for file, tensors in (files or {"model.safetensors": {"fc.weight": values, "fc.bias": values[0].copy()}}).items():
            save_file(tensors, folder / file, {"format": "pt"})
        (folder / "config.json").write_text('{"model_type": "toy", "architectures": ["Toy"]}')
        (folder / "README.md").write_text(f"---\n{card}\n---\n# A toy\n")
        self.api.create_repo(name, exist_ok=True)
        self.api.upload_folder(repo_id=name, folder_path=folder)
        self.settings.sent.clear()
        return folder

    def bytes_of(self, ending: str) -> int:
        """Bytes handed out of files whose path ends so."""
        return sum(size for path, size in self.settings.sent if path.endswith(ending))


@contextmanager
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Hub]:
    """A hub that the environment names, with a login and a cache of its own."""
    made = Settings(**settings)
    with loopback_hub(tmp_path / "hub", made) as url:
        for name, value in {"HF_ENDPOINT": url, "HF_TOKEN": "any", "WEIGHTSPACE_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        yield Hub(url, made, tmp_path / "uploads")
