"""The evaluation card has every row, says why one is missing, and sees through copies, means and broken networks."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.generation.materials import CLASSES, HIDDEN, INPUTS, conditions, module, networks, spec
from weightspace.analysis.generation import Card, Kind, Material, Target, WeightGenerator, Wish, evaluation_card, fit
from weightspace.analysis.generation.generator import Progress
from weightspace.metanets import WeightBatch
from weightspace.symmetry import act
from weightspace.task import Task
from weightspace.zoo.populations import training

METHODS = ["generator", "zoo", "noise", "mean", "gaussian", "retrieval", "pruned", "trained from scratch", "block removed"]
COUNT = 8


class Recipe(WeightGenerator):
    """Makes whatever a function makes of the zoo; in no registry."""

    def __init__(self, target: Target, condition_shape: tuple[int, ...] | None = None, *, temperature: float = 0.0) -> None:
        super().__init__(target, condition_shape)
        self.temperature = temperature
        self.make: Callable[[int, Wish, torch.Generator], dict[str, Tensor]]

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Nothing is learned."""

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Make networks."""
        return self.make(count, wish, generator)


Recipe.family = Kind("recipe", Recipe, frozenset({"networks"}), frozenset({"condition", "size"}))


def made_by(make: Callable[..., dict[str, Tensor]], material: Material, **settings: Any) -> Recipe:
    """A generator that makes what a function makes."""
    made = Recipe(material.target, material.condition_shape)
    made.temperature = settings.get("temperature", 0.0)
    made.make = make
    made.recipe = {"generator": "recipe", "settings": settings}
    return made


@lru_cache
def population() -> WeightBatch:
    """Eight perceptrons, trained apart on three blobs."""
    starts = [training.Trainee({k: v[at] for k, v in networks(COUNT).tensors.items()}, seeded(at), 1e-2) for at in range(COUNT)]
    batches = training.drawn(*blobs(0), starts, 16)
    [(_, weights)] = training.train(module(), starts, batches, training.cross_entropy, training.Adam(), [60])
    return WeightBatch(networks(1).layout, weights, module())


@lru_cache
def centres() -> Tensor:
    """Of three blobs that overlap, so that networks err."""
    return 2 * torch.randn(CLASSES, INPUTS, generator=seeded(9))


def blobs(seed: int, count: int = 300) -> tuple[Tensor, Tensor]:
    """Examples with their classes."""
    classes = torch.arange(count) % CLASSES
    return centres()[classes] + 2 * torch.randn(count, INPUTS, generator=seeded(seed)), classes


def seeded(seed: int = 0) -> torch.Generator:
    """A source of chance."""
    return torch.Generator().manual_seed(seed)


def judges() -> dict[str, Task]:
    """Examples to choose settings by, and to judge by."""
    return {name: Task.classification(module(), *blobs(seed)) for name, seed in (("validation", 1), ("test", 2))}


def regression(metrics: dict[str, Any]) -> dict[str, Task]:
    """The same examples without classes."""

    def on(seed: int) -> Task:
        x, y = blobs(seed)
        wanted = nn.functional.one_hot(y, CLASSES).float()
        return Task(module(), [(x, wanted)], lambda out, batch: (out - batch[1]).square().mean(), metrics)

    return {"validation": on(1), "test": on(2)}


def material(**changes: Any) -> Material:
    """The zoo, with a task to learn from."""
    zoo = population()
    return replace(Material(Target.of_networks(zoo), zoo, [Task.classification(module(), *blobs(0))]), **changes)


def ticking() -> Callable[[], float]:
    """A clock that ticks a second whenever it is looked at."""
    seconds: Iterator[int] = iter(range(10**6))
    return lambda: float(next(seconds))


def card(fitted: WeightGenerator, given: Material, **options: Any) -> Card:
    """A small card."""
    return evaluation_card(fitted, given, **{**judges(), "count": 6, "compared": 0, "clock": ticking(), **options})


@pytest.fixture(scope="module")
def of_the_mean() -> Card:
    """The card of the plain mean, all of it."""
    return card(fit("mean", material(), of=0), material(), fitting_seconds=1.5, compared=2)


class TestRows:
    """What is on every card."""

    def test_every_row_is_there(self, of_the_mean: Card) -> None:
        assert list(dict.fromkeys(row.method for row in of_the_mean.rows)) == METHODS
        assert sum(row.method == "noise" for row in of_the_mean.rows) >= 3

    def test_what_cannot_be_had_says_why(self, of_the_mean: Card) -> None:
        missing = {row.method: row.missing for row in of_the_mean.rows if row.missing}
        assert missing == {
            "retrieval": "the generator was fitted without conditions",
            "pruned": "the networks are made at full size",
            "trained from scratch": "those of the zoo are",
            "block removed": "the generator makes all parameters",
        }

    def test_the_zoo_is_judged_by_itself(self, of_the_mean: Card) -> None:
        test, zoo = judges()["test"], population()
        scores = [test.evaluate({k: v[at] for k, v in zoo.tensors.items()})["accuracy"] for at in range(COUNT)]
        row = of_the_mean.row("zoo")
        assert row.score == pytest.approx(sum(scores) / COUNT)
        assert row.score_max == pytest.approx(max(scores))
        assert row.iou is not None
        assert 0 < row.iou < 1
        assert row.distance is not None
        assert row.distance > 0.1

    def test_a_mean_against_itself_is_no_win(self, of_the_mean: Card) -> None:
        [same] = [one for one in of_the_mean.comparisons if one.row.name == "mean of all"]
        assert same.difference == pytest.approx(0)
        assert "The generator wins" not in of_the_mean.verdict

    def test_cost_is_by_the_clock_that_is_given(self, of_the_mean: Card) -> None:
        assert of_the_mean.rows[0].milliseconds == pytest.approx(1000 / 6)
        assert of_the_mean.fitting_seconds == 1.5
        assert of_the_mean.weights == COUNT * of_the_mean.parameters

    def test_no_row_is_unknown(self, of_the_mean: Card) -> None:
        with pytest.raises(KeyError, match="soup"):
            of_the_mean.row("soup")


class TestMemory:
    """Generators that only look good."""

    def test_a_copy_is_not_new(self) -> None:
        zoo = population()
        order = torch.arange(6)
        found = card(
            made_by(lambda count, wish, generator: {k: v[order] for k, v in zoo.tensors.items()}, material()), material(), compared=2
        )
        own = found.rows[0]
        assert own.iou == 1.0
        assert own.distance == pytest.approx(0, abs=1e-6)
        assert "The generator wins" not in found.verdict

    def test_a_copy_in_another_order_is_not_new(self) -> None:
        zoo = population()
        moved = [act(spec().random(seeded(at)), {k: v[at] for k, v in zoo.tensors.items()}) for at in range(6)]
        shuffled = {k: torch.stack([one[k] for one in moved]) for k in zoo.tensors}
        own = card(made_by(lambda count, wish, generator: shuffled, material()), material(), compared=2).rows[0]
        assert own.iou == pytest.approx(1.0, abs=0.01)
        assert own.distance == pytest.approx(0, abs=1e-3)

    def test_a_broken_network_is_new_and_does_not_win(self) -> None:
        def broken(count: int, wish: Wish, generator: torch.Generator) -> dict[str, Tensor]:
            return {k: torch.randn(count, *v.shape[1:], generator=generator) for k, v in population().tensors.items()}

        found = card(made_by(broken, material()), material())
        own = found.rows[0]
        assert own.iou is not None
        assert own.iou < 0.7  # a copy has 1
        assert found.comparisons[0].difference < 0
        assert not found.verdict.startswith("The generator wins")

    def test_new_and_good_networks_win(self) -> None:
        """Networks trained on the test examples themselves: better than the zoo, and unlike it."""
        x, y = blobs(2)
        starts = [training.Trainee({k: v[at] for k, v in networks(6, seed=5).tensors.items()}, seeded(at), 3e-2) for at in range(6)]
        steps = training.train(module(), starts, training.drawn(x, y, starts, 64), training.cross_entropy, training.Adam(), [400])
        [(_, weights)] = steps
        found = card(made_by(lambda count, wish, generator: weights, material()), material(), validation=judges()["test"])
        assert found.verdict.startswith("The generator wins: ")


class TestWishes:
    """Conditions and sizes."""

    def test_retrieval_stands_beside_conditions(self) -> None:
        given = material(conditions=conditions(COUNT))
        zoo = population()
        seen: list[Tensor] = []

        def make(count: int, wish: Wish, generator: torch.Generator) -> dict[str, Tensor]:
            assert wish.condition is not None
            seen.append(wish.condition)
            return {k: v[:count] for k, v in zoo.tensors.items()}

        found = card(made_by(make, given), given)
        assert seen[0].shape == (6, 1)
        assert all(any(torch.equal(one, known) for known in conditions(COUNT)) for one in seen[0])
        row = found.row("retrieval")
        assert (row.networks, row.iou) == (6, 1.0)
        assert [one.row.method for one in found.beside][1:] == ["retrieval"]
        asked = card(made_by(make, given), given, wish=Wish(torch.tensor([0.31])))
        accuracy = judges()["test"].evaluate({k: v[2] for k, v in zoo.tensors.items()})["accuracy"]
        assert asked.row("retrieval").score == pytest.approx(accuracy)

    def test_a_smaller_size_stands_beside_pruned_and_trained_networks(self) -> None:
        def make(count: int, wish: Wish, generator: torch.Generator) -> dict[str, Tensor]:
            assert wish.target is not None
            return {k: torch.randn(count, *shape, generator=generator) for k, shape in wish.target.shapes.items()}

        small = Wish(target=Target.of_module(module(3), spec(3)))
        found = card(made_by(make, material(), temperature=1.0, steps=80), material(), wish=small)
        assert found.parameters == 3 * 5 + 3 * 4
        assert found.row("pruned").networks == COUNT
        assert found.row("pruned").distance is None
        trained = found.row("trained from scratch")
        assert (trained.networks, trained.value) == (3, 80)
        assert found.rows[0].score is not None
        assert trained.score is not None
        assert trained.score > found.rows[0].score
        assert sorted(row.value or 0 for row in found.rows if row.method == "generator" and row.setting) == [0.5, 0.8, 1.25]

    def test_only_networks_of_its_size_stand_against_a_smaller_one(self) -> None:
        def make(count: int, wish: Wish, generator: torch.Generator) -> dict[str, Tensor]:
            drawn = {k: torch.randn(count, *shape, generator=generator) for k, shape in (wish.target or material().target).shapes.items()}
            return {k: 3 * v for k, v in drawn.items()}

        small = Wish(target=Target.of_module(module(3), spec(3)))
        found = card(made_by(make, material(), steps=4), material(), wish=small)
        sizes = {row.method: row.parameters for row in found.rows if not row.missing}
        full = sum(parameter.numel() for parameter in module().parameters())
        assert sizes == {"generator": 27, "pruned": 27, "trained from scratch": 27} | dict.fromkeys(
            ("zoo", "noise", "mean", "gaussian"), full
        )
        assert {one.row.method for one in found.comparisons} <= {"pruned"} and found.beside[0].row.method == "pruned"
        assert f", of {full} parameters instead of 27" in found.verdict
        usual = card(made_by(make, material()), material())
        assert {one.row.method for one in usual.comparisons} == {"noise", "mean", "gaussian"}

    def test_a_size_that_cannot_be_pruned_says_why(self) -> None:
        def make(count: int, wish: Wish, generator: torch.Generator) -> dict[str, Tensor]:
            assert wish.target is not None
            return {k: torch.randn(count, *shape, generator=generator) for k, shape in wish.target.shapes.items()}

        larger = Wish(target=Target.of_module(module(HIDDEN + 1), spec(HIDDEN + 1)), module=module(HIDDEN + 1))
        found = card(made_by(make, material(tasks=())), material(tasks=()), wish=larger)
        assert "pruning only makes networks smaller" in found.row("pruned").missing
        assert found.row("trained from scratch").missing == "no task to learn from was given"

    def test_a_part_that_is_made_is_removed(self) -> None:
        zoo = population()
        target = Target({"fc2.bias": (CLASSES,)}, {k: v[0] for k, v in zoo.tensors.items() if k != "fc2.bias"}, spec())
        given = material(target=target)
        made = made_by(lambda count, wish, generator: {"fc2.bias": zoo.tensors["fc2.bias"][:1].expand(count, -1)}, given)
        found = card(made, given, compared=2)
        without = {k: v[0] for k, v in zoo.tensors.items()} | {"fc2.bias": torch.zeros(CLASSES)}
        assert found.row("block removed").score == pytest.approx(judges()["test"].evaluate(without)["accuracy"])
        assert found.rows[0].distance is not None


class TestTasks:
    """Without checkpoints, and without classes."""

    def test_without_a_zoo_it_stands_beside_networks_trained_as_long(self) -> None:
        given = Material(Target.of_module(module(), spec()), tasks=[Task.classification(module(), *blobs(0))])
        fitted = fit("mlp", given, steps=4, hidden=8)
        found = card(fitted, given)
        missing = {row.method: row.missing for row in found.rows if row.missing}
        assert {missing[method] for method in ("zoo", "noise", "mean", "gaussian", "retrieval")} == {"no checkpoints given"}
        assert found.row("trained from scratch").value == 4
        assert found.verdict.startswith("Trained from scratch for 4 steps is ")
        assert found.rows[0].iou is None
        beside = card(fitted, given, zoo=population())
        assert beside.row("zoo").networks == COUNT
        assert beside.rows[0].iou is not None

    def test_without_classes_the_first_metric_is_the_score_and_distance_the_novelty(self) -> None:
        tasks = regression({"psnr": lambda out, batch: -10 * (out - batch[1]).square().mean().log10()})
        found = card(fit("noise", material(), sigma=0.3, relative=True), material(), compared=2, count=2, **tasks)
        own = found.rows[0]
        assert found.metric == "psnr"
        assert (own.iou, own.calibration) == (None, None)
        assert own.distance is not None
        assert "(distance " in found.verdict
        assert found.comparisons

    def test_without_metrics_the_loss_is_the_score(self) -> None:
        found = card(fit("mean", material(), of=0), material(), count=1, **regression({}))
        state = {name: tensor.mean(0) for name, tensor in population().tensors.items()}
        assert found.metric == "-loss"
        assert found.rows[0].score == pytest.approx(-regression({})["test"].evaluate(state)["loss"])
        assert found.verdict.endswith("; novelty was not measured.")

    def test_a_zoo_of_one_network_has_no_other_to_be_like(self) -> None:
        one = population()[:1]
        given = material(networks=one)
        found = card(fit("noise", given), given)
        assert found.row("zoo").iou is None
        assert found.row("zoo").missing == ""
        assert [row.name for row in found.rows if row.method == "mean"] == ["mean of all"]


class TestTelling:
    """What comes out."""

    def test_json_is_strict_and_whole(self, of_the_mean: Card) -> None:
        told = json.loads(of_the_mean.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert [row["name"] for row in told["rows"]] == [row.name for row in of_the_mean.rows]
        assert told["verdict"] == of_the_mean.verdict
        assert told["rows"][0]["score"] == of_the_mean.rows[0].score

    def test_what_is_not_finite_is_null(self, of_the_mean: Card) -> None:
        odd = replace(of_the_mean, fitting_seconds=math.inf, rows=(replace(of_the_mean.rows[0], score=math.nan), *of_the_mean.rows[1:]))
        told = json.loads(odd.to_json())
        assert (told["fitting_seconds"], told["rows"][0]["score"]) == (None, None)
        assert "score" not in odd.values()

    def test_values_are_numbers_for_a_catalog(self, of_the_mean: Card) -> None:
        values = of_the_mean.values()
        assert values["score"] == of_the_mean.rows[0].score
        assert values["zoo_score_max"] == of_the_mean.row("zoo").score_max
        assert values["difference_at_equal_novelty"] == of_the_mean.comparisons[0].difference
        assert all(type(value) is float and math.isfinite(value) for value in values.values())

    def test_same_seed_same_card(self) -> None:
        one, two = (card(fit("gaussian", material()), material(), generator=seeded(3), compared=2, count=2) for _ in range(2))
        assert one.to_json() == two.to_json()

    def test_progress_is_told(self) -> None:
        told: list[tuple[int, int]] = []
        card(fit("mean", material()), material(), progress=lambda done, total: told.append((done, total)))
        assert told == [(at, told[0][1]) for at in range(1, told[0][1] + 1)]

    def test_inputs_stay_as_they_are(self) -> None:
        given = material()
        fitted = fit("gaussian", given)
        before = {k: v.clone() for k, v in given.networks.tensors.items()} if given.networks else {}
        state = {k: v.clone() for k, v in fitted.state_dict().items()}
        card(fitted, given)
        assert given.networks is not None
        assert all(torch.equal(before[k], v) for k, v in given.networks.tensors.items())
        assert all(torch.equal(state[k], v) for k, v in fitted.state_dict().items())
