"""A small zoo made once by code, and the command line run in it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from weightspace.cli.main import app

Run = Callable[..., Result]

HOSTILE = ("\x1b[31mred\x1b[0m.weight", "line\nbreak", "[red]markup[/red]", "tab\there", "bell\x07\x9b2J", "right\u202eto left")


def mlp(seed: int, width: int = 8) -> dict[str, npt.NDArray[Any]]:
    draw = np.random.default_rng(seed)
    return {
        "fc1.weight": draw.normal(size=(width, 4)).astype(np.float32),
        "fc1.bias": np.zeros(width, np.float32),
        "fc2.weight": draw.normal(size=(2, width)).astype(np.float32),
        "fc2.bias": draw.normal(size=2).astype(np.float32),
    }


def tower(layers: int) -> dict[str, npt.NDArray[Any]]:
    draw = np.random.default_rng(9)
    tensors = {"embed.weight": draw.normal(size=(32, 4)).astype(np.float16)}
    for at in range(layers):
        tensors[f"layers.{at}.attn.weight"] = draw.normal(size=(4, 4)).astype(np.float16)
        tensors[f"layers.{at}.norm.weight"] = np.ones(4, np.float16)
    return tensors


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints, logs and a zoo over them; tests get copies of it."""
    place = tmp_path_factory.mktemp("made")
    base = mlp(0)
    save_file(base, place / "base.safetensors")
    tuned = base | {"fc1.weight": base["fc1.weight"] + np.float32(0.01), "head.bias": np.ones(3, np.float32)}
    save_file(tuned, place / "tuned.safetensors")
    folder = place / "checkpoints"
    folder.mkdir()
    save_file(base, folder / "copy.safetensors")
    np.savez(folder / "wide.npz", allow_pickle=False, **mlp(1, width=64))
    save_file(tower(12), folder / "tower.safetensors")
    save_file({"w": np.array([1, np.nan, np.inf, 0], np.float32)}, folder / "unsound.safetensors")
    save_file({name: np.full(3, at, np.float32) for at, name in enumerate(HOSTILE)}, folder / "hostile.safetensors")
    whole = (place / "base.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-8])
    (folder / "notes.txt").write_text("not a checkpoint")
    (place / "log.csv").write_text("step,loss,seed\n1,0.9,3\n2,0.5,3\n")
    (place / "history.jsonl").write_text("".join(json.dumps({"step": at, "loss": 1 / at}) + "\n" for at in (1, 2)))
    runner = CliRunner()
    for line in (
        ["ingest", str(place), "--zoo", str(place), "--jobs", "1"],
        ["record", "base", "accuracy=0.91", "--split", "test", "--zoo", str(place)],
        ["record", "tuned", "test_accuracy=0.95", "train_loss=0.25", "--zoo", str(place)],
        ["tag", "base", "best", "team=vision", "--zoo", str(place)],
    ):
        result = runner.invoke(app, line, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return place


@pytest.fixture
def sandbox(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, as the working folder."""
    place = tmp_path / "sandbox"
    shutil.copytree(made, place, copy_function=_copy)
    monkeypatch.chdir(place)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    return place


def _copy(source: str, target: str) -> None:
    """Copy with times to the nanosecond, so that a catalogued file is the one that was read."""
    shutil.copyfile(source, target)
    status = Path(source).stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def run(sandbox: Path) -> Run:
    """Run a command line in the sandbox; an exception that is no user error fails the test."""
    runner = CliRunner()

    def invoke(*arguments: str, code: int = 0, input: str | None = None, columns: int = 100) -> Result:
        result = runner.invoke(
            app, list(arguments), input=input, catch_exceptions=False, env={"COLUMNS": str(columns), "TERMINAL_WIDTH": ""}
        )
        assert result.exit_code == code, f"{arguments} ended with {result.exit_code}:\n{result.stdout}\n{result.stderr}"
        return result

    return invoke
