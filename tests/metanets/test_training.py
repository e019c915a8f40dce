"""Predictors: heads, training, going on after a stop, several processes, intervals, files."""

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError, ShapeMismatchError, UnknownNameError
from weightspace.formats import open_checkpoint
from weightspace.metanets import Examples, Predictor, Schedule, WeightSet, build, heads, load_metanet, load_predictor, save_predictor, train
from weightspace.metanets.examples import group_split
from weightspace.metanets.training import State


def examples(count: int, seed: int, *, covariates: bool = False) -> Examples:
    """Networks whose first layers are scaled, and the root mean square of their weights."""
    kind = architecture("mlp")
    scale = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 2 + 0.2
    states = kind.networks(count, seed, torch.float32)
    scaled = [state | {"fc1.weight": state["fc1.weight"] * factor} for state, factor in zip(states, scale, strict=True)]
    size = torch.stack([state["fc1.weight"].square().mean().sqrt() for state in scaled])
    return Examples(WeightSet.of(scaled, kind.spec), size, torch.stack([size, -size], 1) if covariates else None)


def predictor(head: str = "regression", **settings: int) -> Predictor:
    torch.manual_seed(0)
    return Predictor(build("statistics", architecture("mlp").spec), head, **settings)


@pytest.mark.parametrize("head", ["regression", "ranking"])
def test_what_weights_say_is_learned(head: str) -> None:
    done = train(predictor(head), examples(200, 0), examples(60, 1), Schedule(epochs=30))
    held_out = examples(60, 2)
    assert done.predictor.judge(held_out)["tau"] > 0.8
    assert predictor(head).judge(held_out)["tau"] < 0.6
    assert 1 <= done.best_epoch <= len(done.history) <= 30


def test_classes_are_learned() -> None:
    def classed(count: int, seed: int) -> Examples:
        found = examples(count, seed)
        return Examples(found.networks, (found.targets > 0.65).float())

    done = train(predictor("classification", classes=2), classed(200, 0), classed(60, 1), Schedule(epochs=20))
    assert done.predictor.judge(classed(60, 2))["accuracy"] > 0.8


def test_covariates_are_used() -> None:
    shuffled = examples(100, 0, covariates=True)
    done = train(predictor(covariates=2), shuffled, examples(40, 1, covariates=True), Schedule(epochs=20))
    known = examples(40, 2, covariates=True)
    assert done.predictor.judge(known)["tau"] > 0.9
    with pytest.raises(MetanetError, match="made for 2 covariates, found 0"):
        done.predictor.predict(known.networks)


def test_an_interval_holds_about_as_many_as_it_says() -> None:
    done = train(predictor(), examples(150, 0), examples(100, 1), Schedule(epochs=15))
    held_out = examples(200, 2)
    off = (done.predictor.predict(held_out.networks) - held_out.targets).abs()
    assert 0.75 < float((off <= done.predictor.interval(0.9)).double().mean()) <= 1
    assert done.predictor.interval(0.999) == float("inf") and done.predictor.interval(0.5) < done.predictor.interval(0.9)
    with pytest.raises(MetanetError, match="not calibrated"):
        predictor().interval()


def test_going_on_after_a_stop_gives_the_same(tmp_path: Path) -> None:
    kept: list[Path] = []

    def keep(state: State) -> None:
        kept.append(tmp_path / f"{len(kept)}.pt")
        torch.save(state, kept[-1])

    whole = train(predictor(), examples(60, 0), examples(20, 1), Schedule(epochs=6), keep=keep)
    state = torch.load(kept[2], weights_only=True)
    again = train(predictor(), examples(60, 0), examples(20, 1), Schedule(epochs=6), state=state)
    assert again.history == whole.history and len(kept) == 6
    for name, tensor in whole.predictor.state_dict().items():
        assert torch.equal(tensor, again.predictor.state_dict()[name])


def test_it_stops_early_and_leaves_what_it_was_given_alone() -> None:
    given = predictor()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    data = examples(20, 0)
    noise = Examples(examples(20, 1).networks, torch.randn(20, generator=torch.Generator().manual_seed(0)))
    reported: list[Mapping[str, float]] = []
    done = train(given, data, noise, Schedule(epochs=200, patience=3), report=lambda _, measured: reported.append(measured))
    assert len(done.history) < 200 and len(reported) == len(done.history) == done.best_epoch + 3
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())


def test_bfloat16_learns_too() -> None:
    done = train(predictor(), examples(100, 0), examples(40, 1), Schedule(epochs=20, precision="bf16"))
    assert done.predictor.judge(examples(40, 2))["tau"] > 0.7


def _in_a_process(folder: str) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    done = train(predictor(), examples(64, 0), examples(20, 1), Schedule(epochs=2, batch_size=16), accelerator=accelerator)
    torch.save(done.predictor.state_dict(), Path(folder) / f"{accelerator.process_index}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    from accelerate import debug_launcher

    debug_launcher(_in_a_process, args=(str(tmp_path),), num_processes=2)
    alone = train(predictor(), examples(64, 0), examples(20, 1), Schedule(epochs=2, batch_size=16)).predictor.state_dict()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.allclose(found[name], tensor, atol=1e-5) for name, tensor in alone.items())


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    data = examples(40, 0, covariates=True)
    done = train(predictor(covariates=2), data, examples(20, 1, covariates=True), Schedule(epochs=2))
    path = save_predictor(done.predictor, tmp_path / "p.safetensors", {"target": "scale"})
    again = load_predictor(path)
    assert torch.equal(again.predict(data.networks, data.covariates), done.predictor.predict(data.networks, data.covariates))
    assert again.interval() == done.predictor.interval()
    assert torch.equal(load_metanet(path)(data.networks), done.predictor.net(data.networks))


def test_bad_input_is_named(tmp_path: Path) -> None:
    data = examples(4, 0)
    with pytest.raises(ShapeMismatchError, match="4 networks but 3 targets"):
        Examples(data.networks, data.targets[:3])
    with pytest.raises(MetanetError, match="1 targets are not finite"):
        Examples(data.networks, torch.tensor([1.0, 2.0, float("nan"), 3.0]))
    with pytest.raises(MetanetError, match="expected classes from 0 to 1, found targets from 0 to 2"):
        train(predictor("classification"), Examples(data.networks, torch.tensor([0.0, 1.0, 2.0, 1.0])), data)
    with pytest.raises(UnknownNameError, match="no head named 'regresion'; did you mean 'regression'"):
        predictor("regresion")
    with pytest.raises(MetanetError, match="holds no predictor"):
        from weightspace.metanets import save_metanet

        load_predictor(save_metanet(build("statistics", architecture("mlp").spec), tmp_path / "m.safetensors"))
    assert list(heads) == ["regression", "ranking", "classification"]


def test_a_group_is_in_one_split_and_the_seed_decides() -> None:
    groups = [f"run{at // 3}" for at in range(60)]
    split = group_split(groups, seed=1)
    assert all(len({split[at] for at in range(60) if groups[at] == group}) == 1 for group in set(groups))
    assert [split.count(k) for k in range(3)] == [42, 9, 9]
    assert split == group_split(groups, seed=1) != group_split(groups, seed=2)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 15])
def test_any_number_of_steps_will_do(count: int) -> None:
    done = train(predictor(), examples(8, 0), examples(4, 1), Schedule(epochs=count, batch_size=8))
    assert len(done.history) == count


@pytest.mark.parametrize(("head", "settings"), [("regression", {}), ("ranking", {}), ("classification", {"classes": 2})])
def test_targets_that_are_all_the_same_are_refused(head: str, settings: dict[str, int]) -> None:
    found = Examples(examples(8, 0).networks, torch.ones(8))
    with pytest.raises(MetanetError, match="so there is nothing to learn"):
        train(predictor(head, **settings), found, found, Schedule(epochs=1))


def test_a_large_covariate_that_is_always_the_same_does_no_harm() -> None:
    networks = examples(50, 0)
    known = torch.stack([torch.full((50,), 123_456_789.0), networks.targets * 1e-9], 1)
    model = predictor(covariates=2)
    model.fit_inputs(Examples(networks.networks, networks.targets, known))
    seen = model.covariates(known)
    assert seen[:, 0].abs().max() < 10 and seen[:, 1].std() == pytest.approx(1, rel=0.1)


def test_going_on_drops_the_same_units_as_without_a_stop() -> None:
    def fresh() -> Predictor:
        torch.manual_seed(0)
        return Predictor(build("statistics", architecture("mlp").spec, dropout=0.5))

    kept: list[State] = []
    schedule, parts = Schedule(epochs=4, batch_size=8), (examples(32, 0), examples(8, 1))
    whole = train(fresh(), *parts, schedule, keep=lambda state: kept.append(copy.deepcopy(state)))
    again = train(fresh(), *parts, schedule, state=kept[1])
    assert again.history == whole.history


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("metanet", "not json"),
        ("metanet", "[]"),
        ("metanet", {"settings": {"dim": "64"}}),
        ("metanet", {"settings": {"dim": -1}}),
        ("metanet", {"settings": {"dim": 10**12}}),
        ("metanet", {"settings": {"dim": 65}}),
        ("metanet", {"settings": {"dropout": "much"}}),
        ("metanet", {"settings": [1]}),
        ("metanet", {"name": "os.system"}),
        ("metanet", {"name": "probegen", "settings": {"layers": 10**9}}),
        ("metanet", {"specs": []}),
        ("metanet", {"specs": ["!!python/object/apply:os.system ['touch executed']"]}),
        ("metanet", {"name": "raw", "specs": [{"groups": {}, "tensors": {"w": "1000000 1000000"}}]}),
        ("predictor", "not json"),
        ("predictor", {"head": "no such"}),
        ("predictor", {"covariates": 10**12}),
        ("predictor", {"covariates": "1"}),
        ("predictor", {"head": "classification", "settings": {"classes": 10**12}}),
        ("predictor", {"head": "classification"}),
    ],
)
def test_metadata_that_was_tampered_with_builds_nothing(tmp_path: Path, key: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = open_checkpoint(save_predictor(predictor(), tmp_path / "p.safetensors"))
    known = dict(whole.metadata)
    found = known[key] if isinstance(known[key], dict) else json.loads(known[key])
    hostile = dataclasses.replace(whole, metadata=known | {key: change if isinstance(change, str) else json.dumps(found | change)})
    with pytest.raises(MetanetError, match=r"train it again|save it with this version") as refused:
        load_predictor(hostile)
    assert len(str(refused.value)) < 500 and not Path("executed").exists()


@pytest.mark.parametrize(
    ("family", "settings", "told"),
    [
        ("gmn", {"dim": 0}, "was given dim=0; expected a length of 1 or more"),
        ("gmn", {"channels": -3}, "cannot be built with channels=-3"),
        ("sane", {"heads": 0}, "cannot be built with heads=0"),
        ("sane", {"window": 0}, "was given window=0"),
        ("statistics", {"dropout": 2.0}, "cannot be built with dropout=2.0"),
    ],
)
def test_settings_that_nothing_can_be_built_with_are_one_line(family: str, settings: dict[str, float], told: str) -> None:
    with pytest.raises(MetanetError, match=told):
        build(family, architecture("mlp").spec, **settings)
