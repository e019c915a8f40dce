"""The command generate, from a population in the catalog to new networks in it, with a card."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from weightspace.analysis.generation import generators, load_generator
from weightspace.analysis.generation.through_tasks import losses
from weightspace.cli.generating import material_of
from weightspace.cli.left_out import LeftOut
from weightspace.task import task_for
from weightspace.zoo.populations.filling import fill
from weightspace.zoo.zoo import Zoo

ONE_SHAPE: dict[str, Any] = {"widths": [8], "depths": [1], "activations": ["relu"], "data_fractions": [1.0], "learning_rates": [0.01, 0.02]}


@pytest.fixture(scope="session")
def perceptrons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight perceptrons of one shape, and one of another."""
    folder = tmp_path_factory.mktemp("perceptrons")
    zoo = Zoo(folder)
    fill(zoo, "mlps", count=8, data="digits", steps=[60], **ONE_SHAPE)
    fill(zoo, "mlps", count=1, data="digits", steps=[20], **(ONE_SHAPE | {"widths": [12]}))
    return folder


@pytest.fixture
def zoo(perceptrons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A copy of them, in the working folder."""
    import shutil

    shutil.copytree(perceptrons, tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTSPACE_ZOO", str(tmp_path / "zoo"))
    return Zoo(tmp_path / "zoo")


NARROW = ("--where", "hyperparameters->>'width' = '8'")


def test_networks_are_made_judged_and_catalogued_with_what_made_them(run: Run, zoo: Zoo) -> None:
    made = json.loads(
        run("generate", "noise", *NARROW, "--count", "3", "--name", "noisy", "--option", "sigma=0.01", "--format", "json").stdout
    )
    assert [one["model"] for one in made] == ["noisy/0-0", "noisy/0-1", "noisy/0-2"] and min(one["accuracy"] for one in made) > 0.5
    opened = zoo.open("noisy/0-1")
    assert opened.recipe is not None and opened.recipe["settings"]["sigma"] == 0.01
    assert task_for(opened).evaluate(opened)["accuracy"] == pytest.approx(made[1]["accuracy"])
    edges = zoo.sql(
        "select child.name as child, parent.name as parent from edges join models child on child.model_id = child_id join models parent on parent.model_id = parent_id"
    ).to_pylist()
    parents = {edge["child"]: {one["parent"] for one in edges if one["child"] == edge["child"]} for edge in edges}
    assert parents["noisy/0-1"] == {"noisy"} and len(parents["noisy"]) == 8


def test_a_generator_of_the_catalog_draws_again(run: Run, zoo: Zoo) -> None:
    first = json.loads(run("generate", "mean", *NARROW, "--option", "of=2", "--count", "2", "--name", "m", "--format", "json").stdout)
    again = json.loads(run("generate", "m", "--count", "2", "--seed", "1", "--format", "json").stdout)
    assert {one["id"] for one in first}.isdisjoint(one["id"] for one in again)
    assert again[0]["model"] == "m/1-0" and (zoo.open("m/1-0").recipe or {})["generator"] == "mean"


def test_aligning_makes_the_mean_better(run: Run, zoo: Zoo) -> None:
    del zoo
    asked = ("generate", "mean", *NARROW, "--option", "of=0", "--format", "json")
    [plain], [aligned] = json.loads(run(*asked).stdout), json.loads(run(*asked, "--align", "reference").stdout)
    assert aligned["loss"] < plain["loss"]


def test_a_generator_learns_through_the_task_of_the_networks(run: Run, zoo: Zoo) -> None:
    [made] = json.loads(
        run("generate", "mlp", *NARROW, "--option", "steps=150", "--option", "learning_rate=0.01", "--format", "json").stdout
    )
    assert made["accuracy"] > 0.5
    assert (zoo.open(made["model"]).recipe or {})["generator"] == "mlp"


def test_a_condition_is_a_number_of_the_networks(run: Run, zoo: Zoo) -> None:
    del zoo
    asked = ("generate", "flow", *NARROW, "--condition", "test_accuracy", "--option", "steps=20")
    [made] = json.loads(run(*asked, "--given", "0.9", "--name", "f", "--format", "json").stdout)
    assert made["model"] == "f/0-0"
    said = "networks are made under test_accuracy, and none was given; add --given NUMBER, a value of that SQL expression"
    assert said in run("generate", "f", code=1).stderr
    assert "1 values were given" not in run("generate", "f", "--given", "0.5").stderr
    assert "2 values were given for 1 conditions (test_accuracy)" in run("generate", "f", "--given", "1", "--given", "2", code=1).stderr
    assert "expected numbers after --given, found x" in run("generate", "f", "--given", "x", code=1).stderr


def test_a_condition_that_is_forgotten_is_asked_for_before_anything_is_fitted(run: Run, zoo: Zoo) -> None:
    for conditions, said in (
        (("test_accuracy",), "under test_accuracy, and none was given; add --given NUMBER, a value of that SQL expression"),
        (("test_accuracy", "seed"), "under test_accuracy, seed, and none was given; add --given NUMBER once for each of these"),
        (("@examples",), "under @examples, and none was given; add --given MODEL, the model whose own it is"),
    ):
        asked = [part for one in conditions for part in ("--condition", one)]
        assert said in run("generate", "flow", *NARROW, *asked, "--name", "none", code=1).stderr
    assert not zoo.sql("select 1 from models where name = 'none'").num_rows


def test_examples_of_the_data_are_a_condition(run: Run, zoo: Zoo) -> None:
    name = zoo.sql("select name from model_table limit 1").to_pylist()[0]["name"]
    settings = [part for one in ("steps=2", "autoencoder_steps=2", "encoder_steps=2") for part in ("--option", one)]
    [made] = json.loads(
        run("generate", "d2nwg", *NARROW, "--condition", "@examples", *settings, "--given", name, "--name", "d", "--format", "json").stdout
    )
    assert made["model"] == "d/0-0"
    assert load_generator(zoo.open("d")).condition_shape == (10, 5, 64)


def test_new_weights_under_a_name_that_is_taken_are_new(run: Run, zoo: Zoo) -> None:
    run("generate", "gaussian", *NARROW, "--name", "drawn", "--count", "2")
    again = run("generate", "drawn", "--count", "1")  # as many draws decide what each is
    assert "drawn/0-0@" in again.stdout and "already" not in again.stderr


def test_the_name_that_is_asked_for_is_the_name_that_is_kept(run: Run, zoo: Zoo) -> None:
    first = run("generate", "mean", *NARROW, "--name", "first")
    second = run("generate", "mean", *NARROW, "--name", "second")
    assert "already" not in first.stderr
    assert "same weights were in the catalog already, and keep their names there: first/0-0" in " ".join(second.stderr.split())
    assert "first/0-0" in second.stdout and "second/0-0" not in second.stdout
    assert "second/3-0" in run("generate", "second", "--seed", "3").stdout
    again = run("generate", "mean", *NARROW, "--option", "of=2", "--name", "first")
    [other] = zoo.sql("select name from models where starts_with(name, 'first@') and not contains(name, '/')").to_pylist()
    assert f"another model has the name first, so the generator is kept as {other['name']}" in " ".join(again.stderr.split())


def test_a_card_needs_something_to_judge_by_before_anything_is_fitted(run: Run, zoo: Zoo) -> None:
    import torch

    for at in range(3):
        drawn = torch.Generator().manual_seed(at)
        zoo.add(
            {name: torch.randn(shape, generator=drawn) for name, shape in {"fc.weight": (3, 4), "fc.bias": (3,)}.items()}, f"plain-{at}"
        )
    asked = ("generate", "mean", "--where", "starts_with(name, 'plain-')", "--name", "plain-mean")
    stopped = run(*asked, "--card", "card.html", code=1)
    assert "nothing is known to judge these networks by, so there can be no card; name a function that returns a Task" in " ".join(
        stopped.stderr.split()
    )
    assert not zoo.sql("select 1 from models where name = 'plain-mean'").num_rows
    run(*asked)
    assert "there can be no card" in " ".join(run("generate", "plain-mean", "--seed", "1", "--card", "card.html", code=1).stderr.split())
    assert not zoo.sql("select 1 from models where name = 'plain-mean/1-0'").num_rows


def test_how_to_narrow_a_query_is_told_by_what_it_found(run: Run, zoo: Zoo) -> None:
    def said(*asked: str) -> str:
        return " ".join(run("generate", *asked, code=1).stderr.split())

    def narrowed(told: str) -> str:
        return told.partition('as in --where "')[2].rstrip('"')

    told = said("mean")
    assert "2 architectures" in told
    run("generate", "mean", "--where", narrowed(told))
    fill(zoo, "loras", count=4, data="digits", steps=[5], base_steps=5, ranks=[1, 2])
    assert "first to --where \"kind = 'adapter'\" or to --where \"kind = 'full'\"" in said("lora")
    told = said("lora", "--where", "kind = 'adapter'")
    run("generate", "lora", "--where", narrowed(told), "--option", "steps=2", "--option", "latent=2")
    fill(zoo, "mlps", count=2, data="digits", steps=[5], **(ONE_SHAPE | {"widths": [10], "activations": ["tanh"]}))
    fill(zoo, "mlps", count=1, data="digits", steps=[5], **(ONE_SHAPE | {"widths": [10], "activations": ["relu"]}))
    told = said("mean", "--where", "hyperparameters->>'width' = '10'")
    assert "as in --where \"hyperparameters->>'activation' = 'tanh'\"" in told


def test_an_image_is_a_condition_and_what_is_made_is_judged_by_it(run: Run, zoo: Zoo) -> None:
    fill(zoo, "sirens", count=4, width=8, steps=[20], psnr_floor=1.0)
    names = {
        row["image"]: row["name"]
        for row in zoo.sql(
            "select model_table.name, hyperparameters->>'image' as image from model_table join runs on runs.name = run where starts_with(model_table.name, 'sirens')"
        ).to_pylist()
    }
    asked = ("generate", "foundation", "--where", "hyperparameters->>'image' is not null", "--condition", "@item", "--option", "steps=5")
    [made] = json.loads(run(*asked, "--given", names["2"], "--name", "images", "--format", "json").stdout)
    assert (zoo.open(made["model"]).recipe or {})["like"]["hyperparameters"]["image"] == 2
    assert "that of one model" in run("generate", "images", "--given", names["1"], "--given", names["2"], code=1).stderr
    assert "no model 'nobody'" in run("generate", "images", "--given", "nobody", code=1).stderr


def test_what_is_made_under_a_number_is_like_the_network_nearest_to_it(run: Run, zoo: Zoo) -> None:
    best = zoo.sql("select name from model_table order by test_accuracy desc limit 1").to_pylist()[0]["name"]
    [made] = json.loads(
        run("generate", "flow", *NARROW, "--condition", "test_accuracy", "--option", "steps=5", "--given", "1", "--format", "json").stdout
    )
    like = (zoo.open(made["model"]).recipe or {})["like"]
    assert like["seed"] == (zoo.open(best).recipe or {})["seed"]


def test_what_cannot_be_made_is_said_in_one_line(run: Run, zoo: Zoo) -> None:
    name = zoo.sql("select name from model_table limit 1").to_pylist()[0]["name"]
    for line, said in {
        ("generate", "mean"): "2 architectures",
        ("generate", "mean", "--where", "false"): "the query finds no networks",
        ("generate", "maen"): "maen",
        ("generate", "mean", *NARROW, "--option", "on=3"): "named 'on'",
        ("generate", "mean", *NARROW, "--condition", "test_accuracy"): "takes no conditions",
        ("generate", "mean", *NARROW, "--align", "sideways"): "sideways",
        ("generate", "flow", *NARROW, "--condition", "@item", "--condition", "1"): "stands alone",
        ("generate", "flow", *NARROW, "--condition", "@item", "--given", name): "each fitted to one datum",
        ("generate", "noise", *NARROW, "--set", "width=4"): "makes the architecture that it was fitted on",
        ("generate", "noise", *NARROW, "--set", "girth=4"): "girth",
        ("generate", "noise", *NARROW, "--card", "card.pdf"): ".html",
    }.items():
        assert said in run(*line, code=1).stderr, line
    run("generate", "mean", *NARROW, "--name", "kept")
    assert "is no kind of generator, and --align is for fitting one" in run("generate", "kept", "--align", "merge", code=1).stderr
    assert "holds no generator" in run("generate", "kept/0-0", code=1).stderr


def test_a_card_is_a_page_numbers_and_a_verdict(run: Run, zoo: Zoo) -> None:
    made = run("generate", "mean", *NARROW, "--align", "reference", "--name", "m", "--card", "card.html")
    card = json.loads(Path("card.json").read_text())
    assert card["verdict"] in " ".join(made.stderr.split()) and Path("card.html").read_text().startswith("<!doctype html>")
    [row] = zoo.sql(
        "select value from metrics join models using (model_id) where models.name = 'm' and metrics.name = 'card.score'"
    ).to_pylist()
    assert row["value"] == pytest.approx(card["rows"][0]["score"])
    assert zoo.sql("select 1 from edges").num_rows == 9  # eight parents of the generator, and itself of what it made
    again = run("generate", "m", "--card", "again.html", "--seed", "2")
    assert "again" not in again.stdout and Path("again.json").exists()
    assert "exists already" in run("generate", "m", "--card", "again.html", code=1).stderr


def test_kinds_are_listed(run: Run, zoo: Zoo) -> None:
    del zoo
    listed = {one["generator"]: one for one in json.loads(run("generate", "--list", "--format", "json").stdout)}
    assert listed["flow"]["learns"] == "networks" and "size" in listed["neumeta"]["takes"]
    assert listed.keys() == {one["generator"] for one in json.loads(run("generate", "--format", "json").stdout)}


def test_networks_of_one_architecture_learn_side_by_side(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    fill(zoo, "sirens", count=3, data="digits", steps=[2], psnr_floor=0.0)
    found = material_of(zoo, None, generators["foundation"], ["@item"], LeftOut())
    tasks = found.material.tasks
    assert len(tasks) == 3 and len({(id(one.module), one.loss) for one in tasks}) == 1
    pairs = [(batch, dict(task.module.state_dict())) for task in tasks for batch in task.batches]
    made = losses(tasks, [state for _, state in pairs], [batch for batch, _ in pairs])
    expected = [task.evaluate(state)["loss"] for task, (_, state) in zip(tasks, pairs, strict=True)]
    assert made.detach().tolist() == pytest.approx(expected) and len(set(expected)) == 3  # each by its own image
