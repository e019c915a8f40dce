"""Fixtures that tests of every part share."""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

    from weightspace.zoo import Zoo

# Read when huggingface_hub is imported, which some test may do at any moment: no chunked storage, and no word to anybody.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens there: no test may leave this machine

# A shell may have started us with Ctrl-C ignored, and what a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first example of a test may import much, and a loaded machine is slow: how long one takes says nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_checkpoints() -> Path:
    """The folder of real checkpoints, named by WEIGHTSPACE_REAL_CHECKPOINTS or lying beside the repository."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "real_checkpoints"
    folder = Path(os.environ.get("WEIGHTSPACE_REAL_CHECKPOINTS", beside))
    if not folder.is_dir():
        pytest.skip(f"no real checkpoints at {folder}")
    return folder


@pytest.fixture
def generator() -> "torch.Generator":
    """A source of random numbers that every run draws the same from."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_zoo(tmp_path: Path) -> "Zoo":
    """A zoo of two trained-looking models `a` and `b` and a copy of `a`, with accuracies recorded beside them."""
    from safetensors.numpy import save_file

    from weightspace.zoo import Zoo

    drawn = np.random.default_rng(0)
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        weights = {"fc1.weight": drawn.normal(size=(8, 4)), "fc1.bias": drawn.normal(size=8), "fc2.weight": drawn.normal(size=(3, 8))}
        save_file({key: value.astype(np.float32) for key, value in weights.items()}, folder / "model.safetensors")
        (folder / "metrics.json").write_text(f'{{"test": {{"accuracy": {accuracy}}}}}')
    copy = tmp_path / "checkpoints" / "copy of a" / "model.safetensors"
    copy.parent.mkdir()
    copy.write_bytes((tmp_path / "checkpoints" / "a" / "model.safetensors").read_bytes())
    zoo = Zoo(tmp_path)
    zoo.ingest(tmp_path / "checkpoints")
    return zoo
