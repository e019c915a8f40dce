"""The commands of `weightspace signature`, as users run them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import weightspace as ws
from tests.cli.conftest import Run, mlp

START, CLEAN, NOISY, BLURRED = (f"{name}.safetensors" for name in ("start", "clean", "noisy", "blurred"))
JUDGE = """
def norm(state_dict):
    return float(sum(tensor.double().square().sum() for tensor in state_dict.values()))
"""


@pytest.fixture(autouse=True)
def models(sandbox: Path) -> None:
    start = mlp(3, width=64)
    save_file(start, START)
    for seed, name in enumerate((CLEAN, NOISY, BLURRED)):
        draw = np.random.default_rng(seed)
        norms = {"norm.running_mean": draw.normal(size=3).astype(np.float32), "norm.running_var": np.ones(3, np.float32)}
        save_file({key: value + draw.normal(size=value.shape).astype(np.float32) / 10 for key, value in start.items()} | norms, name)
    (sandbox / "signature_judge.py").write_text(JUDGE)


def rows(run: Run, *arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(run("signature", *arguments, "--format", "json").stdout))


def extracted(run: Run, robust: str = NOISY, name: str = "noise.safetensors", *more: str) -> str:
    run("signature", "extract", START, CLEAN, robust, "-o", name, *more)
    return name


def test_a_signature_is_extracted_and_catalogued(run: Run) -> None:
    [row] = rows(run, "extract", START, CLEAN, NOISY, "-o", "noise.safetensors")
    assert row["tensors"] == 4 and row["bits"] == 0 and row["id"] == ws.open("noise.safetensors").id
    assert row["bytes"] == Path("noise.safetensors").stat().st_size
    listed = {one["name"]: one["kind"] for one in json.loads(run("ls", "--format", "json").stdout)}
    assert listed["noise"] == "signature" and listed["clean"] == "full"
    shown = run("show", "noise").stdout
    assert "kind        signature, safetensors" in shown
    assert [f"made from   {name} (signature)" in shown for name in ("start", "clean", "noisy")] == [True] * 3


def test_codes_are_smaller(run: Run) -> None:
    save_file({"w": np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)}, "wide.safetensors")
    for seed in (1, 2):
        save_file({"w": np.random.default_rng(seed).normal(size=(300, 300)).astype(np.float32)}, f"wide{seed}.safetensors")
    shown = run(
        "signature",
        "extract",
        "wide.safetensors",
        "wide1.safetensors",
        "wide2.safetensors",
        "-o",
        "s.safetensors",
        "--bits",
        "4",
        "--quantiser",
        "log",
    )
    head, line = shown.stdout.splitlines()
    assert head.split() == ["file", "id", "tensors", "bits", "size", "times", "smaller"]
    assert line.split()[3] == "4" and 7.8 < float(line.split()[-1]) < 8


def test_layers_are_chosen_and_others_reported(run: Run) -> None:
    noisy = load_file(NOISY)
    save_file(noisy | {"fc2.bias": np.array([1, np.nan], np.float32)}, NOISY)
    shown = run("signature", "extract", START, CLEAN, NOISY, "-o", "noise.safetensors", "--layers", "first:1", "--no-norms")
    assert "left out 'fc2.bias': it holds NaN or infinities" in shown.stderr
    assert {one["tensor"] for one in rows(run, "show", "noise.safetensors")} == {"fc1.weight", "fc1.bias"}
    assert "tensors of batch norms" not in run("signature", "show", "noise.safetensors").stderr


def test_a_signature_is_shown_and_drawn(run: Run) -> None:
    extracted(run)
    shown = run("signature", "show", "noise", "--plot", "energy.png")
    assert shown.stdout.splitlines()[0].split() == ["tensor", "shape", "energy", "norm", "of", "clean", "along", "clean", "size"]
    assert "floats: " in shown.stderr and "with 2 tensors of batch norms" in shown.stderr
    assert Path("energy.png").read_bytes().startswith(b"\x89PNG")
    assert sum(row["energy"] for row in rows(run, "show", "noise")) == pytest.approx(1)


@pytest.mark.parametrize("more", [[], ["--replace-norms"], ["--strength", "0.3", "--weight", "1", "--weight", "0.5"]])
def test_a_patch_is_applied_and_removed_bit_for_bit(run: Run, more: list[str]) -> None:
    both = [extracted(run), extracted(run, BLURRED, "blur.safetensors", "--bits", "3", "--quantiser", "tanh")]
    save_file(load_file(CLEAN), "before.safetensors")
    run("export", "before.safetensors", "-o", "whole.safetensors")
    [row] = rows(run, "apply", "whole.safetensors", *both, "-o", "patched.safetensors", *more)
    assert row["undo"] == Path("patched.difference").stat().st_size
    changed, original = load_file("patched.safetensors"), load_file("whole.safetensors")
    assert all(not np.array_equal(changed[name], original[name]) for name in ("fc1.weight", "fc2.bias"))
    assert np.array_equal(changed["norm.running_mean"], original["norm.running_mean"]) is (more != ["--replace-norms"])
    for given in ([], both):  # remembered by the catalog, or named
        [back] = rows(run, "remove", "patched.safetensors", *given, "-o", "back.safetensors", "--force")
        assert load_file("back.safetensors").keys() == original.keys()
        assert all(load_file("back.safetensors")[name].tobytes() == original[name].tobytes() for name in original)
        assert back["id"] == ws.open("whole.safetensors").id
    made_from = run("show", "patched").stdout
    assert "noise (patch)" in made_from and "blur (patch)" in made_from


def test_a_patch_that_leaves_the_range_of_the_dtype_is_said(run: Run) -> None:
    save_file({name: value.astype(np.float16) for name, value in load_file(CLEAN).items()}, "half.safetensors")
    shown = run("signature", "apply", "half.safetensors", extracted(run), "-o", "patched.safetensors", "--strength", "1e9", columns=300)
    lost = sum(int((~np.isfinite(value)).sum()) for value in load_file("patched.safetensors").values())
    assert lost and f"warning: {lost} elements of 4 tensors became NaN or infinite, first in 'fc1." in shown.stderr
    assert "take a --strength below 1e+09, or patch a model of a wider dtype" in shown.stderr
    weak = run("signature", "apply", "half.safetensors", "noise", "-o", "patched.safetensors", "--force")
    assert "became NaN" not in weak.stderr


def test_a_signature_of_nothing_is_said(run: Run) -> None:
    shown = run("signature", "extract", START, START, START, "-o", "none.safetensors", columns=300)
    assert "warning: the signature is all zeros" in shown.stderr
    assert "all zeros" not in run("signature", "extract", START, CLEAN, NOISY, "-o", "noise.safetensors").stderr


@pytest.mark.parametrize("over", [START, CLEAN, NOISY])
def test_extraction_writes_over_no_input(run: Run, over: str) -> None:
    before = Path(over).read_bytes()
    said = run("signature", "extract", START, CLEAN, NOISY, "-o", over, "--force", code=1).stderr
    assert f"{over}: is read for this itself; choose another name for the result" in said
    assert Path(over).read_bytes() == before


def test_a_quantiser_needs_bits(run: Run) -> None:
    said = run("signature", "extract", START, CLEAN, NOISY, "-o", "x.safetensors", "--quantiser", "log", code=2, columns=300).stderr
    assert "belongs to --bits N, without which floats are stored" in said and not Path("x.safetensors").exists()


def test_eight_bits_are_extracted_and_patched(run: Run) -> None:
    narrow = {name: ws.open(name)["fc1.weight"].to(torch.float8_e4m3fn) for name in (START, CLEAN, NOISY)}
    for name, tensor in narrow.items():
        ws.save({"fc1.weight": tensor, "norm.weight": tensor[0], "norm.running_var": tensor[0]}, f"eight-{name}")
    run("signature", "extract", *(f"eight-{name}" for name in narrow), "-o", "eight.safetensors")
    run("signature", "apply", f"eight-{CLEAN}", "eight.safetensors", "-o", "patched.safetensors")
    expected = (narrow[CLEAN].double() + ws.open("eight.safetensors")["signature.fc1.weight"].double()).to(torch.float8_e4m3fn)
    assert ws.open("patched.safetensors")["fc1.weight"].float().equal(expected.float())


def test_a_patch_is_judged(run: Run) -> None:
    [row] = rows(run, "apply", CLEAN, extracted(run), "-o", "patched.safetensors", "--eval", "signature_judge:norm")
    assert row["loss_before"] != row["loss_after"]


def test_a_catalogued_copy_in_the_store_is_a_signature_still(run: Run) -> None:
    extracted(run, NOISY, "noise.safetensors", "--bits", "4")
    run("ingest", "noise.safetensors", "--copy")
    before = rows(run, "show", "noise")
    Path("noise.safetensors").unlink()
    assert rows(run, "show", "noise") == before


def test_a_signature_is_carried_to_other_neurons(run: Run) -> None:
    for name in (START, CLEAN, NOISY):
        save_file({key: value for key, value in load_file(name).items() if "norm" not in key}, name)
    turned = load_file(CLEAN)
    order = np.random.default_rng(5).permutation(64)
    turned = {
        "fc1.weight": turned["fc1.weight"][order], "fc1.bias": turned["fc1.bias"][order],
        "fc2.weight": np.ascontiguousarray(turned["fc2.weight"][:, order]), "fc2.bias": turned["fc2.bias"],
    }  # fmt: skip
    save_file(turned, "turned.safetensors")
    run("signature", "transfer", extracted(run), CLEAN, "turned.safetensors", "-o", "moved.safetensors")
    noise, moved = load_file("noise.safetensors"), load_file("moved.safetensors")
    np.testing.assert_array_equal(moved["signature.fc1.weight"], noise["signature.fc1.weight"][order])
    assert "made from   noise (signature)" in run("show", "moved").stdout


def test_without_a_zoo_files_are_enough(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in (START, CLEAN, NOISY):
        (alone / name).write_bytes(Path(name).read_bytes())
    monkeypatch.chdir(alone)
    said = run("signature", "extract", START, CLEAN, NOISY, "-o", "noise.safetensors", "--zoo", ".").stderr
    assert "no zoo here, so nothing was catalogued" in said
    run("signature", "apply", CLEAN, "noise.safetensors", "-o", "patched.safetensors", "--zoo", ".")
    run("signature", "remove", "patched.safetensors", "noise.safetensors", "-o", "back.safetensors", "--zoo", ".")
    assert ws.open("back.safetensors") == ws.open(CLEAN)


def test_mistakes_are_one_line(run: Run) -> None:
    extracted(run)
    run("signature", "apply", CLEAN, "noise", "-o", "patched.safetensors")

    def said(*arguments: str) -> str:
        [line] = run("signature", *arguments, code=1).stderr.splitlines()
        return line

    assert "clean.safetensors: expected a signature, found a model" in said("show", CLEAN)
    assert "exists already; choose another name, or replace it with --force" in said(
        "extract", START, CLEAN, NOISY, "-o", "noise.safetensors"
    )
    assert "no quantiser named 'lin'" in said("extract", START, CLEAN, NOISY, "-o", "x.safetensors", "--bits", "4", "--quantiser", "lin")
    assert "expected 2 to 16 bits, found 1" in said("extract", START, CLEAN, NOISY, "-o", "x.safetensors", "--bits", "1")
    assert "is read for this itself; choose another name" in said("apply", CLEAN, "noise", "-o", CLEAN, "--force")
    assert "is read for this itself; choose another name" in said("remove", "patched", "-o", "patched.safetensors", "--force")
    assert "is read for this itself; choose another name" in said("remove", "patched", "-o", "noise.safetensors", "--force")
    assert "expected a patched model, found one that was made otherwise" in said("remove", CLEAN, "-o", "x.safetensors")
    assert "does not exist, and without it the last bits of the model are lost" in said(
        "remove", "patched", "-o", "x.safetensors", "--kept", "no.difference"
    )
    assert not Path("x.safetensors").exists()
    Path("noise.safetensors").unlink()
    assert "the catalog does not have the signatures" in said("remove", "patched", "-o", "x.safetensors")
