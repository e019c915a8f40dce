"""Patchworks as checkpoints: they come back the same, their networks too, and no file makes anything run or grow."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.analysis.stitching import Chain, Patchwork, Piece, Route, fit_stitches, stitched
from weightspace.analysis.stitching.origin import Origin
from weightspace.analysis.stitching.saving import (
    DIGEST,
    Member,
    anchor,
    checkpoint_of_patchwork,
    load_patchwork,
    save_patchwork,
    write,
)
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, TaskError, WeightSpaceError
from weightspace.modules import module_for, module_of, task_builders
from weightspace.task import Task, task_for

DATA = {"name": "digits", "shape": [8, 8], "classes": 10}
MLP = {"kind": "population", "name": "mlps", "seed": 0, "hyperparameters": {"width": 8, "depth": 2, "activation": "relu"}, "data": DATA}
KNOWN = {"width": 4, "depth": 1, "norm": "batch", "residual": True, "activation": "gelu"}
CNN = {"kind": "population", "name": "cnns", "seed": 0, "hyperparameters": KNOWN, "data": DATA}


def member(recipe: dict[str, Any]) -> Member:
    module = module_of(recipe)
    for name, tensor in module.named_buffers():  # as training leaves them
        tensor.copy_(torch.full_like(tensor, 7)) if name.endswith("tracked") else tensor.add_(0.1)
    return Member(Origin(recipe=recipe), module, recipe["name"], Checkpoint.of(module.state_dict()).id)


@pytest.fixture(scope="module")
def members() -> list[Member]:
    return [member(MLP), member(CNN)]


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.rand(32, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def patchwork(members: list[Member], inputs: torch.Tensor) -> Patchwork:
    """Both networks, and two routes from the first into the second."""
    front, end = (Chain.of(one.module, inputs) for one in members)
    pairs = [(0, 0), (1, 1)]
    found = fit_stitches(front, end, Task(front, [(inputs, torch.zeros(32).long())], lambda out, batch: out.sum()), pairs)
    through = [Route((Piece(0, -1, a), Piece(1, b)), (at,)) for at, (a, b) in enumerate(pairs)]
    routes = [Route((Piece(0),)), Route((Piece(1),)), *through]
    return Patchwork([front, end], list(found.values()), routes, ["mlps", "cnns"]).eval()


@pytest.fixture
def saved(patchwork: Patchwork, members: list[Member], inputs: torch.Tensor) -> Checkpoint:
    return checkpoint_of_patchwork(patchwork.use(0), members, (inputs, inputs), told={"seed": 3})


def outputs(patchwork: Patchwork, inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [patchwork.use(at)(inputs) for at in range(len(patchwork.routes))]


def test_every_route_is_the_same_function_after_loading(
    patchwork: Patchwork, saved: Checkpoint, inputs: torch.Tensor, tmp_path: Path
) -> None:
    kept = load_patchwork(write(saved, tmp_path / "a.safetensors"))
    assert all(map(torch.equal, outputs(kept.patchwork, inputs), outputs(patchwork, inputs)))
    assert kept.recipe["seed"] == 3 and kept.names == ("mlps", "cnns") and len(kept.parents) == 2
    assert kept.patchwork.routes == patchwork.routes


def test_the_same_patchwork_is_saved_as_the_same_bytes(
    patchwork: Patchwork, members: list[Member], inputs: torch.Tensor, tmp_path: Path
) -> None:
    files = [save_patchwork(patchwork.use(1), members, (inputs, inputs), tmp_path / f"{at}.safetensors") for at in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    other = checkpoint_of_patchwork(patchwork.use(0), members, (inputs, inputs))
    assert ws.open(files[0]).id != other.id  # another route in use is another model
    assert all(torch.equal(other[name], ws.open(files[0])[name]) for name in other if name != DIGEST)


def test_a_fresh_process_finds_module_and_task(saved: Checkpoint, patchwork: Patchwork, tmp_path: Path) -> None:
    file = write(saved, tmp_path / "a.safetensors")
    code = f"""
import weightspace as ws, json
from weightspace.task import task_for
opened = ws.open({str(file)!r})
print(json.dumps(task_for(opened).evaluate(opened)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    task = replace(task_for(_like(MLP)), module=patchwork.use(0))
    assert json.loads(done.stdout) == pytest.approx(task.evaluate(patchwork.state_dict()))


def _like(recipe: dict[str, Any]) -> Checkpoint:
    made = Checkpoint.of(module_of(recipe).state_dict())
    return Checkpoint(made.info, made.storages, made.format, recipe=recipe)


def test_parts_that_no_route_runs_are_left_out(patchwork: Patchwork, members: list[Member], inputs: torch.Tensor, tmp_path: Path) -> None:
    front, end = patchwork.chain(0), patchwork.chain(1)
    pair = stitched(front, end, patchwork.stitches[1], (1, 1))  # type: ignore[arg-type]
    made = checkpoint_of_patchwork(pair, members, (inputs, inputs))
    assert not any(name.startswith(("chains.0.parts.2", "chains.1.parts.0", "chains.1.parts.1", "rest")) for name in made)
    kept = load_patchwork(write(made, tmp_path / "a.safetensors"))
    assert torch.equal(kept.patchwork(inputs), pair(inputs))
    assert module_for(made)(inputs).shape == (32, 10)
    with pytest.raises(AnalysisError, match="no route runs the whole of 'mlps', so that parts of it are not here"):
        anchor(kept, 0)


def test_networks_that_no_route_runs_are_no_parents(patchwork: Patchwork, members: list[Member], inputs: torch.Tensor) -> None:
    lone = Patchwork([patchwork.chain(0), patchwork.chain(1)], [], [Route((Piece(1),))])
    made = checkpoint_of_patchwork(lone, members, (inputs, inputs))
    assert made.parents == (members[1].id,) and (made.recipe or {})["routes"] == [{"pieces": [[0, -1, None]], "stitches": []}]
    assert torch.equal(load_patchwork(made).patchwork(inputs), patchwork.chain(1)(inputs))


def test_an_anchor_comes_out_bit_for_bit_as_it_went_in(saved: Checkpoint, members: list[Member], tmp_path: Path) -> None:
    kept = load_patchwork(saved)
    for at, one in enumerate(members):
        out = anchor(kept, at, parent=saved.id)
        assert out.id == one.id and out.parents == (saved.id,)
        opened = ws.open(write(out, tmp_path / f"{at}.safetensors"))
        assert list(module_for(opened).state_dict()) == list(one.module.state_dict())
    with pytest.raises(AnalysisError, match="expected a network from 0 to 1, found 2"):
        anchor(kept, 2)


def test_a_trained_anchor_comes_out_trained(patchwork: Patchwork, members: list[Member], inputs: torch.Tensor) -> None:
    trained = copy.deepcopy(patchwork)
    for parameter in trained.parameters():
        parameter.data.add_(0.01)
    out = anchor(load_patchwork(checkpoint_of_patchwork(trained, members, (inputs, inputs))), 1)
    assert out.id != members[1].id
    assert torch.equal(module_for(out)(inputs), trained.use(1)(inputs))


CODE = """
import torch

class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.back, self.idle = torch.nn.Linear(64, 6), torch.nn.Linear(6, 64), torch.nn.Linear(3, 3)
        self.again, self.head = self.wide, torch.nn.Linear(64, 6)
        self.register_buffer("shift", torch.ones(6))

    def forward(self, x):
        return self.head(torch.relu(self.back(torch.relu(self.wide(x)) + self.shift)))

def tied():
    return Tied()

def started():
    raise SystemExit("ran")
"""


def test_code_runs_where_it_is_allowed_alone(inputs: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stitched_code.py").write_text(CODE)
    origin = Origin(code="stitched_code:tied", given={})
    module = origin.module(allow=["stitched_code:tied"])
    own = Member(origin, module, "tied", "")
    chain = Chain.of(module, inputs)
    made = checkpoint_of_patchwork(Patchwork([chain], [], [Route((Piece(0),))]), [own], (inputs, inputs))
    for load in (load_patchwork, module_for):
        with pytest.raises(AnalysisError, match=r"names code, 'stitched_code:tied'; look at it, and allow it"):
            load(made)
    kept = load_patchwork(made, allow=["stitched_code:tied"])
    assert torch.equal(kept.patchwork(inputs), module(inputs))
    # What the module does not run, and what is tied, comes back as well.
    assert anchor(kept, 0, allow=["stitched_code:tied"]).id == Checkpoint.of(module.state_dict()).id
    with pytest.raises(TaskError, match="nothing is known to judge this model by"):
        task_builders["stitched"](kept.patchwork, kept.recipe, "test")


Change = Callable[[Any], Any]


def at(*path: Any, value: Any) -> Change:
    """Put a value at a place of a recipe."""

    def change(recipe: Any) -> None:
        for step in path[:-1]:
            recipe = recipe[step]
        recipe[path[-1]] = value

    return change


HOSTILE: dict[str, tuple[Change, str]] = {
    "a wide network": (at("chains", 0, "origin", "recipe", "hyperparameters", "width", value=10**9), "has the size 1,000,000,000"),
    "a network wider than its file": (
        at("chains", 0, "origin", "recipe", "hyperparameters", "width", value=9_000),
        "far larger than what its file",
    ),
    "a deep network": (
        at("chains", 0, "origin", "recipe", "hyperparameters", "depth", value=9_000_000),
        "far larger than what its file holds",
    ),
    "a large stitch": (at("stitches", 0, "source", "shape", value=[10**9]), "ask for 64,000,"),
    "large inputs": (at("inputs", "args", 0, "shape", value=[10**12]), "has inputs of shape"),
    "no such dtype": (at("inputs", "args", 0, "dtype", value="load"), "inputs of dtype 'load'"),
    "a path for a dtype": (at("inputs", "args", 0, "dtype", value="os.system"), "inputs of dtype 'os.system'"),
    "a population that there is not": (at("chains", 0, "origin", "recipe", "name", value="mpls"), "mlps"),
    "code": (at("chains", 0, "origin", value={"code": "os:getcwd"}), "names code, 'os:getcwd'"),
    "code beside a recipe": (at("chains", 0, "origin", "code", value="os:getcwd"), "does not say how its module is built"),
    "code that is no name": (at("chains", 0, "origin", value={"code": ["os:getcwd"]}), "does not say how its module is built"),
    "a cut that is not there": (at("routes", 2, "pieces", 0, 2, value=5), "from cut -1 to 5 of network 0, which there is not"),
    "a network that is not there": (at("routes", 2, "pieces", 0, 0, value=7), "of network 7, which there is not"),
    "a stitch that is not there": (at("routes", 2, "stitches", value=[9]), r"has the stitches \[9\] of 2"),
    "a stitch too few": (at("routes", 2, "stitches", value=[]), r"has the stitches \[\] of 2"),
    "a stitch of another place": (at("stitches", 0, "source", "shape", value=[9]), r"stands at cut 'fc1' of \(8,\)"),
    "other cuts": (at("chains", 0, "cuts", 0, "name", value="fc9"), "which is not where it was when it was stitched"),
    "cuts of no size": (at("chains", 0, "cuts", 0, "shape", value=[0]), r"has a shape \[0\]"),
    "an axis that is not there": (at("chains", 0, "cuts", 0, "axis", value=4), "with neurons along dimension 4"),
    "no whole number": (at("routes", 2, "pieces", 0, 2, value="0"), "'0' where a whole number is wanted"),
    "no routes": (at("routes", value=[]), "run through 0 of its 2 networks"),
    "no lists": (at("routes", value=3), "is damaged"),
    "no chains": (at("chains", value=None), "is damaged"),
    "a route in use that is not there": (at("route", value=99), "has route 99 in use, and 4 routes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_refused_in_one_line(saved: Checkpoint, name: str) -> None:
    change, said = HOSTILE[name]
    recipe = copy.deepcopy(dict(saved.recipe or {}))
    change(recipe)
    told = replace(saved, recipe=recipe)
    for load in (load_patchwork, module_for):
        with pytest.raises(WeightSpaceError, match=said) as raised:
            load(told)
        assert "\n" not in str(raised.value)


def test_a_file_that_does_not_fit_its_recipe_is_refused(saved: Checkpoint, tmp_path: Path) -> None:
    tensors = saved.state_dict()
    tensors["stitches.0.bias"] = torch.zeros(5)
    with pytest.raises(AnalysisError, match=r"tensor 'stitches.0.bias' of the file is not as its recipe has it"):
        load_patchwork(replace(Checkpoint.of(tensors), recipe=saved.recipe))
    del tensors["chains.0.parts.0.fc1.weight"]
    with pytest.raises(AnalysisError, match=r"tensor 'chains.0.parts.0.fc1.weight' of the file"):
        load_patchwork(replace(Checkpoint.of(tensors), recipe=saved.recipe))
    ws.save({"w": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(AnalysisError, match="holds no stitched network"):
        load_patchwork(tmp_path / "plain.safetensors")


def test_what_a_file_cannot_tell_is_not_saved(patchwork: Patchwork, members: list[Member], inputs: torch.Tensor) -> None:
    blocks = Chain.of_blocks({"one": nn.Linear(64, 4), "two": nn.Linear(4, 10)}, inputs)
    lone = Patchwork([blocks], [], [Route((Piece(0),))])
    with pytest.raises(AnalysisError, match="blocks of your own cannot be built again from a file"):
        checkpoint_of_patchwork(lone, members[:1], (inputs, inputs))
    with pytest.raises(AnalysisError, match="expected inputs that are tensors, found one of type int"):
        checkpoint_of_patchwork(patchwork, members, (3, inputs))
    with pytest.raises(AnalysisError, match="has a recipe too long to keep"):
        checkpoint_of_patchwork(patchwork, members, (inputs, inputs), told={"note": "x" * (1 << 20)})


def test_a_bias_for_each_place_comes_back(patchwork: Patchwork, members: list[Member], inputs: torch.Tensor) -> None:
    front, end = patchwork.chain(0), patchwork.chain(1)
    task = Task(front, [(inputs, torch.zeros(32).long())], lambda out, batch: out.sum())
    stitch = fit_stitches(end, front, task, [(0, 0)], bias="places")[0, 0]
    wide = fit_stitches(front, end, task, [(0, 0)], bias="places")[0, 0]
    made = Patchwork([end, front], [stitch, wide], [Route((Piece(0, -1, 0), Piece(1, 0)), (0,))])
    kept = load_patchwork(checkpoint_of_patchwork(made, members[::-1], (inputs, inputs)))
    assert torch.equal(kept.patchwork(inputs), made(inputs))
