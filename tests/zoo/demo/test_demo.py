"""The demo in small: populations that come out the same, questions that find answers, a report that stands alone."""

import html.parser
import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from weightspace.zoo.demo import packages
from weightspace.zoo.demo.demo import POPULATIONS, Demo, demo
from weightspace.zoo.demo.questions import QUESTIONS, ask
from weightspace.zoo.populations import populations
from weightspace.zoo.populations.digits import load_digits
from weightspace.zoo.report.report import write_report
from weightspace.zoo.zoo import Added, Zoo

SMALL = {"widths": (8,), "learning_rates": (0.1, 1.0), "steps": (0, 20)}
HOSTILE = "evil<script>alert(1)</script>\"'&$x_1$\u202e/net"


def trained(name: str, **settings: object) -> list[Added]:
    return list(populations[name](**{**SMALL, **settings}))


def state(model: Added) -> dict[str, torch.Tensor]:
    return dict(model.tensors)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Zoo, Demo, list[str]]:
    zoo, said = Zoo(tmp_path_factory.mktemp("demo")), list[str]()
    return zoo, demo(zoo, settings=SMALL, jobs=1, say=said.append), said


@pytest.fixture
def page(shown: tuple[Zoo, Demo, list[str]]) -> str:
    return shown[1].report.read_text("utf-8")


@pytest.mark.parametrize("name", POPULATIONS)
class TestPopulation:
    def test_same_seed_same_bytes(self, name: str) -> None:
        for one, two in zip(trained(name, seed=3), trained(name, seed=3), strict=True):
            assert one.name == two.name and one.metrics == two.metrics
            assert all(torch.equal(tensor, state(two)[key]) for key, tensor in state(one).items())

    def test_another_seed_gives_other_weights(self, name: str) -> None:
        first, other = trained(name, seed=3)[0], trained(name, seed=4)[0]
        assert not any(torch.equal(tensor, state(other)[key]) for key, tensor in state(first).items() if key.endswith("weight"))

    def test_number_of_threads_does_not_matter(self, name: str) -> None:
        before, alone = torch.get_num_threads(), trained(name)
        try:
            torch.set_num_threads(2)
            together = trained(name)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert all(
            torch.equal(tensor, state(two)[key]) for one, two in zip(alone, together, strict=True) for key, tensor in state(one).items()
        )

    def test_recipe_trains_the_network_again_alone(self, name: str) -> None:
        among = trained(name)[-1]
        assert among.recipe is not None
        recipe = json.loads(json.dumps(among.recipe))
        hyperparameters = recipe["hyperparameters"]
        settings = {
            "widths": (hyperparameters["width"],),
            "learning_rates": (hyperparameters["learning_rate"],),
            "seeds": (recipe["seed"],),
        }
        if "mlp" in name:
            settings["depths"] = (hyperparameters["depth"],)
        [*_, alone] = populations[recipe["name"]](**settings, steps=(0, recipe["step"]))
        assert all(torch.equal(tensor, state(alone)[key]) for key, tensor in state(among).items())

    def test_recorded_accuracy_is_that_of_the_saved_weights(self, name: str) -> None:
        model = next(one for one in trained(name, learning_rates=(0.1,), steps=(60,)))
        digits, weights = load_digits(), state(model)
        relu, linear, conv = torch.relu, torch.nn.functional.linear, torch.nn.functional.conv2d
        if "mlp" in name:
            hidden = relu(linear(digits.test, weights["fc1.weight"], weights["fc1.bias"]))
            logits = linear(hidden, weights["fc2.weight"], weights["fc2.bias"])
        else:
            maps = digits.test.reshape(-1, 1, 8, 8)
            for layer in ("conv1", "conv2"):
                maps = relu(conv(maps, weights[f"{layer}.weight"], weights[f"{layer}.bias"], stride=2, padding=1))
            logits = linear(maps.flatten(1), weights["fc.weight"], weights["fc.bias"])
        accuracy = (logits.argmax(1) == digits.test_classes).double().mean().item()
        assert model.metrics is not None
        assert accuracy == pytest.approx(model.metrics["test"]["accuracy"])
        assert accuracy > 0.5

    def test_each_network_is_a_run_with_steps(self, name: str) -> None:
        models = trained(name)
        assert {model.step for model in models} == {0, 20}
        runs = {model.run.key: model.run for model in models if model.run}
        assert len(runs) == len(models) / 2 and len({run.seed for run in runs.values()}) == len(runs)
        assert {run.hyperparameters["learning_rate"] for run in runs.values()} == {0.1, 1.0}


def test_train_and_test_images_are_apart() -> None:
    digits = load_digits()
    assert len(digits.train) + len(digits.test) == 1797
    assert not {image.numpy().tobytes() for image in digits.train} & {image.numpy().tobytes() for image in digits.test}


def test_every_question_has_an_answer_and_a_plot(shown: tuple[Zoo, Demo, list[str]]) -> None:
    answers = shown[1].answers
    assert len(answers) == len(QUESTIONS) == 5
    for answer in answers:
        assert answer.table.num_rows and answer.svg, answer.question.text
        marks = re.findall(r"<(?:path|use)\b", answer.svg)
        assert len(marks) > 20 and "<text" in answer.svg, answer.question.text


def test_an_empty_zoo_is_told_so(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.create()
    answers = [ask(zoo, question) for question in QUESTIONS]
    assert {answer.sentence for answer in answers} == {"Nothing in this zoo answers it."}
    assert "A zoo of 0 models" in write_report(zoo, tmp_path / "report.html", answers).read_text("utf-8")


def test_same_weights_in_other_containers_are_one_model(shown: tuple[Zoo, Demo, list[str]]) -> None:
    [copied] = [row for row in shown[0].duplicates().to_pylist() if any("staged" in path for path in row["paths"])]
    assert {Path(path).suffix for path in copied["paths"]} == {".safetensors", ".pt", ".npz"}


def test_damaged_and_hostile_files_are_quarantined_and_run_nothing(
    shown: tuple[Zoo, Demo, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    zoo = shown[0]
    zoo.ingest(zoo.folder / "staged", jobs=1)
    reasons = {Path(row["path"]).name: row["reason"] for row in zoo.quarantined().to_pylist()}
    assert reasons == {"broken-download.safetensors": "truncated", "pickle-with-a-command.pt": "needs-code"}
    assert "ran code" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("package", packages.WITH_WEIGHTS)
def test_checkpoints_of_an_installed_package_are_catalogued(package: str, shown: tuple[Zoo, Demo, list[str]]) -> None:
    if packages.version(package) is None:
        assert packages.roots(package) == () and any(line.startswith(f"{package} is not installed") for line in shown[2])
        pytest.skip(f"{package} is not installed")
    rows = shown[0].sql("select name from models join tags using (model_id) where key = 'package' and value = ?", [package]).to_pylist()
    assert rows and all(row["name"].startswith(f"{package}/") for row in rows)


def test_packages_that_are_absent_or_ship_no_weights_have_no_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packages.roots("no-such-package-anywhere") == ()
    monkeypatch.setattr(importlib.metadata, "files", lambda package: None)
    assert packages.roots("lpips") == []


class Links(html.parser.HTMLParser):
    """Everything that a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster") and not (value or "").startswith("#"):
                self.found.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.found.append(f"{tag} {name}")
        if tag in ("script", "link", "iframe", "object", "embed", "base", "img", "image"):
            self.found.append(tag)


def loads(page: str) -> list[str]:
    links = Links()
    links.feed(page)
    return [*links.found, *re.findall(r"url\((?!#)[^)]*\)|@import", page)]


def test_report_stands_alone(page: str) -> None:
    assert loads(page) == ["script", "script"]  # the data, and what draws them
    assert "default-src 'none'" in page and page.count("<svg") == 6  # five charts and the map
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)


def test_names_are_escaped_in_page_and_plots(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    spike = torch.zeros(64, 64)
    spike[0, 0] = 1
    zoo.add_many([Added({HOSTILE: spike, "b": torch.randn(64, 64)}, HOSTILE), Added({HOSTILE: spike}, f"{HOSTILE}2", tags={"a": HOSTILE})])
    answers = [ask(zoo, question) for question in QUESTIONS]
    assert any(answer.svg and "evil" in answer.svg for answer in answers)
    page = write_report(zoo, tmp_path / "report.html", answers).read_text("utf-8")
    assert "evil&lt;script&gt;" in page
    assert loads(page) == ["script", "script"] and "<script>alert" not in page and "\u202e" not in page


def test_report_is_replaced_whole(shown: tuple[Zoo, Demo, list[str]], tmp_path: Path) -> None:
    place = tmp_path / "new" / "report.html"
    first = write_report(shown[0], place, shown[1].answers).read_bytes()
    assert write_report(shown[0], place, shown[1].answers).read_bytes() == first
    assert [path.name for path in place.parent.iterdir()] == ["report.html"]


@pytest.fixture
def few_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import weightspace.zoo.demo.demo

    small = {name: lambda recipe=populations[name], **settings: recipe(**{**settings, **SMALL}) for name in POPULATIONS}
    monkeypatch.setattr(weightspace.zoo.demo.demo, "populations", small)
    yield


@pytest.mark.usefixtures("few_networks")
def test_command_talks_on_stderr_and_gives_the_path_on_stdout(tmp_path: Path) -> None:
    from weightspace.cli.main import app

    place = tmp_path / "out.html"
    result = CliRunner().invoke(app, ["demo", "--zoo", str(tmp_path / "demo"), "--seed", "1", "--jobs", "1", "-o", str(place)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{place}\n" and place.exists()
    assert all(question.text in result.stderr and question.sql.splitlines()[0] in result.stderr for question in QUESTIONS)
