"""The commands train-metanet, embed, predict and suggest, from a zoo of small networks to the catalog."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.cli.conftest import Run, mlp
from tests.pictures import pixels
from weightspace.plotting import BLUE, QUIET, VERMILION
from weightspace.zoo.runs.run import Run as Training
from weightspace.zoo.zoo import Added, Zoo

STATS = ("train-metanet", "statistics", "--zoo", "nets")


@pytest.fixture(autouse=True)
def nets(sandbox: Path) -> Zoo:
    """Forty runs of two checkpoints, whose property is the size of their first layer; of another architecture there is one."""
    zoo = Zoo(sandbox / "nets")
    (sandbox / "nets").mkdir()
    models = []
    for seed in range(40):
        run = Training(f"population:net{seed}", f"net{seed}", "population", seed, {"width": 8 + seed % 2})
        for step in (0, 10):
            state = mlp(1000 * seed + step)
            state["fc1.weight"] = state["fc1.weight"] * np.float32(0.5 + seed / 20)
            size = float(np.abs(state["fc1.weight"]).mean())
            models.append(Added(_tensors(state), f"net{seed}/step-{step}", run=run, step=step, metrics={"test": {"size": size}}))
    models.append(Added(_tensors(mlp(7, width=5)), "other", metrics={"test": {"size": 1.0}}))
    zoo.add_many(models)
    return zoo


def _tensors(state: dict[str, npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in state.items()}


def test_from_training_to_neighbours(run: Run, nets: Zoo) -> None:
    trained = run(
        *STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "40", "-o", "p.safetensors", "--format", "json"
    )
    metanet, guess = json.loads(trained.stdout)
    assert metanet["tau"] > 0.7 and metanet["r2"] > 0.6 > guess["r2"]
    assert "networks: 56 train, 12 val, 12 test" in trained.stderr and not list(Path.cwd().glob(".*training"))
    [row] = nets.models("kind <> 'adapter' and test_tau is not null").to_pylist()
    assert row["test_tau"] == pytest.approx(metanet["tau"])

    found = json.loads(run("predict", "--metanet", "p.safetensors", "--zoo", "nets", "--where", "step = 10", "--format", "json").stdout)
    truth = {row["name"]: row["test_size"] for row in nets.models("step = 10").to_pylist()}
    held = [row["low"] <= truth[row["model"]] <= row["high"] for row in found]
    assert len(found) == 40 and sum(held) >= 32
    alone = json.loads(run("predict", "net3/step-10", "--metanet", "p.safetensors", "--zoo", "nets", "--format", "json").stdout)
    assert alone[0]["predicted"] == pytest.approx(next(row["predicted"] for row in found if row["model"] == "net3/step-10"), rel=1e-4)

    embedded = run("embed", "--metanet", "p.safetensors", "--zoo", "nets")
    assert "81 vectors kept under metanet" in embedded.stderr and "left out" not in embedded.stderr
    again = run("embed", "--metanet", "p.safetensors", "--zoo", "nets", "--where", "step = 0")
    assert "40 vectors kept" in again.stderr
    assert len(nets.embeddings()) == 81
    near = json.loads(run("similar", "net3/step-0", "--zoo", "nets", "--limit", "3", "--format", "json").stdout)
    assert len(near) == 3 and near[0]["similarity"] >= near[2]["similarity"] and near[0]["test_size"] > 0


REGRESSION = (*STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "3", "-o", "p.safetensors")


def picture(name: str) -> np.ndarray:
    """What is drawn in a file, and that nothing of it touches its edge."""
    seen = pixels(Path(name).read_bytes())
    inked = (seen != 255).any(-1)
    assert inked.mean() > 0.004 and not inked[[0, -1]].any() and not inked[:, [0, -1]].any()
    return seen


def share(seen: np.ndarray, colour: str) -> float:
    """Of the picture that has a colour."""
    return float((seen == tuple(bytes.fromhex(colour[1:]))).all(-1).mean())


def blue_points(seen: np.ndarray) -> float:
    """The share of a picture that half-transparent points take; the band behind them is paler."""
    return float((seen[..., 2].astype(int) - seen[..., 0] > 100).mean())


def test_training_draws_predictions_on_networks_held_out_and_of_classes_its_curves(run: Run) -> None:
    assert "drew p.png" in run(*REGRESSION, "--plot", "p.png").stderr
    held_out = picture("p.png")
    assert blue_points(held_out) + share(held_out, VERMILION) > 1e-4 and abs(held_out.shape[0] / held_out.shape[1] - 1) < 0.1
    classes = ("--target", "case when test_size > 1 then 1 else 0 end", "--head", "classification", "--where", "run is not null")
    run(*STATS, *classes, "--epochs", "3", "-o", "c.safetensors", "--plot", "c.png")
    curves = picture("c.png")
    assert curves.shape[1] > 1.1 * curves.shape[0]  # panels of epochs
    refused = run(*REGRESSION[:-1], "q.safetensors", "--plot", "c.png", code=1)
    assert "c.png: exists already" in refused.stderr and not Path("q.safetensors").exists()


def test_a_map_of_what_was_embedded_is_drawn_and_coloured(run: Run) -> None:
    run(*REGRESSION)
    embed = ("embed", "--metanet", "p.safetensors", "--zoo", "nets")
    assert "drew map.png" in run(*embed, "--plot", "map.png").stderr
    assert "drew colours.png" in run(*embed, "--plot", "colours.png", "--colour", "test_size").stderr
    plain, coloured = picture("map.png"), picture("colours.png")
    assert share(plain, QUIET) > 1e-4 and share(coloured, QUIET) < share(plain, QUIET)
    assert len(np.unique(coloured.reshape(-1, 3), axis=0)) > len(np.unique(plain.reshape(-1, 3), axis=0))
    refused = run(*embed, "--plot", "x.png", "--colour", "test_sise", code=1)
    assert "no column named 'test_sise'; did you mean 'test_size'" in refused.stderr and "vectors kept" not in refused.stderr
    assert "map.png: exists already" in run(*embed, "--plot", "map.png", code=1).stderr
    one = run(*embed, "--where", "name = 'net1/step-0'", "--plot", "x.png", code=1)
    assert "a map needs two embeddings or more, found 1" in one.stderr and "kept" not in one.stderr and one.stdout == ""
    none = run("predict", "--metanet", "p.safetensors", "--where", "1=0", "--plot", "none.png", "--zoo", "nets")
    assert none.stderr == "no model fits\n" and not Path("none.png").exists()


def test_predictions_are_drawn_against_what_the_catalog_knows(run: Run, nets: Zoo) -> None:
    from safetensors.numpy import save_file

    run(*REGRESSION)
    predict = ("predict", "--metanet", "p.safetensors", "--zoo", "nets")
    assert "drew known.png" in run(*predict, "--where", "step = 10", "--plot", "known.png").stderr
    run(*predict, "net3/step-10", "net4/step-10", "--plot", "two.png")
    known = picture("known.png")
    assert abs(known.shape[0] / known.shape[1] - 1) < 0.1 and blue_points(known) > 2 * blue_points(picture("two.png")) > 0
    nets.add_many([Added(_tensors(mlp(at)), f"new{at}") for at in range(3)])
    save_file(mlp(5), "strange.safetensors")
    for models in (("--where", "name like 'new%'"), ("strange.safetensors",)):
        run(*predict, *models, "--plot", "unknown.png", "--force")
        unknown = picture("unknown.png")
        assert unknown.shape[1] > 1.3 * unknown.shape[0] and share(unknown, BLUE) > 0.01  # bars


def test_a_zoo_without_the_target_is_drawn_as_unknown(run: Run, sandbox: Path) -> None:
    run(*REGRESSION)
    other = Zoo(sandbox / "other")
    (sandbox / "other").mkdir()
    other.add_many([Added(_tensors(mlp(at)), f"new{at}") for at in range(5)])
    asked = ("predict", "--metanet", "p.safetensors", "--zoo", "other", "--where", "true", "--plot", "x.png")
    assert "drew x.png" in run(*asked).stderr and share(picture("x.png"), BLUE) > 0.01


def test_classes_and_scores_are_drawn(run: Run, nets: Zoo) -> None:
    nets.add_many([Added(_tensors(mlp(at)), f"new{at}") for at in range(3)])
    for head, target in (
        ("classification", "case when test_size > 1 then 'large' when test_size > 0 then 'small' end"),
        ("ranking", "test_size"),
    ):
        run(*STATS, "--target", target, "--head", head, "--where", "run is not null", "--epochs", "3", "-o", f"{head}.safetensors")
        predict = ("predict", "--metanet", f"{head}.safetensors", "--zoo", "nets", "--where")
        run(*predict, "step = 10", "--plot", f"{head}.png")
        run(*predict, "name like 'new%'", "--plot", f"{head}-unknown.png")
        assert share(picture(f"{head}-unknown.png"), BLUE) > 0.01 > share(picture(f"{head}.png"), BLUE)


def test_classes_are_told_by_name_and_known_numbers_may_stand_beside(run: Run) -> None:
    wanted = ("--target", "case when test_size > 1 then 'large' else 'small' end", "--head", "classification", "--beside", "test_size")
    run(*STATS, *wanted, "--where", "run is not null", "--epochs", "30", "-o", "c.safetensors")
    found = json.loads(run("predict", "--metanet", "c.safetensors", "--zoo", "nets", "--where", "step = 10", "--format", "json").stdout)
    assert {row["predicted"] for row in found} == {"large", "small"} and set(found[0]) == {"model", "predicted"}
    by_name = run("predict", "net30/step-10", "--metanet", "c.safetensors", "--zoo", "nets").stdout
    assert "large" in by_name
    refused = run("predict", "base.safetensors", "--metanet", "c.safetensors", "--zoo", "nets", code=1)
    assert "in no catalog, but the predictor was made with test_size; ingest it first" in refused.stderr


def test_a_split_of_the_population_is_kept_and_a_failed_run_is_in_none(run: Run, nets: Zoo) -> None:
    models = []
    for seed in range(9):
        split = {7: "val", 8: "test"}.get(seed, "train" if seed else None)
        training = Training(f"population:split{seed}", f"split{seed}", "population", seed, split=split)
        models.append(Added(_tensors(mlp(9000 + seed)), f"split{seed}", run=training, metrics={"test": {"size": seed / 10}}))
    nets.add_many(models)
    trained = run(*STATS, "--target", "test_size", "--where", "run like 'split%'", "--epochs", "2", "-o", "split.safetensors")
    assert "networks: 6 train, 1 val, 1 test" in trained.stderr
    assert "left out split0: is in no split of its population" in trained.stderr


def test_an_interrupted_training_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.metanets.training import _Loop

    whole = run(*STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "6", "-o", "a.safetensors", "--format", "json")
    honest = _Loop.epoch
    done: list[int] = []

    def stopped(*arguments: object) -> float:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_Loop, "epoch", stopped)
    asked = (*STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "6", "-o", "b.safetensors", "--format", "json")
    run(*asked, code=130)
    assert Path(".b.training").exists() and not Path("b.safetensors").exists()
    monkeypatch.setattr(_Loop, "epoch", honest)
    assert json.loads(run(*asked).stdout) == json.loads(whole.stdout)


def test_suggest_names_and_evaluates(run: Run, nets: Zoo) -> None:
    run(*STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "10", "-o", "p.safetensors")
    run("embed", "--metanet", "p.safetensors", "--zoo", "nets", "--where", "step = 10")
    for seed in range(5):
        nets.record(f"net{seed}/step-10", metrics={"score": seed / 20})
    Path("judging.py").write_text("def score(state):\n    return {'score': float(abs(state['fc1.weight']).mean())}\n")
    named = json.loads(run("suggest", "--metric", "score", "--budget", "3", "--zoo", "nets", "--format", "json").stdout)
    assert len({row["model"] for row in named}) == 3
    asked = ("suggest", "--metric", "score", "--budget", "6", "--eval", "judging:score", "--zoo", "nets", "--format", "json")
    tried = json.loads(run(*asked).stdout)
    assert [row["best"] for row in tried] == sorted(row["best"] for row in tried) and len({row["model"] for row in tried}) == 6
    assert nets.models("score is not null").num_rows == 11
    wrong = run("suggest", "--metric", "tests", "--eval", "judging:score", "--zoo", "nets", code=1)
    assert "'judging:score' says score, not 'tests'; name one of them by --metric" in wrong.stderr
    many = run("suggest", "--metric", "score", "--budget", "100", "--zoo", "nets", code=1)
    assert "100 networks are to be chosen, but of only 29 the value is not known" in many.stderr


def test_families_are_listed_and_bad_input_is_one_line(run: Run, nets: Zoo) -> None:
    from weightspace.metanets import metanets

    listed = json.loads(run("train-metanet", "--format", "json").stdout)
    assert {row["family"] for row in listed} == set(metanets) and all(row["what"] for row in listed)
    for line, told in {
        (*STATS, "-o", "x.safetensors"): "found no --target",
        (*STATS, "--target", "test_size"): "found no -o",
        (*STATS, "--target", "test_sise", "-o", "x.safetensors"): "test_sise",
        (*STATS, "--target", "name", "--where", "run is not null", "-o", "x.safetensors"): "expected a number",
        (*STATS, "--target", "test_size", "--where", "run = 'net0'", "-o", "x.safetensors"): "leave none for split",
        (
            *STATS,
            "--target",
            "test_size",
            "--where",
            "run is not null or name = 'other'",
            "-o",
            "x.safetensors",
        ): "reads one architecture, found 2",
        ("train-metanet", "statistic", "--target", "test_size", "-o", "x.safetensors", "--zoo", "nets"): "did you mean 'statistics'",
        ("predict", "--metanet", "base.safetensors", "base.safetensors"): "holds no predictor",
        ("predict", "--metanet", "base.safetensors"): "found neither",
        ("embed", "--metanet", "base.safetensors", "--zoo", "nets"): "holds no metanet",
        ("suggest", "--metric", "test_size", "--zoo", "nets"): "weightspace embed",
    }.items():
        refused = run(*line, code=1)
        assert told in refused.stderr and refused.stderr.count("\n") <= 2, refused.stderr
    assert not Path("x.safetensors").exists()


def _damaged(nets: Zoo) -> None:
    state = mlp(3)
    state["fc2.bias"] = np.array([np.nan, 0], np.float32)
    nets.add_many(
        [
            Added(
                _tensors(state), "broken", run=Training("population:broken", "broken", "population", 3, {}), metrics={"test": {"size": 1.0}}
            )
        ]
    )


def test_networks_that_fell_apart_are_left_out_and_the_others_go_on(run: Run, nets: Zoo) -> None:
    _damaged(nets)
    trained = run(*STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "2", "-o", "p.safetensors")
    assert "left out broken: holds weights that are not finite" in trained.stderr and "56 train" in trained.stderr
    some = ("--where", "name in ('broken', 'net1/step-0')", "--zoo", "nets", "--format", "json")
    found = run("predict", "--metanet", "p.safetensors", *some)
    assert [row["model"] for row in json.loads(found.stdout)] == ["net1/step-0"] and "left out broken" in found.stderr
    assert "1 vector kept" in run("embed", "--metanet", "p.safetensors", *some).stderr
    alone = run("predict", "broken", "--metanet", "p.safetensors", "--zoo", "nets", code=1)
    assert "predictions could be taken of none that the query finds: broken: holds weights that are not finite" in alone.stderr


def test_the_state_of_another_training_is_not_gone_on_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.metanets.training import _Loop

    asked = (*STATS, "--where", "run is not null", "-o", "p.safetensors")
    honest = _Loop.epoch
    calls: list[int] = []

    def stopped(*arguments: object) -> float:
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_Loop, "epoch", stopped)
    run(*asked, "--target", "test_size", "--epochs", "4", code=130)
    monkeypatch.setattr(_Loop, "epoch", honest)
    for other in (
        ("--target", "-test_size", "--epochs", "4"),
        ("--target", "test_size", "--epochs", "9"),
        ("--target", "test_size", "--epochs", "4", "--seed", "1"),
    ):
        refused = run(*asked, *other, code=1)
        assert ".p.training: is the state of another training, which was interrupted; remove it" in refused.stderr
    Path(".p.training").write_bytes(b"damaged")
    refused = run(*asked, "--target", "test_size", "--epochs", "4", code=1)
    assert "cannot be read as the state of a training" in refused.stderr and refused.stderr.count("\n") <= 2
    Path(".p.training").unlink()
    run(*asked, "--target", "test_size", "--epochs", "4")


def test_names_of_classes_may_be_any_words(run: Run) -> None:
    target = "case when test_size > 1.5 then 'large' when test_size > 0.8 then 'me' || chr(10) || 'dium' else '' end"
    run(*STATS, "--target", target, "--head", "classification", "--where", "run is not null", "--epochs", "60", "-o", "c.safetensors")
    found = json.loads(run("predict", "--metanet", "c.safetensors", "--zoo", "nets", "--where", "step = 10", "--format", "json").stdout)
    told = {row["model"]: row["predicted"] for row in found}
    assert set(told.values()) == {"large", "me\ndium", ""} and told["net39/step-10"] == "large" and told["net0/step-10"] == ""


def test_a_model_without_a_known_number_is_left_out_alone(run: Run, nets: Zoo) -> None:
    nets.record("net1/step-10", metrics={"test": {"known": 1.0}})
    nets.record("net2/step-10", metrics={"test": {"known": 2.0}})
    beside = ("--beside", "coalesce(test_known, case when name = 'net3/step-10' then null else step end)")
    run(
        *STATS,
        "--target",
        "test_size",
        *beside,
        "--where",
        "run is not null and name <> 'net3/step-10'",
        "--epochs",
        "1",
        "-o",
        "b.safetensors",
    )
    found = run("predict", "--metanet", "b.safetensors", "--zoo", "nets", "--where", "step = 10", "--format", "json")
    assert len(json.loads(found.stdout)) == 39 and "left out net3/step-10: 'beside 0'" in found.stderr


def test_a_ranking_gives_scores_without_an_interval(run: Run) -> None:
    run(*STATS, "--target", "test_size", "--head", "ranking", "--where", "run is not null", "--epochs", "3", "-o", "r.safetensors")
    found = json.loads(run("predict", "--metanet", "r.safetensors", "--zoo", "nets", "--where", "step = 10", "--format", "json").stdout)
    assert len(found) == 40 and set(found[0]) == {"model", "score"}


def test_a_target_that_tells_nothing_is_refused(run: Run) -> None:
    for target, head, told in (
        ("0.1", "regression", "have the target 0.1, so there is nothing to learn"),
        ("'same'", "classification", "are of class 0, so there is nothing to learn"),
        ("'nan'::double", "regression", "is nan, expected a number; leave it out by --where"),
    ):
        refused = run(*STATS, "--target", target, "--head", head, "--where", "run is not null", "-o", "x.safetensors", code=1)
        assert told in refused.stderr and refused.stderr.count("\n") <= 2


def test_a_predictor_with_other_columns_than_it_was_made_with_is_one_line(run: Run) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    run(*STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "1", "-o", "p.safetensors")
    with safe_open("p.safetensors", "pt") as file:
        known = file.metadata()
    for change, told in (
        ({"beside": '["test_size"]'}, "says other columns or classes than its predictor was made with; train it again"),
        ({"beside": "{"}, "metadata 'beside' that is no list of words; train it again"),
        ({"predictor": '{"head": "no such"}'}, "cannot be built again"),
    ):
        save_file(load_file("p.safetensors"), "t.safetensors", known | change)
        refused = run("predict", "net1/step-0", "--metanet", "t.safetensors", "--zoo", "nets", code=1)
        assert told in refused.stderr and refused.stderr.count("\n") <= 2, refused.stderr


def test_a_model_whose_value_is_not_finite_is_not_suggested_twice(run: Run, nets: Zoo) -> None:
    run(*STATS, "--target", "test_size", "--where", "run is not null", "--epochs", "1", "-o", "p.safetensors")
    run("embed", "--metanet", "p.safetensors", "--zoo", "nets", "--where", "step = 10")
    Path("falling.py").write_text("def score(state):\n    return {'score': float('nan')}\n")
    asked = ("suggest", "--metric", "score", "--budget", "4", "--eval", "falling:score", "--zoo", "nets", "--format", "json")
    found = run(*asked)
    rows = json.loads(found.stdout)
    assert len({row["model"] for row in rows}) == 4 and {row["value"] for row in rows} == {None}
    assert "4 models got a value that is not finite" in found.stderr
