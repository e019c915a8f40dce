"""The README keeps its word: its examples run, and what the documents name is there."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.test_main import commands
from tests.docs.pages import ROOT, blocks, run, text
from weightspace.zoo import Zoo

EXAMPLES = dict(blocks(text("README.md")))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]


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


def test_python_example_runs(sandbox: Path) -> None:
    printed = run([sys.executable, "-c", EXAMPLES["python"]], sandbox)
    assert printed.index("wide") < printed.index("narrow"), "sorted by accuracy"
    assert "(16, 8)" in printed
    assert Zoo(sandbox / "my-zoo").models("val_accuracy = .91").num_rows == 1


def test_shell_example_runs(sandbox: Path) -> None:
    printed = run(["bash", "-euo", "pipefail", "-c", EXAMPLES["sh"]], sandbox)
    assert "wide" in printed and "F32" in printed
    assert (sandbox / "wide.safetensors").is_file()
    assert Zoo(sandbox).models("val_accuracy = .91").num_rows == 1


@pytest.mark.parametrize("command", [["bash", "-euo", "pipefail", "-c", EXAMPLES["sh"]], [sys.executable, "-c", EXAMPLES["python"]]])
def test_examples_run_on_checkpoints_alone(sandbox: Path, command: list[str]) -> None:
    for metrics in sandbox.rglob("metrics.json"):
        metrics.unlink()
    run(command, sandbox)


def test_examples_are_ten_lines_or_so() -> None:
    assert all(len([line for line in EXAMPLES[language].splitlines() if line]) <= 12 for language in ("python", "sh"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (ROOT / document).read_text())
    assert [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()] == []


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


def test_the_table_names_every_command() -> None:
    table = text("README.md").split("## What it can do")[1].split("\n## ")[0]
    named = {word for row in re.findall(r"^\| [^|]+ \|([^|]*)\|", table, re.M) for word in re.findall(r"`([^`]+)`", row)}
    there = {" ".join(command) for command in commands()}
    groups = {command.rsplit(" ", 1)[0] for command in there if " " in command}
    assert {name for name in there | groups if name not in named and name.split()[0] not in named and name not in groups} == set()
    assert named <= there | groups
