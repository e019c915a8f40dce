"""The README keeps its word: its examples run, its tables name what there is."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import weightspace as ws
from weightspace.analysis.generation import generators
from weightspace.analysis.matching.match import methods
from weightspace.analysis.measure import measures
from weightspace.analysis.merging.method import methods as merge_methods
from weightspace.analysis.stitching import stitches
from weightspace.cli.main import app
from weightspace.formats import formats
from weightspace.metanets import metanets
from weightspace.zoo import Zoo
from weightspace.zoo.populations import populations

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def example(language: str) -> str:
    """The first example in a language."""
    return README.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def first_column(heading: str) -> list[str]:
    """The names in the first column of the table under a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.M)


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A folder as the examples expect it: `checkpoints` with two models and their test accuracies."""
    drawn = np.random.default_rng(0)
    for name, accuracy in (("wide", 0.9), ("narrow", 0.8)):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        shapes = {"fc1.weight": (16, 8), "fc1.bias": (16,), "fc2.weight": (4, 16)}
        save_file({key: drawn.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}, folder / "model.safetensors")
        (folder / "metrics.json").write_text(f'{{"test": {{"accuracy": {accuracy}}}}}')
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {key: value for key, value in os.environ.items() if key != "WEIGHTSPACE_ZOO"}
    done = subprocess.run(command, cwd=folder, env={**kept, "PATH": path}, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_example_runs(sandbox: Path) -> None:
    printed = run([sys.executable, "-c", example("python")], sandbox)
    assert printed.index("wide") < printed.index("narrow"), "sorted by accuracy"
    assert "(16, 8)" in printed
    assert Zoo(sandbox / "my-zoo").models("val_accuracy = .91").num_rows == 1


def test_shell_example_runs(sandbox: Path) -> None:
    printed = run(["bash", "-euo", "pipefail", "-c", example("sh")], sandbox)
    assert "wide" in printed and "F32" in printed
    assert (sandbox / "wide.safetensors").is_file()
    assert Zoo(sandbox).models("val_accuracy = .91").num_rows == 1


def test_alignment_example_runs(sandbox: Path) -> None:
    Zoo(sandbox / "my-zoo").add_many(list(populations["digits-mlp"](widths=[64], depths=[2], learning_rates=[0.1], repeats=2)))
    printed = run([sys.executable, "-c", README.split("```python\n")[2].split("```", 1)[0]], sandbox)
    assert "fc2.weight  fc2 fc1'" in printed and "proved" in printed
    *_, before, after = printed.split()
    assert float(after) < float(before) / 5
    assert (sandbox / "barrier.png").read_bytes().startswith(b"\x89PNG")


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
    section = README.split("\n## Merging\n")[1].split("\n## ")[0]
    recipe, shell, python = re.findall(r"```\w+\n(.*?)```", section, re.S)
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "search.yaml").write_text(recipe.replace("weight: 0.6", "weight: {search: [0, 1]}"))
    (tmp_path / "rules.yaml").write_text("accuracy: {min: 0.8}\nnonfinite: {max: 0}\n")
    (tmp_path / "exams.py").write_text(EXAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    printed = ""
    for line in ["weightspace init", *shell.splitlines()]:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.stderr}"
        printed += done.stdout
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
    shell, python = re.findall(r"```\w+\n(.*?)```", README.split("\n## What the weights say\n")[1].split("\n## ")[0], re.S)
    for line in ["weightspace init", *shell.splitlines()]:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.stderr}"
    assert ws.open(tmp_path / "code-again.safetensors").id == ws.open(tmp_path / "code.safetensors").id
    assert (tmp_path / "tails.png").is_file() and (tmp_path / "history.png").is_file()
    assert "stable_rank" in run([sys.executable, "-c", python], tmp_path)
    assert ws.open(tmp_path / "milder.safetensors").id


def test_metanet_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    shell, python = re.findall(r"```\w+\n(.*?)```", README.split("\n## Networks that eat weights\n")[1].split("\n## ")[0], re.S)
    printed = ""
    for line in ["weightspace init", *shell.splitlines()]:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.stderr}"
        printed += done.stdout
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG") and "a guess" in printed
    assert run([sys.executable, "-c", python], tmp_path).endswith("True\n")


def test_generation_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    shell, python = re.findall(r"```\w+\n(.*?)```", README.split("\n## New weights\n")[1].split("\n## ")[0], re.S)
    for line in ["weightspace init", *shell.splitlines()]:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "card.html").is_file() and Zoo(tmp_path).models("starts_with(name, 'f/')").num_rows == 5
    assert run([sys.executable, "-c", python], tmp_path).endswith("True\n")


def test_stitching_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WEIGHTSPACE_ZOO", raising=False)
    section = README.split("\n## Stitch and reuse\n")[1].split("\n## ")[0]
    shell, python = re.findall(r"```\w+\n(.*?)```", section, re.S)
    for line in ["weightspace init", *shell.splitlines()]:
        done = CliRunner().invoke(app, shlex.split(line, comments=True)[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "pareto.png").is_file() and Zoo(tmp_path).models("name = 'family'").num_rows == 1
    assert run([sys.executable, "-c", python], tmp_path).endswith("torch.Size([500, 3])\n")
    assert set(re.findall(r"`(\w+)`", section.split("are the kinds of stitches")[0].rsplit("\n", 1)[1])) == set(stitches)


def test_generation_table_names_every_generator() -> None:
    section = README.split("\n## New weights\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| (`.*?`) \|$", section, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(generators)


def test_metanet_table_names_every_family() -> None:
    section = README.split("\n## Networks that eat weights\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| (`.*?`) \|$", section, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(metanets)


def test_analysis_table_names_every_measure() -> None:
    section = README.split("\n## What the weights say\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| (`.*?`) \|$", section, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(measures)


def test_merging_table_names_every_method() -> None:
    section = README.split("\n## Merging\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(merge_methods)


def test_matching_table_names_every_method() -> None:
    assert sorted(first_column("Axes have names")) == sorted(methods)


def test_examples_are_ten_lines_or_so() -> None:
    assert all(len([line for line in example(language).splitlines() if line]) <= 12 for language in ("python", "sh"))


def test_formats_table_names_every_format() -> None:
    assert sorted(first_column("Formats")) == sorted(formats)


def test_catalog_table_names_every_table_and_view(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.create()
    there = zoo.sql("select table_name from information_schema.tables where table_schema = 'main'").column(0).to_pylist()
    assert sorted(first_column("The catalog")) == sorted(there)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_between_documents_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_of_the_documents_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        name
        for document in ("README.md", "CONTRIBUTING.md")
        for name in re.findall(r"^ +make ([a-z-]+)", (ROOT / document).read_text(), re.M)
    }
    assert {"demo", "test", "install"} <= named <= targets


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "pyproject.toml"])
def test_no_address_of_a_package_registry_is_named(document: str) -> None:
    assert not re.search(r"https?://|index-url|file:", (ROOT / document).read_text())
