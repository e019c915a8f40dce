"""The command duplicates with --near: models that differ little from an earlier one."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run, mlp


@pytest.fixture(autouse=True)
def family(sandbox: Path) -> None:
    """A model, another that is it but for rounding, and a stranger, each in a catalog of their own."""
    (sandbox / "family").mkdir()
    base = mlp(3, width=64)
    near = {name: tensor.copy() for name, tensor in base.items()}
    near["fc1.weight"][0, 0] += 1
    for name, state in (("a-base", base), ("b-near", near), ("c-stranger", mlp(4, width=64))):
        save_file(state, sandbox / "family" / f"{name}.safetensors")


def test_what_a_difference_saves_is_listed(run: Run) -> None:
    run("ingest", "family", "--zoo", "family")
    [row] = json.loads(run("duplicates", "--near", "--zoo", "family", "--format", "json").stdout)
    assert (row["model"], row["base"]) == ("b-near", "a-base")
    assert row["saved_bytes"] == row["bytes"] - row["delta_bytes"] > 0.9 * row["bytes"]
    assert row["changed"] == pytest.approx(1 / sum(np.prod(tensor.shape) for tensor in mlp(3, width=64).values()))
    result = run("duplicates", "--near", "--zoo", "family")
    assert "b-near" in result.stdout and "1 model, " in result.stderr and "that differences would save" in result.stderr


def test_a_catalog_without_neighbours_says_so(run: Run, sandbox: Path) -> None:
    (sandbox / "family" / "b-near.safetensors").unlink()
    run("ingest", "family", "--zoo", "family")
    assert "no models near each other" in run("duplicates", "--near", "--zoo", "family").stderr


def test_one_question_at_a_time(run: Run) -> None:
    assert "takes no --tensors beside it" in run("duplicates", "--near", "--tensors", code=2, columns=200).stderr
