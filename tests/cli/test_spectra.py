import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run


@pytest.fixture
def broken(sandbox: Path) -> str:
    save_file({"a.weight": np.full((9, 9), np.nan, np.float32), "b.weight": np.eye(9, dtype=np.float32)}, sandbox / "broken.safetensors")
    return "broken.safetensors"


def rows(run: Run, *arguments: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("spectra", *arguments, "--format", "json").stdout)
    return found


def test_prints_a_row_a_layer(run: Run) -> None:
    found = rows(run, "base.safetensors", "--measure", "stable_rank", "--measure", "rank_loss")
    assert [row["layer"] for row in found] == ["fc1.weight", "fc2.weight"]
    assert 1 <= found[0]["stable_rank"] <= 4  # type: ignore[operator]
    assert found[0]["rank_loss.rank"] == 4


def test_a_query_says_the_same_as_the_model_and_keeps_it(run: Run) -> None:
    options = ("--measure", "stable_rank", "--randomize", "--bootstrap", "3")
    [one] = rows(run, "base", *options, "--layer", "fc1*")
    asked = rows(run, "--where", "name = 'base'", *options, "--layer", "fc1*")
    [other] = [row for row in asked if row["tensor"] == "fc1.weight"]
    assert {key: value for key, value in one.items() if key in other} == {key: value for key, value in other.items() if key in one}
    assert set(other) - set(one) == {"model", "tensor"}
    kept = json.loads(run("sql", "select distinct measure from measurements order by 1", "--format", "json").stdout)
    assert [row["measure"] for row in kept] == ["alpha_interval", "rand_distance", "stable_rank", "traps"]


def test_models_of_a_query_without_such_layers_are_left_out(run: Run) -> None:
    found = rows(run, "--where", "true", "--measure", "stable_rank")
    assert {str(row["tensor"]).split(".")[0] for row in found} >= {"fc1", "fc2"}
    [mean, *_] = [row for row in rows(run, "--where", "name = 'base'", "--measure", "stable_rank", "--summary")]
    assert mean["layers"] == 2
    header, line = run("spectra", "--where", "name = 'base'", "--measure", "stable_rank", "--summary").stdout.splitlines()
    assert header.split() == ["model", "layers", "stable_rank"]
    assert line.split()[:2] == ["base", "2"]


def test_a_layer_with_nan_is_reported_and_the_others_go_on(run: Run, broken: str) -> None:
    result = run("spectra", broken, "--measure", "stable_rank")
    assert "layer 'a.weight' has 81 of 81 values that are NaN or infinite" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["layer", "a.weight", "b.weight"]
    run("ingest", broken)
    asked = run("spectra", "--where", "name = 'broken'", "--measure", "stable_rank")
    assert "broken: a.weight: nothing could be measured; weightspace spectra broken says why" in asked.stderr
    assert [line.split()[:2] for line in asked.stdout.splitlines()[1:]] == [["broken", "a.weight"], ["broken", "b.weight"]]


def test_models_without_layers_are_told_and_a_query_without_models_is_refused(run: Run) -> None:
    asked = run("spectra", "--where", "name = 'base' or name like '%unsound'", "--measure", "stable_rank")
    assert "left out" in asked.stderr and "unsound" in asked.stderr and "no layer" in asked.stderr
    refused = run("spectra", "--where", "name like '%unsound'", code=1).stderr
    assert "spectra could be taken of none that the query finds" in refused
    assert "the query finds no models; widen --where" in run("spectra", "--where", "name = 'nobody'", code=1).stderr


def test_one_content_that_lies_two_ways_is_two_results(run: Run, sandbox: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for name, bias in (("outin", 6), ("inout", 4)):
        save_file({"fc.weight": weight, "fc.bias": np.zeros(bias, np.float32)}, sandbox / f"{name}.safetensors")
    run("ingest", "outin.safetensors", "inout.safetensors")
    options = ("--measure", "hyperspherical_energy")
    asked = {row["model"]: row["hyperspherical_energy"] for row in rows(run, "--where", "name in ('outin', 'inout')", *options)}
    alone = {name: rows(run, str(name), *options)[0]["hyperspherical_energy"] for name in asked}
    assert asked == alone and alone["outin"] != alone["inout"]


def test_many_panels_stand_in_rows(run: Run, sandbox: Path) -> None:
    names = (
        "stable_rank",
        "effective_rank",
        "spectral_norm",
        "frobenius_norm",
        "nuclear_norm",
        "log_norm",
        "rank_loss",
        "condition_number",
    )
    run("spectra", "base.safetensors", *(word for name in names for word in ("--measure", name)), "--plot", "many.png")
    width, height = struct.unpack(">II", (sandbox / "many.png").read_bytes()[16:24])
    assert width < 1600 and height > width / 5


def test_means_values_and_pictures(run: Run, sandbox: Path) -> None:
    [mean] = rows(run, "base.safetensors", "--measure", "stable_rank", "--summary")
    assert mean["layers"] == 2
    values = rows(run, "base.safetensors", "--layer", "fc2*", "--values")
    assert [row["place"] for row in values] == [1, 2]
    assert values[0]["singular_value"] >= values[1]["singular_value"]  # type: ignore[operator]
    run("spectra", "base.safetensors", "--plot", "bars.png", "--tails", "tails.svg")
    assert (sandbox / "bars.png").stat().st_size > 1000
    assert (sandbox / "tails.svg").stat().st_size > 1000


def test_settings_and_fourier(run: Run) -> None:
    [first, _] = rows(run, "base.safetensors", "--measure", "mp_softrank", "--option", "mp_softrank.fit=variance", "--fourier", "8x8")
    assert first["operator_norm"] > 0  # type: ignore[operator]
    [plain, _] = rows(run, "base.safetensors", "--measure", "mp_softrank")
    assert plain["mp_softrank"] != first["mp_softrank"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected models or --where, found neither; give one of the two"),
        (("base", "--where", "true"), "expected models or --where, found both"),
        (("base", "tuned", "--plot", "x.png"), "--plot, --tails and --values are of one model, found several"),
        (("base", "--fourier", "8 by 8"), "--fourier has the value '8 by 8', expected the size of an image; write as in 32x32"),
        (("base", "--option", "fit=density"), "option 'fit' names no measure, expected measure.key=value"),
        (("base", "--option", "mp_softrank.fits=density"), "no option of measure 'mp_softrank' named 'fits'; did you mean 'fit'"),
        (("base", "--measure", "lipschitz"), "measure 'lipschitz' is of a model, expected one of a matrix"),
        (("base", "--layer", "conv*"), "no layer that fits 'conv*'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in " ".join(run("spectra", *arguments, code=1).stderr.split())
