"""Filling a zoo: whole runs, nothing twice, and a catalog that is valid whenever it is stopped."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from weightspace.errors import UnknownNameError
from weightspace.zoo import Zoo
from weightspace.zoo.ingest import Progress
from weightspace.zoo.populations import filling, populations
from weightspace.zoo.populations.filling import fill, settings_of, summary_of
from weightspace.zoo.zoo import Added

TINY: dict[str, Any] = {"data": "digits", "widths": (4,), "depths": (1,), "activations": ("relu",), "steps": (0, 3)}


def steps_by_run(zoo: Zoo) -> dict[str, list[int]]:
    rows = zoo.sql("select run, list(step order by step) as steps from model_table group by run").to_pylist()
    return {row["run"]: row["steps"] for row in rows}


def test_a_larger_count_adds_to_what_is_there(tmp_path: Path) -> None:
    zoo, seen = Zoo(tmp_path), list[Progress]()
    assert fill(zoo, "mlps", count=3, **TINY) == filling.Filled(3, 6, 0, 0)
    before = steps_by_run(zoo)
    assert fill(zoo, "mlps", count=5, progress=seen.append, **TINY) == filling.Filled(2, 4, 3, 0)
    after = steps_by_run(zoo)
    assert len(after) == 5 and before.items() <= after.items() and all(steps == [0, 3] for steps in after.values())
    assert [(one.done, one.found) for one in seen] == [(1, 2), (1, 2), (2, 2), (2, 2)] and seen[-1].bytes_done == seen[-1].bytes_found > 0
    assert fill(zoo, "mlps", count=5, **TINY) == filling.Filled(0, 0, 5, 0)


def test_other_settings_are_other_networks(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    fill(zoo, "mlps", count=2, **TINY)
    assert fill(zoo, "mlps", count=2, **{**TINY, "steps": (2,)}).networks == 2


def test_stopped_between_checkpoints_leaves_whole_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "_PATIENCE", 0.0)
    zoo, done = Zoo(tmp_path), list[Added]()

    def interrupted(**settings: Any) -> Iterator[Added]:
        for one in populations["mlps"](**settings):
            if len(done) == 5:
                raise KeyboardInterrupt
            done.append(one)
            yield one

    # The settings are read off the original's signature.
    interrupted.__signature__ = inspect.signature(populations["mlps"])  # type: ignore[attr-defined]
    monkeypatch.setattr(filling, "populations", {"mlps": interrupted})
    with pytest.raises(KeyboardInterrupt):
        fill(zoo, "mlps", count=6, **TINY)
    half = steps_by_run(zoo)
    assert half and all(steps == [0, 3] for steps in half.values())
    monkeypatch.setattr(filling, "populations", populations)
    again = fill(zoo, "mlps", count=6, **TINY)
    assert again.known == len(half) and again.networks == 6 - len(half)
    assert len(steps_by_run(zoo)) == 6


def test_adapters_come_with_their_base_once(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    settings: dict[str, Any] = {"data": "digits", "steps": (3,), "base_steps": 5, "base_width": 8}
    assert fill(zoo, "loras", count=2, **settings).networks == 3
    assert fill(zoo, "loras", count=4, **settings).networks == 2
    assert zoo.sql("select count(*) as n from edges where kind = 'adapter'").to_pylist() == [{"n": 4}]


def test_each_network_keeps_the_recipe_of_its_own_and_equal_ones_are_kept_once(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    made = list(populations["mlps"](count=3, **TINY))
    zoo.add_many(made)
    assert all(zoo.open(one.name).recipe == one.recipe for one in made)
    assert zoo.sql("select count(*) as n from recipes").to_pylist() == [{"n": len(made)}]
    zoo.add_many([Added({"w": next(iter(made[0].tensors.values())) + at}, f"other-{at}", recipe=made[0].recipe) for at in range(2)])
    assert zoo.sql("select count(*) as n from recipes").to_pylist() == [{"n": len(made)}]
    assert zoo.open("other-1").recipe == made[0].recipe


def test_digits_populations_are_filled_too(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    settings: dict[str, Any] = {"widths": (4,), "depths": (1,), "learning_rates": (0.1, 0.3), "steps": (2,)}
    assert fill(zoo, "digits-mlp", **settings).networks == 2
    assert fill(zoo, "digits-mlp", **settings) == filling.Filled(0, 0, 2, 0)


@pytest.mark.parametrize("name", list(populations))
def test_every_population_says_what_it_is_and_what_can_be_set(name: str) -> None:
    assert summary_of(name).endswith(".") and settings_of(name)["seed"] == 0
    assert not {"skip", "seeds"} & set(settings_of(name))


def test_unknown_names_are_told_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mlps'"):
        fill(Zoo(tmp_path), "mlp")
    with pytest.raises(UnknownNameError, match="no setting of population 'mlps' named 'width'; did you mean 'widths'"):
        fill(Zoo(tmp_path), "mlps", width=3)
