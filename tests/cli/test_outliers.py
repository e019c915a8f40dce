"""The command outliers: models that stand out in their family, by what the catalog knows."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run, mlp


@pytest.fixture(autouse=True)
def family(sandbox: Path, run: Run) -> None:
    """Seven networks of one kind, of which one has a layer ten times too large."""
    (sandbox / "family").mkdir()
    for seed in range(7):
        state = mlp(seed, width=64)
        if seed == 3:
            state["fc2.weight"] *= np.float32(10)
        save_file(state, sandbox / "family" / f"net-{seed}.safetensors")
    run("ingest", "family", "--zoo", "family")


def test_the_odd_one_is_listed_with_its_layer(run: Run) -> None:
    [row] = json.loads(run("outliers", "--zoo", "family", "--format", "json").stdout)
    assert row["model"] == "net-3" and "norm of fc2.weight" in row["reason"] and row["score"] > 8
    shown = run("outliers", "--zoo", "family", "--plot", "outliers.png")
    assert "net-3" in shown.stdout and "1 model of 7 stands out, in 1 architecture" in shown.stderr
    assert Path("outliers.png").read_bytes().startswith(b"\x89PNG")


def test_healthy_families_have_none_and_small_ones_are_no_families(run: Run) -> None:
    # Two biases drawn at random are no family in which 8 deviations are many.
    assert "0 models of 6 stand out" in run("outliers", "--zoo", "family", "--where", "name <> 'net-3'", "--threshold", "100").stderr
    refused = run("outliers", "--zoo", "family", "--where", "name < 'net-3'", code=1)
    assert "outliers need 5 models of one architecture or more, found at most 3" in refused.stderr
