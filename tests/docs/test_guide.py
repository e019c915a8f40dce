"""The guide keeps its word: every block of every wish runs as it stands, in a folder with the files that it names."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.docs.pages import blocks, run, run_lines, section, text
from tests.remote.hubs import running
from weightspace.zoo import Zoo

GUIDE = "docs/guide.md"
WISHES = re.findall(r"^## (I want .*)$", text(GUIDE), re.M)
EXAMS = """
def exam(state_dict):
    return {"loss": float(state_dict["fc1.weight"].square().mean()), "accuracy": 0.9}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, two that were fine-tuned from it, and a run."""
    place = tmp_path / "work"
    (place / "run").mkdir(parents=True)
    drawn = np.random.default_rng(0)
    shapes = {"fc1.weight": (64, 32), "fc1.bias": (64,), "fc2.weight": (4, 64), "fc2.bias": (4,)}
    base = {key: drawn.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    save_file(base, place / "base.safetensors")
    for name in ("maths", "code", "run/step-1", "run/step-2", "run/step-3"):
        tuned = {key: value + 0.1 * drawn.normal(size=value.shape).astype(np.float32) for key, value in base.items()}
        save_file(tuned, place / f"{name}.safetensors")
    (place / "exams.py").write_text(EXAMS)
    (place / "recipe.yaml").write_text(next(code for language, code in blocks(text(GUIDE)) if language == "yaml"))
    monkeypatch.chdir(place)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    Zoo(place).create()
    return place


def fulfil(wish: str, folder: Path) -> str:
    """Run the blocks of a wish in order; what they print."""
    printed = ""
    for language, code in blocks(section(GUIDE, wish)):
        if language == "sh" and "$(" not in code:
            printed += run_lines(code.splitlines())
        elif language == "sh":
            printed += run(["bash", "-euo", "pipefail", "-c", code], folder)
        elif language == "python":
            (folder / "script.py").write_text(code)
            printed += run([sys.executable, "script.py"], folder)
    return printed


def test_there_are_twelve_wishes() -> None:
    assert len(WISHES) == 12


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_is_fulfilled(wish: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "share" in wish:
        with running(folder.parent, monkeypatch):
            assert fulfil(wish, folder)
    else:
        assert fulfil(wish, folder)


def test_an_undone_merge_is_the_model_that_went_in(folder: Path) -> None:
    fulfil("I want to merge two models, and to be able to undo it", folder)
    assert (folder / "code-again.safetensors").read_bytes() != b""
    assert Zoo(folder).checkpoint("code-again.safetensors").id == Zoo(folder).checkpoint("code.safetensors").id


def test_every_command_of_the_guide_is_one() -> None:
    named = {
        shlex.split(line, comments=True)[1]
        for _, code in blocks(text(GUIDE))
        for line in code.splitlines()
        if line.startswith("weightspace ")
    }
    assert len(named) >= 25
