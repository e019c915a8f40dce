"""Tables of similarities between the layers of two networks."""

import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from tests.analysis.functional.networks import convolutional, digits, tiny10
from weightspace.analysis.functional.comparison import DIRECTED, KINDS, compare
from weightspace.analysis.functional.recording import POSITIONS, recorded, recorded_pairs, running
from weightspace.analysis.similarity import linear_cka
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task


def test_a_network_is_like_itself_layer_by_layer() -> None:
    found = digits()
    for kind, value in (
        ("cka", 1.0),
        ("cka_debiased", 1.0),
        ("cca", 1.0),
        ("pwcca", 1.0),
        ("procrustes", 0.0),
        ("procrustes_angular", 0.0),
        ("lr", 1.0),
        ("orthogonal_error", 0.0),
        ("l2", 0.0),
        ("correlation", 1.0),
    ):
        table = compare(found.task, found.networks[0], found.networks[0], kind)
        assert list(table.diagonal.values()) == pytest.approx([value] * 3, abs=1e-6)
        assert table.rows == table.columns == ("fc1", "fc2", "fc3") and table.samples == 450


def test_entries_are_those_of_all_activations_at_once() -> None:
    found = digits()
    a, b = (
        [torch.cat(parts) for parts in zip(*(batch.values() for batch in found.task.activations(net, ["fc1", "relu2"])), strict=True)]
        for net in found.networks
    )
    table = compare(found.task, *found.pair, "cka_debiased", layers=["fc1", "relu2"])
    for row, x in zip(table.table, a, strict=True):
        assert list(row) == pytest.approx([linear_cka(x, y, debiased=True) for y in b], abs=1e-9)
    assert table.values()["fc1|relu2"] == table.table[0][1]
    assert table.values()["mean"] == pytest.approx((table.table[0][0] + table.table[1][1]) / 2)


def test_a_loader_that_shuffles_shows_both_networks_the_same() -> None:
    from torch.utils.data import DataLoader, TensorDataset

    found = digits()
    rows = TensorDataset(*(torch.cat(part) for part in zip(*found.task.batches, strict=True)))
    loader = DataLoader(rows, 100, shuffle=True, generator=torch.Generator().manual_seed(0))
    shuffled = Task(found.task.module, loader, found.task.loss)
    assert compare(shuffled, *found.pair).values() == pytest.approx(compare(found.task, *found.pair).values(), abs=1e-6)
    [(_, left, right)] = list(recorded_pairs(Task(shuffled.module, [next(iter(loader))], shuffled.loss), *found.pair, ["fc1"]))
    pairs = [linear_cka(one[:, 0], two[:, 0]) for _, one, two in recorded_pairs(shuffled, *found.pair, ["fc1"])]
    assert min(pairs) > linear_cka(left[:, 0], right[:, 0].flip(0)) + 0.2


def test_layers_of_one_place_are_more_alike_than_others_in_trained_networks() -> None:
    found = digits(depth=4)
    table = compare(found.task, *found.pair, "cka_debiased")
    assert min(table.diagonal.values()) > 0.6
    assert table.values()["fc1|fc1"] > table.values()["fc1|fc5"] and table.values()["fc5|fc5"] > table.values()["fc5|fc1"]


def test_what_becomes_of_positions() -> None:
    task, weights = convolutional()
    shapes = {
        how: {name: tuple(values.shape) for name, values in next(recorded(task, weights, ["conv1", "act2", "fc"], positions=how)).items()}
        for how in POSITIONS
    }
    assert shapes["samples"] == {"conv1": (8, 36, 4), "act2": (8, 9, 4), "fc": (8, 1, 3)}
    assert shapes["pooled"]["conv1"] == (8, 1, 4) and shapes["units"]["conv1"] == (8, 1, 144)
    values = next(task.activations(weights, ["conv1"]))["conv1"].double()
    samples = next(recorded(task, weights, ["conv1"], positions="samples"))["conv1"]
    assert torch.equal(samples[3, 7], values[3, :, 1, 1])
    assert torch.allclose(next(recorded(task, weights, ["conv1"], positions="pooled"))["conv1"][:, 0], values.mean((2, 3)))


def test_layers_with_other_places_have_no_common_samples() -> None:
    (task, a), (_, b) = convolutional(0), convolutional(1)
    found = compare(task, a, b, "cka", positions="samples").values()
    assert math.isnan(found["conv1|conv2"]) and math.isfinite(found["conv1|conv1"])
    assert all(math.isfinite(value) for value in compare(task, a, b, "cka", positions="pooled").values().values())


def test_networks_of_other_widths_on_the_same_batches() -> None:
    wide, narrow = digits(), digits(width=16)
    found = compare(wide.task, wide.networks[0], narrow.networks[0], "cka_debiased", other=narrow.task)
    assert found.diagonal["fc3"] > 0.5


def test_sequences_have_their_units_last() -> None:
    module = nn.Linear(5, 4)
    task = Task.classification(nn.Sequential(module), torch.randn(6, 7, 5), torch.zeros(6, 7, dtype=torch.long))
    weights = {f"0.{name}": tensor.detach() for name, tensor in module.named_parameters()}
    assert next(recorded(task, weights, ["0"]))["0"].shape == (6, 7, 4)


def test_what_is_nan_has_a_reason() -> None:
    found = digits()
    dead = {**found.networks[0], "fc1.weight": torch.zeros(32, 64), "fc1.bias": torch.zeros(32)}
    table = compare(found.task, dead, found.networks[1], "lr")
    assert math.isnan(table.values()["fc1|fc1"]) and table.undefined["fc1|fc1"] == "the first does not vary"
    assert not any(key.startswith("fc3") for key in compare(found.task, *found.pair, "lr").undefined)
    (task, a), (_, b) = convolutional(0), convolutional(1)
    assert compare(task, a, b, positions="samples").undefined["conv1|conv2"] == "no common samples"
    assert compare(found.task, *found.pair, same=True).undefined == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_whether_it_has_a_direction(kind: str) -> None:
    found = digits()
    layers = ["fc1", "relu2"]
    there, back = (compare(found.task, *pair, kind, layers=layers).table for pair in (found.pair, found.pair[::-1]))
    same = [[back[b][a] for b in range(2)] for a in range(2)]
    alike = all(list(one) == pytest.approx(two, abs=1e-9, nan_ok=True) for one, two in zip(there, same, strict=True))
    assert alike is (kind not in DIRECTED)


def test_only_layers_of_one_name() -> None:
    found = digits()
    table = compare(found.task, *found.pair, "cka", same=True)
    assert math.isnan(table.values()["fc1|fc2"]) and table.diagonal == compare(found.task, *found.pair, "cka").diagonal


def test_messages() -> None:
    found = digits()
    with pytest.raises(UnknownNameError, match="no kind of comparison named 'ckaa'; did you mean 'cka'"):
        compare(found.task, *found.pair, "ckaa")
    with pytest.raises(UnknownNameError, match="no submodule named 'fc9'"):
        compare(found.task, *found.pair, layers=["fc9"])
    with pytest.raises(UnknownNameError, match="no way with positions named 'pooling'; did you mean 'pooled'"):
        compare(found.task, *found.pair, positions="pooling")
    with pytest.raises(AnalysisError, match=r"same batches, found more in one; give both the same data"):
        compare(found.task, *found.pair, other=Task.classification(found.task.module, *next(iter(found.task.batches))))
    with pytest.raises(AnalysisError, match="module Flatten runs none; name the submodules to look at"):
        running(Task.classification(nn.Flatten(), torch.randn(3, 2), torch.zeros(3, dtype=torch.long)), {})
    lone = nn.Sequential(nn.Flatten(0))
    with pytest.raises(AnalysisError, match=r"type Flatten gives a tensor of shape \(6,\), expected examples and units"):
        next(recorded(Task(lone, [(torch.randn(3, 2), 0)], lambda outputs, batch: outputs.sum()), {}, ["0"]))


def test_a_picture() -> None:
    found = digits()
    assert isinstance(compare(found.task, *found.pair, "procrustes").plot(), Figure)


def test_real_seeds_are_alike_layer_by_layer(real_checkpoints: Path) -> None:
    task, networks = tiny10(real_checkpoints)
    table = compare(task, networks[0], networks[1], "cka_debiased", layers=["bn1", "bn3", "bn5", "bn8"])
    for at, row in enumerate(table.table):
        assert row[at] > 0.6 and row[at] > row[(at + 2) % 4] + 0.2
