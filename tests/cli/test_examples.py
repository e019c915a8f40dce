import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.cli.conftest import Run, mlp
from tests.cli.test_main import commands
from tests.remote.hubs import running
from tests.zoo.quack import missing_quack
from weightspace.cli.main import app
from weightspace.zoo.hub import push_zoo
from weightspace.zoo.runs.run import Run as Training
from weightspace.zoo.zoo import Added, Zoo

SLOW = {"demo"}  # trains networks


def examples(command: tuple[str, ...]) -> list[str]:
    """The lines of a command's help that can be pasted into a shell."""
    helped = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "250"}).stdout
    _, _, after = helped.partition("Examples:")
    return re.findall(r"^\s+(weightspace .*?)\s*$", after, re.MULTILINE)


CASES = [
    pytest.param(command, line, marks=[pytest.mark.slow] if command[0] in SLOW else [], id=line)
    for command in commands()
    for line in examples(command)
]


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_has_an_example_of_itself(command: tuple[str, ...]) -> None:
    found = examples(command)
    assert found and all(tuple(shlex.split(line)[1 : 1 + len(command)]) == command for line in found)


@pytest.fixture
def networks(sandbox: Path) -> None:
    """Two networks of one architecture, a third that stands for their alignment, and what to judge them by."""
    for seed, name in enumerate(("a", "b", "aligned"), 20):
        save_file(mlp(seed), sandbox / f"{name}.safetensors")
    (sandbox / "run").mkdir()
    for step in (0, 10):
        save_file(mlp(step), sandbox / "run" / f"step-{step}.safetensors")
    (sandbox / "tasks.py").write_text(TASKS)
    for name, text in RECIPES.items():
        (sandbox / name).write_text(text)


RECIPES = {
    "ties.yaml": """
merge_method: ties
base_model: base.safetensors
models: [a.safetensors, b.safetensors]
parameters: {weight: 1, density: 0.5}
keep: all
""",
    "soup.yaml": "{merge_method: linear, models: [a.safetensors, b.safetensors], parameters: {weight: 1}}",
    "search.yaml": "{merge_method: slerp, base_model: a.safetensors, models: [b.safetensors], parameters: {t: {search: [0, 1]}}}",
    "rules.yaml": "loss: {max: 10}",
}

TASKS = """
import torch
import weightspace as ws

def digits():
    layers = {"fc1": torch.nn.Linear(4, 8), "relu": torch.nn.ReLU(), "fc2": torch.nn.Linear(8, 2)}
    module = torch.nn.Sequential()
    for name, layer in layers.items():
        module.add_module(name, layer)
    generator = torch.Generator().manual_seed(0)
    return ws.Task.classification(module, torch.randn(64, 4, generator=generator), torch.arange(64) % 2)
"""

NETS = """
import torch
import weightspace as ws

def mlp(width):
    layers = {"fc1": torch.nn.Linear(4, width), "relu1": torch.nn.ReLU(), "fc2": torch.nn.Linear(width, width), "relu2": torch.nn.ReLU()}
    module = torch.nn.Sequential()
    for name, layer in {**layers, "fc3": torch.nn.Linear(width, 2)}.items():
        module.add_module(name, layer)
    return module

def small():
    return mlp(6)

def large():
    return mlp(12)

def digits():
    generator = torch.Generator().manual_seed(0)
    return ws.Task.classification(small(), torch.randn(64, 4, generator=generator), torch.arange(64) % 2)
"""


def prepare_stitching(run: Run, command: str) -> None:
    """Two networks of two sizes, a plan for what is to be built, and a family for what is to be run."""
    Path("networks.py").write_text(NETS)
    place: dict[str, Any] = {}
    exec(NETS, place)
    for name in ("small", "large"):
        save_file({key: tensor.numpy() for key, tensor in place[name]().state_dict().items()}, f"{name}.safetensors")
    asked = ("--module", "networks:small", "--module", "networks:large", "--eval", "networks:digits")
    if command != "plan":
        run("stitch", "plan", "small.safetensors", "large.safetensors", *asked, "--as", "family", "-o", "family.yaml")
    if command == "run":
        run("stitch", "build", "family.yaml", "--name", "family", *(word for name in asked[1::2] for word in ("--allow", name)))


def catalogue_runs() -> None:
    """Thirty runs with an accuracy, two of them without."""
    models = [
        Added(
            {name: torch.from_numpy(values) for name, values in mlp(seed).items()},
            f"run-{seed}",
            run=Training(f"population:run-{seed}", f"run-{seed}", "population", seed),
            metrics={"test": {"accuracy": seed / 30}} if seed < 28 else None,
        )
        for seed in range(30)
    ]
    Zoo().add_many(models)


@contextmanager
def hub_for(command: tuple[str, ...]) -> Iterator[None]:
    """A hub with a model and a zoo on it, for the commands that talk to one."""
    if command[0] != "hub":
        yield
        return
    with pytest.MonkeyPatch.context() as patch, running(Path.cwd().parent, patch) as hub:
        hub.model("lab/toy")
        push_zoo(Zoo(), "lab/zoo", private=True)
        yield


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")
@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize(("command", "line"), CASES)
def test_example_works(run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], line: str) -> None:
    if "-o" in line.split() and Path(line.split()[line.split().index("-o") + 1]).name == "aligned.safetensors":
        Path("aligned.safetensors").unlink()
    if command == ("unmerge",):
        run("merge", "ties.yaml", "-o", "merged")
    if command == ("import",):
        (Path("siren_mnist_wts") / "randinit_smaller_7s").mkdir(parents=True)
        torch.save({"net.0.linear.weight": torch.ones(4, 2)}, "siren_mnist_wts/randinit_smaller_7s/net12.pth")
    if command == ("outliers",):
        for seed in range(5):
            save_file(mlp(seed), f"sibling-{seed}.safetensors")
        run("ingest", ".")
    if command[0] in ("train-metanet", "predict", "embed", "suggest", "similar", "generate"):
        catalogue_runs()
        train = ("train-metanet", "statistics", "--target", "test_accuracy", "--where", "run is not null", "--epochs", "5")
        if command[0] not in ("train-metanet", "generate"):
            run(*train, "-o", "predictor.safetensors")
        if command[0] in ("suggest", "similar"):
            run("embed", "--metanet", "predictor.safetensors")
    if command[0] == "signature" and command[1] != "extract":
        for name in ("noise", "blur"):
            run("signature", "extract", "base.safetensors", "a.safetensors", "b.safetensors", "-o", f"{name}.safetensors")
    if command == ("signature", "remove"):
        run("signature", "apply", "a.safetensors", "noise.safetensors", "-o", "patched.safetensors")
    if command[0] == "stitch":
        prepare_stitching(run, command[1])
    if command == ("import",):
        run("export", "--parquet", "tables")
    if command == ("restore",):
        run("backup", "../kept")
        run("backup", "../kept.tar")
    if command == ("serve",):
        if reason := missing_quack():
            pytest.skip(reason)
        monkeypatch.setenv("WEIGHTSPACE_TOKEN", "a secret of the tests")
    with hub_for(command):
        result = run(*shlex.split(line)[1:])
    assert "error" not in result.stderr
