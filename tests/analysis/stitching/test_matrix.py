"""Similarity maps of two networks: that tables are what they say, on the same held-out examples, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.analysis.stitching.test_penalty import chain, parts, rings
from weightspace.analysis.similarity import linear_cka, linear_regression
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.fitting import crossing, fit_stitches
from weightspace.analysis.stitching.matrix import MAPS, StitchingMaps, loaded_chain, probe_digest, stitching_maps
from weightspace.analysis.stitching.penalty import penalties
from weightspace.errors import AnalysisError, TaskError, UnknownNameError
from weightspace.plotting import save
from weightspace.task import Task


@pytest.fixture(scope="module")
def networks() -> tuple[Chain, Chain]:
    return chain(0), chain(1, width=16)


@pytest.fixture(scope="module")
def found(networks: tuple[Chain, Chain]) -> StitchingMaps:
    return stitching_maps(*networks, *parts())


def test_tables_are_what_they_say(networks: tuple[Chain, Chain], found: StitchingMaps) -> None:
    (fit, judge), (a, b) = parts(), networks
    left, right = (
        {at: torch.cat([batch[at] for batch in crossing(one, judge.batches, cuts)]) for at in cuts}
        for one, cuts in ((a, [-1, 0, 1]), (b, [0, 1]))
    )
    stitches = fit_stitches(a, b, fit, [(row, column) for row in left for column in right])
    judged = penalties(a, b, stitches, judge)
    assert set(found.maps) == set(MAPS)
    for at, row in enumerate(left):
        for column in right:
            x, y = left[row], right[column]
            missed = (stitches[row, column](x) - y).square().sum() / (y - y.mean(0)).square().sum()
            expected = {
                "cka_debiased": linear_cka(x, y, debiased=True),
                "lr": linear_regression(x, y),
                "fit_error": float(missed.detach()),
                "penalty": judged[row, column].value,
                "agreement": judged[row, column].agreement,
            }
            assert {name: table.table[at][column] for name, table in found.maps.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_record_says_what_it_rests_on(found: StitchingMaps) -> None:
    one = found.maps["penalty"]
    assert one.rows == ("input", "first", "second") and one.columns == ("first", "second")
    assert (found.fitted, found.examples, one.samples) == (300, 300, 300) and "place" in found.positions
    assert found.probe == probe_digest(*parts()) and found.stitch == "linear" and 0 <= found.end_loss < 0.3
    values = found.values()
    assert values["penalty|first|second"] == one.table[1][1] == found.values("penalty")["first|second"]
    assert values["penalty: input > first"] == one.table[0][0] == found.values("penalty")["input > first"]
    assert values["lr: mean"] == pytest.approx((values["lr|first|first"] + values["lr|second|second"]) / 2)


def test_the_digest_is_of_the_examples_and_not_of_batches() -> None:
    inputs, classes = rings(60)
    one, other = (Task.classification(nn.Identity(), inputs, classes, batch_size=size) for size in (60, 7))
    assert probe_digest(one) == probe_digest(other)
    moved = Task.classification(nn.Identity(), inputs.flip(0), classes)
    assert probe_digest(moved) != probe_digest(one) != probe_digest(one, other)


def test_half_of_the_examples_are_held_out_unless_others_are_given(networks: tuple[Chain, Chain], found: StitchingMaps) -> None:
    whole = Task.classification(nn.Identity(), *rings(), batch_size=250)
    assert stitching_maps(*networks, whole).values() == pytest.approx(found.values())


def test_a_loader_that_shuffles_shows_both_networks_the_same(networks: tuple[Chain, Chain], found: StitchingMaps) -> None:
    from torch.utils.data import DataLoader, TensorDataset

    fit, judge = parts()
    rows = TensorDataset(*(torch.cat(part) for part in zip(*judge.batches, strict=True)))
    loader = DataLoader(rows, 100, shuffle=True, generator=torch.Generator().manual_seed(0))
    shuffled = Task(judge.module, loader, judge.loss)
    again = stitching_maps(*networks, fit, shuffled)
    assert again.values() == pytest.approx(found.values(), rel=1e-4, abs=1e-6)


def test_training_stitches_lowers_the_penalty_and_leaves_the_fit(networks: tuple[Chain, Chain], found: StitchingMaps) -> None:
    trained = stitching_maps(*networks, *parts(), epochs=5)
    before, after = found.values(), trained.values()
    assert trained.stitch == "linear, 5 epochs" and after["fit_error: mean"] == before["fit_error: mean"]
    assert after["penalty: input > second"] < before["penalty: input > second"] - 0.05
    assert "penalty: input > first" not in stitching_maps(*networks, *parts(), maps=["penalty"], control=False).values()


def test_where_a_stitch_needs_equal_widths_others_have_none_with_a_reason(networks: tuple[Chain, Chain]) -> None:
    mixed = stitching_maps(*networks, *parts(), kind="orthogonal")
    table = mixed.maps["penalty"]
    assert all(math.isnan(value) for row in table.table for value in row)
    assert table.undefined["first|second"] == "stitch 'orthogonal' needs as many units on both sides"
    assert math.isfinite(mixed.values()["lr|first|second"])
    same = stitching_maps(networks[0], networks[0], *parts(), kind="orthogonal", maps=["fit_error"], control=False)
    assert same.values("fit_error")["first|first"] == pytest.approx(0, abs=1e-6)


def test_what_does_not_vary_is_nan_with_a_reason(networks: tuple[Chain, Chain]) -> None:
    dead = chain(0, steps=0)
    with torch.no_grad():
        for parameter in dead.parts[1].parameters():
            parameter.zero_()
    found = stitching_maps(dead, networks[1], *parts(), maps=["cka_debiased", "lr", "penalty"], control=False)
    values = found.values()
    assert math.isnan(values["cka_debiased|second|first"]) and math.isnan(values["lr|second|first"])
    assert found.maps["lr"].undefined["second|first"] == "the first does not vary"
    assert math.isfinite(values["penalty|second|first"]), "a stitch from nothing gives the mean"
    assert "first|first" not in found.maps["lr"].undefined


def test_three_examples_have_no_debiased_alignment(networks: tuple[Chain, Chain]) -> None:
    few = Task.classification(nn.Identity(), *(part[:3] for part in rings()))
    table = stitching_maps(*networks, parts()[0], few, maps=["cka_debiased"]).maps["cka_debiased"]
    assert all(math.isnan(value) for row in table.table for value in row)
    assert table.undefined["first|second"] == "too few samples (3) for 24 and 16 units"


def test_places_are_samples() -> None:
    torch.manual_seed(0)
    blocks = {"conv": nn.Conv2d(1, 3, 3, padding=1), "rest": nn.Sequential(nn.Flatten(), nn.Linear(48, 2))}
    images = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    one = Chain.of_blocks(blocks, images[:2])
    task = Task.classification(nn.Identity(), images, torch.arange(40) % 2)
    found = stitching_maps(one, one, task, maps=["cka_debiased"], control=False)
    rows = blocks["conv"](images[1::2]).detach().movedim(1, -1).reshape(-1, 3)
    assert found.values()["cka_debiased|conv|conv"] == pytest.approx(linear_cka(rows, rows, debiased=True)) and found.examples == 20


def test_a_picture(found: StitchingMaps, tmp_path: Path) -> None:
    figure = found.plot()
    assert [axes.get_ylabel() for axes in figure.axes[len(MAPS) :]] == [name.replace("_", " ") for name in MAPS]
    save(figure, tmp_path / "maps.png")


def test_weights_are_put_into_the_module_of_a_task() -> None:
    module = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    task = Task.classification(module, *rings(40))
    weights = {name: torch.randn(tensor.shape) for name, tensor in module.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    made = loaded_chain(task, weights)
    assert all(torch.equal(made.weights()[name], tensor) for name, tensor in weights.items())
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    with pytest.raises(TaskError, match="does not fit module Sequential"):
        loaded_chain(task, {"0.weight": torch.zeros(5, 8)})


def test_messages(networks: tuple[Chain, Chain]) -> None:
    fit, judge = parts()
    with pytest.raises(UnknownNameError, match="no table of similarities named 'penalti'; did you mean 'penalty'"):
        stitching_maps(*networks, fit, judge, maps=["penalti"])
    with pytest.raises(UnknownNameError, match="no table of similarities named ''"):
        stitching_maps(*networks, fit, judge, maps=[])
    with pytest.raises(UnknownNameError, match="no stitch named 'lineal'; did you mean 'linear'"):
        stitching_maps(*networks, fit, judge, kind="lineal")
    with pytest.raises(AnalysisError, match="expected data to compare networks on, found no batches; give the task some"):
        stitching_maps(*networks, Task(nn.Identity(), [], fit.loss), judge)
    with pytest.raises(TaskError, match="a batch has one example alone and cannot be halved"):
        stitching_maps(*networks, Task.classification(nn.Identity(), *(part[:1] for part in rings())))
