import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from weightspace.zoo.metrics import Metric
from weightspace.zoo.runs.matching import File, match_runs
from weightspace.zoo.runs.places import Place, Places, place_in_run
from weightspace.zoo.runs.run import Run, plain_values, seed_of
from weightspace.zoo.runs.run_folders import read_run_folder

START = datetime(2026, 1, 1, tzinfo=UTC)


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def at(root: Path, name: str) -> tuple[str | None, int | None, str] | None:
    place = place_in_run(root / name, root)
    return None if place is None else (place.run.relative_to(root).as_posix() if place.run else None, place.step, place.unit)


LAYOUTS = [
    ("Hugging Face", ["r/checkpoint-500/model.safetensors", "r/checkpoint-1000/model.safetensors"], 0, ("r", 500, "step")),
    ("Hugging Face, one", ["r/checkpoint-500/model.safetensors", "r/checkpoint-500/trainer_state.json"], 0, ("r", 500, "step")),
    ("Hugging Face, final", ["r/model.safetensors", "r/checkpoint-5/trainer_state.json"], 0, ("r", None, "step")),
    (
        "Lightning",
        ["lightning_logs/version_0/checkpoints/epoch=3-step=400.ckpt"],
        0,
        ("lightning_logs/version_0", 400, "step"),
    ),
    (
        "Lightning, last",
        ["v/version_0/checkpoints/last.ckpt", "v/version_0/checkpoints/epoch=3-step=4.ckpt"],
        0,
        ("v/version_0", None, "step"),
    ),
    ("plain steps", ["run/step_1000.pt", "run/step_2000.pt"], 0, ("run", 1000, "step")),
    ("dashes", ["run/step-1000.safetensors", "run/step-2000.safetensors"], 1, ("run", 2000, "step")),
    ("thousands", ["run/step_10k.pt", "run/step_20k.pt"], 0, ("run", 10_000, "step")),
    ("epochs", ["run/epoch_9.pt", "run/epoch_10.pt"], 0, ("run", 9, "epoch")),
    ("ckpt", ["run/ckpt_0010.pt", "run/ckpt_0020.pt"], 0, ("run", 10, "step")),
    ("in a collection", ["run/checkpoints/model_epoch_1.pt", "run/checkpoints/model_epoch_2.pt"], 1, ("run", 2, "epoch")),
    ("Megatron", ["m/iter_0001000/mp_rank_00/model_optim_rng.pt", "m/latest_checkpointed_iteration.txt"], 0, ("m", 1000, "step")),
    ("DeepSpeed", ["d/global_step100/mp_rank_00_model_states.pt", "d/latest"], 0, ("d", 100, "step")),
    (
        "DeepSpeed in Hugging Face",
        ["r/checkpoint-5/global_step5/mp_rank_00_model_states.pt", "r/checkpoint-5/trainer_state.json"],
        0,
        ("r", 5, "step"),
    ),
    ("Ray Tune", ["trial_x/checkpoint_000025/checkpoints", "trial_x/params.json"], 0, ("trial_x", 25, "step")),
    ("numbers", ["exp/110000.pt", "exp/120000.pt"], 0, ("exp", 110_000, "step")),
    (
        "two runs in a folder",
        ["f/base_epoch_1.pt", "f/base_epoch_2.pt", "f/wide_epoch_1.pt", "f/wide_epoch_2.pt"],
        2,
        ("f/wide", 1, "epoch"),
    ),
    (
        "a final one of two",
        ["f/wide_last.pt", "f/wide_epoch_1.pt", "f/wide_epoch_2.pt", "f/b_epoch_1.pt", "f/b_epoch_2.pt"],
        0,
        ("f/wide", None, "epoch"),
    ),
    ("alone", ["baseline_epoch_9.pt"], 0, (None, 9, "epoch")),
    ("alone with its ema", ["f/step_9.pt", "f/step_9_ema.pt"], 0, (None, 9, "step")),
    ("members of a zoo", ["zoo/0.pt", "zoo/1.pt", "zoo/2.pt"], 1, None),
    ("numbered names", ["zoo/orbit_000.pth", "zoo/orbit_001.pth"], 1, None),
    ("pictures do not count", ["f/epoch_1.png", "f/epoch_2.pt"], 1, (None, 2, "epoch")),
    ("no step", ["f/timestep10.pt", "f/best.pt", "f/model.pt"], 0, None),
]


@pytest.mark.parametrize(("names", "which", "expected"), [one[1:] for one in LAYOUTS], ids=[one[0] for one in LAYOUTS])
def test_layouts_of_trainers_tell_run_and_step(
    tmp_path: Path, names: list[str], which: int, expected: tuple[str | None, int | None, str] | None
) -> None:
    touch(tmp_path, *names)
    assert at(tmp_path, names[which]) == expected


def test_the_run_is_named_alike_from_a_deeper_root(tmp_path: Path) -> None:
    touch(tmp_path, "run/checkpoints/epoch_1.pt", "run/checkpoints/epoch_2.pt")
    path = tmp_path / "run/checkpoints/epoch_1.pt"
    deep, high = place_in_run(path, path.parent), place_in_run(path, tmp_path)
    assert deep is not None and high is not None and deep.run == high.run == tmp_path / "run"
    assert deep.folder == path.parent and high.folder == tmp_path / "run"


def test_seeds_are_read_from_names(tmp_path: Path) -> None:
    names = ["seed_03/step_1.pt", "seed_03/step_2.pt", "mlp_s=7_epoch_1.pt", "lr1_seed0_step_5.pt"]
    touch(tmp_path, *names)
    places = Places(tmp_path)
    assert [place.seed if (place := places.of(tmp_path / name)) else None for name in names] == [3, 3, 7, 0]


def test_a_big_folder_is_listed_once(tmp_path: Path) -> None:
    names = [f"step_{i}.pt" for i in range(20_000)]
    listed = []

    def listing(folder: Path) -> list[str]:
        listed.append(folder)
        return names if folder == tmp_path else []

    places = Places(tmp_path, listing)
    start = time.perf_counter()
    assert all(places.of(tmp_path / name) is not None for name in names)
    assert time.perf_counter() - start < 15.0  # a quadratic walk takes minutes
    assert listed.count(tmp_path) == 1


def test_a_run_folder_tells_settings_seed_and_history(tmp_path: Path) -> None:
    touch(tmp_path, "version_0/checkpoints/epoch=0-step=10.ckpt")
    (tmp_path / "version_0/hparams.yaml").write_text("lr: 1e-3\nseed: 5\nmodel:\n  width: 8\n")
    (tmp_path / "version_0/metrics.csv").write_text("epoch,step,train_loss,val_acc\n0,9,0.5,\n0,9,,0.7\n")
    place = place_in_run(tmp_path / "version_0/checkpoints/epoch=0-step=10.ckpt", tmp_path)
    assert place is not None
    run = read_run_folder(place)
    assert run is not None
    assert (run.key, run.name, run.source, run.seed) == (f"folder:{tmp_path}/version_0", "version_0", "folder", 5)
    assert run.hyperparameters == {"lr": 0.001, "seed": 5, "model.width": 8}
    assert run.metrics == (Metric("loss", 0.5, "train", 9), Metric("acc", 0.7, "val", 9))


def test_the_last_trainer_state_is_the_history_of_a_run(tmp_path: Path) -> None:
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        touch(folder, "model.safetensors")
        rows = [{"loss": 1.0 / one, "step": one, "epoch": one / 5} for one in range(5, step + 1, 5)]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 10, "log_history": rows}))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 7}')
    (tmp_path / "args.json").write_text("{broken")
    place = place_in_run(tmp_path / "checkpoint-5/model.safetensors", tmp_path)
    assert place is not None
    run = read_run_folder(place)
    assert run is not None and [point.step for point in run.metrics] == [5, 10]
    assert run.hyperparameters == {"max_steps": 10} and len(run.notes) == 1 and "args.json" in run.notes[0]
    assert read_run_folder(Place(None, tmp_path, 3, "step", "")) is None


def test_settings_are_flat_plain_values() -> None:
    tree = {"a": {"b": "1e-3"}, "n": "007", "t": "True", "l": [1, "x"], "deep": [[1]], "none": None, "big": 10**400, "i": "12"}
    assert plain_values(tree) == {"n": "007", "t": True, "l": "[1, 'x']", "i": 12, "a.b": 0.001}
    assert seed_of({"data.seed": 1, "seed": 2}) == 2 and seed_of({"train.random_state": 4}) == 4 and seed_of({"seed": True}) is None


def run(name: str, hours: tuple[float, float] | None = None, steps: tuple[int, ...] = (), **more: object) -> Run:
    times = (START + timedelta(hours=hours[0]), START + timedelta(hours=hours[1])) if hours else (None, None)
    metrics = tuple(Metric("loss", 1.0, None, step) for step in steps)
    hyperparameters = more.pop("hyperparameters", {})
    artifacts = more.pop("artifacts", ())
    assert isinstance(hyperparameters, dict) and isinstance(artifacts, tuple) and not more
    key, (started, ended) = f"mlflow:{name}-id", times
    return Run(key, name, "mlflow", hyperparameters=hyperparameters, started=started, ended=ended, metrics=metrics, artifacts=artifacts)


def file(path: str, hour: float = 0.0, step: int | None = None, run: str | None = None) -> File:
    return File(Path(path), START + timedelta(hours=hour), step, run)


def matched(runs: list[Run], files: list[File]) -> dict[str, tuple[str, str]]:
    return {str(one.file.path): (one.run.removeprefix("mlflow:").removesuffix("-id"), one.evidence) for one in match_runs(runs, files)}


def test_artifacts_and_output_folders_name_their_files() -> None:
    a = run("a", artifacts=("file:///store/a/artifacts/", "/out/a/last.pt"))
    b = run("b", hyperparameters={"trainer.output_dir": "runs/b"})
    found = matched(
        [a, b], [file("/store/a/artifacts/ckpt/w.pt"), file("/out/a/last.pt"), file("/home/u/runs/b/w.pt"), file("/home/u/runs/bb/w.pt")]
    )
    assert found == {
        "/store/a/artifacts/ckpt/w.pt": ("a", "artifact folder '/store/a/artifacts'"),
        "/out/a/last.pt": ("a", "artifact '/out/a/last.pt'"),
        "/home/u/runs/b/w.pt": ("b", "output folder 'runs/b'"),
    }


def test_runs_in_one_folder_are_told_apart_by_step_then_time() -> None:
    shared = {"output_dir": "/out"}
    a = run("a", (0, 1), (10, 20), hyperparameters=shared)
    b = run("b", (2, 3), (30,), hyperparameters=shared)
    found = matched([a, b], [file("/out/w20.pt", 9, 20), file("/out/w.pt", 2.5), file("/out/x.pt", 9)])
    assert found == {"/out/w20.pt": ("a", "output folder '/out', step 20"), "/out/w.pt": ("b", "output folder '/out', time")}


def test_names_match_whole_folders_and_only_one_place() -> None:
    runs = [run("sweep-7"), run("twin")]
    files = [file("/z/sweep-7/w.pt"), file("/z/sweep-77/w.pt"), file("/z/a/twin/w.pt"), file("/z/b/twin/w.pt")]
    assert matched(runs, files) == {"/z/sweep-7/w.pt": ("sweep-7", "name 'sweep-7'")}


def test_time_alone_counts_only_for_a_lonely_run_that_came_so_far() -> None:
    runs = [run("a", (0, 2), (100,)), run("b", (1, 3), (100,)), run("open")]
    files = [file("/x/1.pt", 0.5, 50), file("/x/2.pt", 1.5, 50), file("/x/3.pt", 2.5, 500), file("/x/4.pt", 2.5), file("/x/5.pt", 9)]
    assert {path: name for path, (name, _) in matched(runs, files).items()} == {"/x/1.pt": "a", "/x/4.pt": "b"}


def test_checkpoints_of_one_folder_run_go_together() -> None:
    runs = [run("first", (0, 1)), run("second", (2, 3))]
    torn = [file("/x/1.pt", 0.5, 1, "folder:/x"), file("/x/2.pt", 2.5, 2, "folder:/x")]
    assert matched(runs, torn) == {}
    led = [file("/y/first/1.pt", 9, 1, "folder:/y"), file("/y/2.pt", 2.5, 2, "folder:/y")]
    assert {name for name, _ in matched(runs, led).values()} == {"first"} and len(matched(runs, led)) == 2


def test_a_thousand_runs_and_many_files_are_matched_quickly() -> None:
    runs = [run(f"run-{i}", (i, i + 0.5), hyperparameters={"output_dir": f"/out/{i}"}) for i in range(1000)]
    files = [file(f"/out/{i % 1000}/step_{i}.pt", i % 1000, i) for i in range(5000)]
    start = time.perf_counter()
    assert len(match_runs(runs, files)) == 5000
    assert time.perf_counter() - start < 15.0
