"""The tour keeps its word: its examples run, its tables name what there is."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import weightspace as ws
from tests.docs.pages import blocks, first_column, run, run_lines, section
from weightspace.analysis.generation import generators
from weightspace.analysis.matching.match import methods
from weightspace.analysis.measure import measures
from weightspace.analysis.merging.method import methods as merge_methods
from weightspace.analysis.stitching import stitches
from weightspace.metanets import metanets
from weightspace.zoo import Zoo
from weightspace.zoo.populations import populations

TOUR = "docs/tour.md"


def test_alignment_example_runs(tmp_path: Path) -> None:
    Zoo(tmp_path / "my-zoo").add_many(list(populations["digits-mlp"](widths=[64], depths=[2], learning_rates=[0.1], repeats=2)))
    printed = run([sys.executable, "-c", dict(blocks(section(TOUR, "Axes have names")))["python"]], tmp_path)
    assert "fc2.weight  fc2 fc1'" in printed and "proved" in printed
    *_, before, after = printed.split()
    assert float(after) < float(before) / 5
    assert (tmp_path / "barrier.png").read_bytes().startswith(b"\x89PNG")


MERGED = "base", "maths", "code"
EXAMS = """
def exam(state_dict):
    return {"loss": float(state_dict["fc1.weight"].square().mean()), "accuracy": 0.9}
"""


def test_merging_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0)
    shapes = {"fc1.weight": (16, 8), "fc1.bias": (16,), "fc2.weight": (4, 16), "fc2.bias": (4,)}
    base = {key: drawn.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    for name in MERGED:
        tuned = {key: value + (name != "base") * drawn.normal(size=value.shape).astype(np.float32) / 10 for key, value in base.items()}
        save_file(tuned, tmp_path / f"{name}.safetensors")
    chapter = section(TOUR, "Merging")
    recipe, shell, python = (text for _, text in blocks(chapter))
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "search.yaml").write_text(recipe.replace("weight: 0.6", "weight: {search: [0, 1]}"))
    (tmp_path / "rules.yaml").write_text("accuracy: {min: 0.8}\nnonfinite: {max: 0}\n")
    (tmp_path / "exams.py").write_text(EXAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    printed = run_lines(["weightspace init", *shell.splitlines()])
    assert "merge_method: ties" in printed and "made from   code (merge)" in printed
    assert ws.open(tmp_path / "code-again.safetensors").id == ws.open(tmp_path / "code.safetensors").id
    assert (tmp_path / "maths-only.safetensors").is_file() and (tmp_path / "best.safetensors").is_file()
    assert run([sys.executable, "-c", python], tmp_path).endswith("True\n")


def test_analysis_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0)
    shapes = {"fc1.weight": (64, 32), "fc1.bias": (64,), "fc2.weight": (4, 64), "fc2.bias": (4,)}
    base = {key: drawn.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    (tmp_path / "run").mkdir()
    for place in (*(f"{name}.safetensors" for name in ("maths", "code", "noisy")), "run/step-1.safetensors", "run/step-2.safetensors"):
        change = 10 if place.startswith("maths") else 0.1  # it has intruders
        save_file(
            {key: value + change * drawn.normal(size=value.shape).astype(np.float32) for key, value in base.items()}, tmp_path / place
        )
    save_file(base, tmp_path / "base.safetensors")
    (tmp_path / "exams.py").write_text(EXAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    shell, python = (text for _, text in blocks(section(TOUR, "What the weights say")))
    run_lines(["weightspace init", *shell.splitlines()])
    assert ws.open(tmp_path / "code-again.safetensors").id == ws.open(tmp_path / "code.safetensors").id
    assert (tmp_path / "tails.png").is_file() and (tmp_path / "history.png").is_file()
    assert "stable_rank" in run([sys.executable, "-c", python], tmp_path)
    assert ws.open(tmp_path / "milder.safetensors").id


def test_metanet_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    shell, python = (text for _, text in blocks(section(TOUR, "Networks that eat weights")))
    printed = run_lines(["weightspace init", *shell.splitlines()])
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG") and "a guess" in printed
    assert run([sys.executable, "-c", python], tmp_path).endswith("True\n")


def test_generation_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    shell, python = (text for _, text in blocks(section(TOUR, "New weights")))
    run_lines(["weightspace init", *shell.splitlines()])
    assert (tmp_path / "card.html").is_file() and Zoo(tmp_path).models("starts_with(name, 'f/')").num_rows == 5
    assert run([sys.executable, "-c", python], tmp_path).endswith("True\n")


def test_stitching_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    chapter = section(TOUR, "Stitch and reuse")
    shell, python = (text for _, text in blocks(chapter))
    run_lines(["weightspace init", *shell.splitlines()])
    assert (tmp_path / "pareto.png").is_file() and Zoo(tmp_path).models("name = 'family'").num_rows == 1
    assert run([sys.executable, "-c", python], tmp_path).endswith("torch.Size([500, 3])\n")
    assert set(re.findall(r"`(\w+)`", chapter.split("are the kinds of stitches")[0].rsplit("\n", 1)[1])) == set(stitches)


def test_generation_table_names_every_generator() -> None:
    chapter = section(TOUR, "New weights")
    rows = re.findall(r"^\| [^|]+ \| (`.*?`) \|$", chapter, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(generators)


def test_metanet_table_names_every_family() -> None:
    chapter = section(TOUR, "Networks that eat weights")
    rows = re.findall(r"^\| [^|]+ \| (`.*?`) \|$", chapter, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(metanets)


def test_analysis_table_names_every_measure() -> None:
    chapter = section(TOUR, "What the weights say")
    rows = re.findall(r"^\| [^|]+ \| (`.*?`) \|$", chapter, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(measures)


def test_merging_table_names_every_method() -> None:
    chapter = section(TOUR, "Merging")
    rows = re.findall(r"^\| (`.*?`) \|", chapter, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(merge_methods)


def test_matching_table_names_every_method() -> None:
    assert sorted(first_column(section(TOUR, "Axes have names"))) == sorted(methods)
