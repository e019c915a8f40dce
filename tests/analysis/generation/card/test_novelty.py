"""Novelty is what its definitions say, and nearest networks are found behind a permutation."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.generation.materials import CLASSES, HIDDEN, INPUTS, module, networks, spec, task
from weightspace.analysis.generation import Target
from weightspace.analysis.generation.card.novelty import (
    Places,
    calibration_error,
    classes_of,
    iou,
    logits,
    median_distance,
    median_iou,
    nearest_distance,
    nearest_iou,
    wrong,
)
from weightspace.analysis.matching import match
from weightspace.errors import GenerationError
from weightspace.symmetry import act
from weightspace.task import Task
from weightspace.tracing import trace


def seeded(seed: int = 0) -> torch.Generator:
    """A source of chance."""
    return torch.Generator().manual_seed(seed)


class Leaning(nn.Module):
    """A module whose flow depends on its weights, so that it cannot be run side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CLASSES, INPUTS))

    def forward(self, x: Tensor) -> Tensor:
        """Flip the sign where the first weight is negative."""
        return x @ self.weight.T if self.weight[0, 0] > 0 else -x @ self.weight.T


class TestLogits:
    """What networks say."""

    def test_are_those_of_each_network_alone(self) -> None:
        some, target = networks(5), Target.of_networks(networks(5))
        found = logits(task(), some.tensors, target)
        assert found.shape == (5, 24, CLASSES)
        for at in range(5):
            alone = torch.cat(list(task().outputs({name: tensor[at] for name, tensor in some.tensors.items()})))
            torch.testing.assert_close(found[at], alone)

    def test_of_a_module_that_cannot_be_run_side_by_side(self) -> None:
        made = {"weight": torch.randn(3, CLASSES, INPUTS, generator=seeded())}
        x = torch.randn(7, INPUTS, generator=seeded(1))
        target, judge = Target.of_module(Leaning()), Task.classification(Leaning(), x, torch.zeros(7, dtype=torch.long))
        expected = torch.stack([x @ w.T * (1 if w[0, 0] > 0 else -1) for w in made["weight"]])
        torch.testing.assert_close(logits(judge, made, target), expected)

    def test_positions_of_a_sequence_are_examples(self) -> None:
        layer = nn.Linear(4, 3)
        judge = Task.classification(layer, torch.randn(5, 6, 4), torch.randint(3, (5, 6)))
        made = {name: tensor.detach()[None] for name, tensor in layer.named_parameters()}
        assert logits(judge, made, Target.of_module(layer)).shape == (1, 30, 3)
        assert classes_of(judge).shape == (30,)

    def test_constants_of_the_target_are_used(self) -> None:
        layer = nn.Linear(4, 3)
        target = Target({"weight": (3, 4)}, {"bias": torch.tensor([5.0, 0.0, 0.0])})
        judge = Task.classification(layer, torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
        assert logits(judge, {"weight": torch.zeros(2, 3, 4)}, target)[:, :, 0].eq(5).all()


def test_examples_without_a_class_are_never_wrong() -> None:
    scores = torch.eye(3)[None]
    assert wrong(scores, torch.tensor([0, 2, -100])).tolist() == [[False, True, False]]


def test_a_regression_has_no_classes() -> None:
    judge = Task(nn.Linear(2, 1), [(torch.zeros(3, 2), torch.zeros(3, 1))], lambda out, batch: (out - batch[1]).square().mean())
    with pytest.raises(GenerationError, match="batches do not end in classes; wrong predictions can be compared on a classification alone"):
        classes_of(judge)


class TestIoU:
    """Intersection over union of what is wrong."""

    def test_is_its_definition(self) -> None:
        a, b = (torch.rand(4, 20, generator=seeded(seed)) < 0.3 for seed in (0, 1))
        table = iou(a, b)
        for i in range(4):
            for j in range(4):
                x, y = set(a[i].nonzero().flatten().tolist()), set(b[j].nonzero().flatten().tolist())
                assert float(table[i, j]) == pytest.approx(len(x & y) / len(x | y))

    def test_of_two_that_are_never_wrong_is_one(self) -> None:
        none, one = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([[True, False, False]])
        assert iou(none, none).item() == 1.0
        assert iou(none, one).item() == 0.0

    def test_nearest_leaves_out_oneself(self) -> None:
        some = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], dtype=torch.bool)
        assert nearest_iou(some, some).tolist() == [1, 1, 1]
        assert nearest_iou(some, some, leave_one_out=True).tolist() == [0.5, 0.5, 0]

    def test_a_zoo_of_one_has_no_other(self) -> None:
        with pytest.raises(GenerationError, match="a zoo of one network has no other to compare it with; give at least two checkpoints"):
            nearest_iou(torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool), leave_one_out=True)

    def test_median_is_over_pairs(self) -> None:
        some = torch.tensor([[1, 1], [1, 0], [0, 1]], dtype=torch.bool)
        assert median_iou(some) == 0.5
        assert median_iou(some[:1]) == 1.0


class TestCalibration:
    """Expected calibration error."""

    def test_is_its_definition(self) -> None:
        scores, classes = 2 * torch.randn(2, 50, 4, generator=seeded()), torch.randint(4, (50,), generator=seeded(1))
        for row, found in zip(scores.double().softmax(-1), calibration_error(scores, classes, bins=5), strict=True):
            expected = 0.0
            for low in range(5):
                inside = [k for k in range(50) if low / 5 < row[k].max() <= (low + 1) / 5]
                hits = sum(int(row[k].argmax() == classes[k]) for k in inside)
                expected += abs(hits - sum(float(row[k].max()) for k in inside)) / 50
            assert float(found) == pytest.approx(expected)

    def test_of_a_sure_network_is_its_error(self) -> None:
        sure = 1000 * torch.eye(2)[[0, 0, 0, 0]][None]
        assert calibration_error(sure, torch.tensor([0, 0, 0, 1])).item() == pytest.approx(0.25)


class TestNearest:
    """Distances modulo symmetry."""

    def test_of_a_moved_network_is_nothing(self) -> None:
        zoo, moved = networks(4), []
        for at in (2, 0):
            moved.append(act(spec().random(seeded(at)), {name: tensor[at] for name, tensor in zoo.tensors.items()}))
        made = {name: torch.stack([one[name] for one in moved]) for name in zoo.tensors}
        assert nearest_distance(made, zoo.tensors, spec()).max() < 1e-4
        assert nearest_distance(made, zoo.tensors).min() > 1

    def test_is_the_least_of_all_matches_when_all_are_candidates(self) -> None:
        zoo, made = Places.of(networks(5).tensors, spec()), Places.of(networks(3, seed=7).tensors, spec())
        each = [[match(zoo[j], made[k], spec(), shakes=0).l2_after for j in range(5)] for k in range(3)]
        found = nearest_distance(made, zoo, candidates=5)
        torch.testing.assert_close(found, torch.tensor(each, dtype=torch.float64).amin(1), atol=1e-6, rtol=0)
        assert (nearest_distance(made, zoo, candidates=1) >= found - 1e-9).all()

    def test_what_no_permutation_changes_bounds_every_match(self) -> None:
        zoo, made = Places.of(networks(5).tensors, spec()), Places.of(networks(3, seed=7).tensors, spec())
        for k in range(3):
            for j in range(5):
                bound = float((made.sorted[k] - zoo.sorted[j]).norm())
                assert 0 < bound <= match(zoo[j], made[k], spec()).l2_after + 1e-6

    def test_leave_one_out_is_the_distance_to_another(self) -> None:
        zoo = Places.of(networks(4).tensors)
        found = nearest_distance(zoo, zoo, leave_one_out=True)
        rows = zoo.flat
        assert float(found[0]) == pytest.approx(min(float((rows[0] - rows[j]).norm()) for j in (1, 2, 3)))

    def test_networks_that_are_made_in_part_are_compared_as_they_are(self) -> None:
        zoo = networks(4).tensors
        made = {"fc2.bias": zoo["fc2.bias"][1:2] + 1}
        assert nearest_distance(made, {"fc2.bias": zoo["fc2.bias"]}, spec())[0] <= math.sqrt(CLASSES) + 1e-6

    def test_a_zoo_of_one_has_no_other(self) -> None:
        one = Places.of(networks(1).tensors, spec())
        with pytest.raises(GenerationError, match="a zoo of one network has no other"):
            nearest_distance(one, one, leave_one_out=True)

    def test_signs_are_taken_out(self) -> None:
        net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
        symmetry = trace(net, torch.randn(2, INPUTS))
        state = {name: tensor.detach() for name, tensor in net.state_dict().items()}
        moved = act(symmetry.random(seeded(3)), state)
        made, zoo = ({name: tensor[None] for name, tensor in one.items()} for one in (moved, state))
        assert nearest_distance(made, zoo, symmetry).item() < 1e-4


def test_pairs_are_compared_modulo_symmetry() -> None:
    one = {name: tensor[0] for name, tensor in networks(1).tensors.items()}
    copies = [act(spec().random(seeded(k)), one) for k in range(4)]
    places = Places.of({name: torch.stack([copy[name] for copy in copies]) for name in one}, spec())
    assert median_distance(places, generator=seeded()) < 1e-4
    assert median_distance(Places.of(places.tensors), generator=seeded()) > 1
    assert median_distance(Places.of(networks(1).tensors, spec()), generator=seeded()) == 0.0


def test_inputs_stay_as_they_are() -> None:
    some = networks(3)
    before = {name: tensor.clone() for name, tensor in some.tensors.items()}
    places = Places.of(some.tensors, spec())
    nearest_distance(places, places, leave_one_out=True)
    logits(task(), some.tensors, Target.of_module(module(), spec()))
    assert all(torch.equal(before[name], tensor) for name, tensor in some.tensors.items())
