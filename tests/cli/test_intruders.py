"""What `weightspace intruders` prints, draws, writes and keeps, and what it says when it cannot."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weightspace as ws
from tests.analysis.intruders.planted import adapter, decaying, spread
from tests.cli.conftest import Run
from weightspace.adapters import apply_adapter, save_adapter
from weightspace.analysis.intruders import intruder_dimensions, mitigate
from weightspace.analysis.measure import measures

BASE = {"a.weight": decaying(), "b.weight": decaying(seed=3), "b.bias": torch.ones(48)}
TUNED = BASE | {"a.weight": BASE["a.weight"] + spread(BASE["a.weight"], 30.0)}
JUDGES = """
def total(state_dict):
    return {"size": sum(tensor.abs().sum() for tensor in state_dict.values())}

def rubbish(state_dict):
    return "much"
"""


@pytest.fixture(autouse=True)
def models(sandbox: Path) -> Path:
    ws.save(BASE, sandbox / "before.safetensors")
    ws.save(TUNED, sandbox / "after.safetensors")
    save_adapter(adapter({"a": (48, 40)}), sandbox / "lora")
    save_adapter(adapter({"other": (48, 40)}), sandbox / "stranger")
    (sandbox / "intruder_judges.py").write_text(JUDGES)
    return sandbox


def test_a_row_for_each_layer_and_a_total(run: Run) -> None:
    result = run("intruders", "before.safetensors", "after.safetensors", "--null", "3", "--format", "json")
    [row] = json.loads(result.stdout)
    found = intruder_dimensions(BASE, TUNED)
    assert {key: row[key] for key in ("layer", "count", "guarded", "right")} == {"layer": "a.weight", "count": 1, "guarded": 1, "right": 1}
    assert row["smallest_similarity"] == pytest.approx(found.table[0]["smallest_similarity"]) and row["p"] >= 0.25
    assert "1 intruder in 1 layer, 1 guarded; random updates gave" in result.stderr and "left out: b.weight: unchanged" in result.stderr


def test_a_table_for_eyes_shows_chance_only_where_it_was_drawn(run: Run) -> None:
    plain = run("intruders", "before.safetensors", "after.safetensors", columns=200).stdout
    drawn = run("intruders", "before.safetensors", "after.safetensors", "--null", "2", "--null-keeps", "spectrum", columns=200).stdout
    assert "a.weight" in plain and "intruders" in plain and "by chance" not in plain and "by chance" in drawn


def test_a_row_for_each_vector(run: Run) -> None:
    rows = json.loads(run("intruders", "before.safetensors", "after.safetensors", "-k", "4", "--vectors", "--format", "json").stdout)
    assert [(row["rank"], row["status"]) for row in rows][:2] == [(1, "intruder"), (2, "kept")] and len(rows) == 4
    right = json.loads(run("intruders", "before.safetensors", "after.safetensors", "--side", "right", "--format", "json").stdout)
    assert right[0]["count"] == right[0]["right"]


def test_an_adapter_is_looked_at_in_its_base(run: Run, models: Path) -> None:
    rows = json.loads(run("intruders", "before.safetensors", "lora", "--format", "json").stdout)
    expected = intruder_dimensions(BASE, apply_adapter(ws.open(models / "before.safetensors"), ws.open(models / "lora")))
    assert {row["layer"]: row["count"] for row in rows} == {"a.weight": expected.layer("a.weight").count}


@pytest.mark.parametrize(
    "options", [[], ["--layer", "a*"], ["--sweep", "0,1", "--eval", "intruder_judges:total"]], ids=["counts", "one layer", "sweep"]
)
def test_pictures_are_drawn(run: Run, options: list[str]) -> None:
    assert "drew picture.png" in run("intruders", "before.safetensors", "after.safetensors", *options, "--plot", "picture.png").stderr
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_mitigated_model_is_written_with_its_recipe(run: Run) -> None:
    result = run("intruders", "before.safetensors", "after.safetensors", "--mitigate", "0.25", "-o", "out.safetensors", "--format", "json")
    assert json.loads(result.stdout) == [{"layer": "a.weight", "scaled": [1], "lambda": 0.25}] and "wrote out.safetensors" in result.stderr
    written, expected = ws.open("out.safetensors"), mitigate(BASE, TUNED, 0.25)
    assert written.id == expected.id and written.recipe == expected.recipe and written.parents == expected.parents
    run("ingest", "out.safetensors", "before.safetensors", "after.safetensors")
    statement = "select edges.kind from edges join models on child_id = model_id where name = 'out'"
    assert json.loads(run("sql", statement, "--format", "json").stdout) == 2 * [{"kind": "mitigate"}]


def test_a_mitigated_adapter_is_a_folder_again(run: Run) -> None:
    run("intruders", "before.safetensors", "lora", "--mitigate", "0", "--which", "all", "-o", "mended")
    run("intruders", "before.safetensors", "lora", "--mitigate", "0", "--which", "all", "-o", "mended.safetensors", "--merged")
    run("intruders", "before.safetensors", "lora", "--mitigate", "0", "--truncate", "-o", "short")
    base = ws.open("before.safetensors")
    there = apply_adapter(base, ws.open("mended"))["a.weight"]
    assert np.allclose(there, ws.open("mended.safetensors")["a.weight"], atol=1e-4)
    assert ws.open("short").info["base_model.model.a.lora_A.weight"].shape == (2, 40)
    assert "exists already" in run("intruders", "before.safetensors", "lora", "--mitigate", "0", "-o", "mended", code=1).stderr
    run("intruders", "before.safetensors", "lora", "--mitigate", "0.5", "-o", "mended", "--force")


def test_a_sweep_has_rows_for_each_lambda_and_control(run: Run) -> None:
    options = ["--sweep", "0,0.5,1", "--eval", "intruder_judges:total", "--control", "neighbour", "--control", "random", "--format", "json"]
    rows = json.loads(run("intruders", "before.safetensors", "after.safetensors", *options).stdout)
    assert [(row["scaled"], row["lambda"]) for row in rows] == [
        (what, lam) for what in ("intruders", "neighbour", "random") for lam in (0, 0.5, 1)
    ]
    expected = sum(tensor.abs().sum() for tensor in mitigate(BASE, TUNED, 0.5).values())
    assert rows[1]["size"] == pytest.approx(float(expected), rel=1e-5)


def test_counts_are_kept_as_the_measure_keeps_them(run: Run) -> None:
    run("ingest", "before.safetensors", "after.safetensors")
    first = run("intruders", "before.safetensors", "after.safetensors")
    assert "kept in the catalog" in first.stderr and list(Path(".weightspace/cache").rglob("*.safetensors"))
    statement = "select measure, version, key, value from pair_measurements where measure = 'intruders' order by key"
    kept = json.loads(run("sql", statement, "--format", "json").stdout)
    assert {row["key"]: row["value"] for row in kept} == intruder_dimensions(BASE, TUNED).values
    run("measure", "intruders", "before.safetensors", "after.safetensors")
    assert json.loads(run("sql", statement, "--format", "json").stdout) == kept
    assert kept[0]["version"] == measures["intruders"].version


@pytest.mark.parametrize("options", [["--layer", "b*"], ["--embeddings"]])
def test_counts_of_other_layers_are_not_kept_for_those_of_all(run: Run, sandbox: Path, options: list[str]) -> None:
    ws.save(BASE | {"b.weight": BASE["b.weight"] + spread(BASE["b.weight"], 30.0)}, sandbox / "other.safetensors")
    run("ingest", "before.safetensors", "other.safetensors")
    result = run("intruders", "before.safetensors", "other.safetensors", *(["--layer", "*b*"] if "--layer" in options else options))
    assert "not kept in the catalog" in result.stderr
    query = ("measure", "intruders", "--where", "name in ('before', 'other')", "--format", "json")
    assert {row["key"]: row["value"] for row in json.loads(run(*query).stdout)}["layers"] == 1
    kept = "select count(*) as n from pair_measurements where measure = 'intruders' and key = 'layers'"
    assert json.loads(run("sql", kept, "--format", "json").stdout) == [{"n": 2}], "the query's alone, of both orders"


def test_a_damaged_cache_is_made_anew(run: Run) -> None:
    run("ingest", "before.safetensors", "after.safetensors")
    first = run("intruders", "before.safetensors", "after.safetensors", "--format", "json").stdout
    for path in Path(".weightspace/cache").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-4])
    assert run("intruders", "before.safetensors", "after.safetensors", "--format", "json").stdout == first


def test_the_help_tells_the_two_models_apart(run: Run) -> None:
    usage = run("intruders", "--help", columns=120).stdout
    assert re.search(r"BASE\W+TUNED", usage) and not re.search(r"MODEL\W+MODEL", usage)


ERRORS: list[tuple[list[str], int, str]] = [
    (["before.safetensors", "stranger"], 1, "the adapter fits nothing in the base"),
    (["lora", "before.safetensors"], 1, "the base is an adapter; give the model"),
    (["before.safetensors", "wide.safetensors"], 1, "its shape is [48, 40] in the base, [3, 40] in the tuned model"),
    (["before.safetensors", "empty"], 1, "expected low-rank updates"),
    (["before.safetensors", "after.safetensors", "--epsilon", "2"], 1, "expected an epsilon above 0 and up to 1, found 2"),
    (["before.safetensors", "after.safetensors", "--mitigate", "0.5"], 2, "--mitigate LAMBDA and -o OUT go together"),
    (["before.safetensors", "after.safetensors", "-o", "x.safetensors"], 2, "--mitigate LAMBDA and -o OUT go together"),
    (
        ["before.safetensors", "after.safetensors", "--mitigate", "0", "--sweep", "1", "-o", "x"],
        2,
        "give --mitigate or --sweep, not both",
    ),
    (
        ["before.safetensors", "after.safetensors", "--layer", "zz*"],
        1,
        "before.safetensors has no layer that fits 'zz*' that the tuned model may have changed; it has a.weight, b.weight",
    ),
    (["flat.safetensors", "flat.safetensors"], 1, "flat.safetensors has no weight with two axes"),
    (
        ["before.safetensors", "after.safetensors", "--mitigate", "0", "-o", "x.safetensors", "--merged"],
        1,
        "after.safetensors: is no adapter, expected one with --merged or --truncate",
    ),
    (["before.safetensors", "after.safetensors", "--mitigate", "0", "-o", "x.safetensors", "--truncate"], 1, "is no adapter"),
    (["before.safetensors", "lora", "--truncate"], 2, "--merged and --truncate belong to --mitigate"),
    (["before.safetensors", "lora", "--mitigate", "0", "-o", "x", "--truncate", "--merged"], 2, "give --merged or --truncate"),
    (["before.safetensors", "after.safetensors", "--control", "random"], 2, "--control belongs to --sweep"),
    (["before.safetensors", "after.safetensors", "--sweep", "0,a"], 2, "'0,a' is no list of numbers"),
    (
        ["before.safetensors", "after.safetensors", "--sweep", "0", "--eval", "intruder_judges:rubbish"],
        1,
        "the evaluation returned loss: str",
    ),
    (["before.safetensors", "after.safetensors", "--sweep", "0"], 1, "nothing is known to judge this model by"),
    (
        ["before.safetensors", "lora", "--mitigate", "0", "-o", "x.safetensors"],
        1,
        "a mitigated adapter is a folder of weights and config",
    ),
    (["before.safetensors", "after.safetensors", "--mitigate", "0", "-o", "x.npz"], 1, "has the suffix '.npz'"),
]


def test_errors_say_what_to_do(run: Run, models: Path) -> None:
    save_file({"a.weight": np.ones((3, 40), np.float32)}, models / "wide.safetensors")
    save_file({"a.bias": np.ones(3, np.float32)}, models / "flat.safetensors")
    (models / "empty").mkdir()
    save_file({}, models / "empty" / "adapter_model.safetensors")
    (models / "empty" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    for arguments, code, message in ERRORS:
        assert message in run("intruders", *arguments, code=code, columns=400).stderr, arguments


def test_a_layer_with_nan_is_told_and_the_others_go_on(run: Run) -> None:
    broken = {name: tensor.clone() for name, tensor in TUNED.items()}
    broken["b.weight"][0, 0] = torch.nan
    ws.save(broken, "broken.safetensors")
    result = run("intruders", "before.safetensors", "broken.safetensors", "--format", "json")
    assert [row["layer"] for row in json.loads(result.stdout)] == ["a.weight"]
    assert "left out: b.weight: NaN or infinities in the tuned model" in result.stderr


def test_a_layer_with_nan_is_told_of_a_mitigated_model(run: Run) -> None:
    broken = {name: tensor.clone() for name, tensor in TUNED.items()}
    broken["b.weight"][0, 0] = torch.nan
    ws.save(broken, "broken.safetensors")
    result = run("intruders", "before.safetensors", "broken.safetensors", "--mitigate", "0", "-o", "out.safetensors", columns=300)
    assert "left out: b.weight: NaN or infinities in the tuned model" in result.stderr
    assert (ws.open("out.safetensors").recipe or {})["left_out"] == {"b.weight": "NaN or infinities in the tuned model"}


@pytest.mark.parametrize(
    ("tuned", "output"), [("after.safetensors", "after.safetensors"), ("after.safetensors", "before.safetensors"), ("lora", "lora")]
)
def test_no_input_is_written_over(run: Run, tuned: str, output: str) -> None:
    before = {file: file.read_bytes() for file in (*Path("lora").iterdir(), Path("after.safetensors"), Path("before.safetensors"))}
    said = run("intruders", "before.safetensors", tuned, "--mitigate", "0.5", "-o", output, "--force", code=1, columns=300).stderr
    assert f"{output}: is read for this itself; choose another name for the result" in said
    assert {file: file.read_bytes() for file in before} == before


def test_nothing_to_scale_is_said(run: Run) -> None:
    result = run("intruders", "before.safetensors", "before.safetensors", "--mitigate", "0", "-o", "same.safetensors", "--format", "json")
    assert json.loads(result.stdout) == [] and "no intruders, so nothing was scaled" in result.stderr
    assert ws.open("same.safetensors").id == ws.open("before.safetensors").id
