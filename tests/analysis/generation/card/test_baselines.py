"""Baselines are what they are called, and leave what they are given as it was."""

import pytest
import torch
from torch import nn

from tests.analysis.generation.materials import CLASSES, INPUTS, conditions, module, networks, spec, task
from weightspace.analysis.generation import Material, Target
from weightspace.analysis.generation.card.baselines import KNOBS, nearest, pruned, removed, retrieved, trained
from weightspace.analysis.generation.card.judging import judge
from weightspace.errors import GenerationError
from weightspace.tracing import trace

NOISE, MEAN, GAUSSIAN = KNOBS


def seeded(seed: int = 0) -> torch.Generator:
    """A source of chance."""
    return torch.Generator().manual_seed(seed)


def zoo(count: int = 6) -> Material:
    """Networks without conditions."""
    return Material(Target.of_networks(networks(count)), networks(count))


class TestKnobs:
    """What can be turned."""

    def test_noise_is_added_to_checkpoints(self) -> None:
        material = zoo()
        made = material.target.flat(NOISE.make(material, 0.01, 20, generator=seeded()))
        away = torch.cdist(made, material.flat(), compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        assert made.shape[0] == 20
        assert (away > 0).all()
        assert away.max() < 0.02 * material.flat().norm(dim=1).max()

    def test_the_mean_of_all_is_one_network(self) -> None:
        material = zoo()
        made = material.target.flat(MEAN.make(material, 0.0, 20, generator=seeded()))
        torch.testing.assert_close(made, material.flat().mean(0, keepdim=True))

    def test_every_mean_is_of_checkpoints_and_not_of_means(self) -> None:
        material = zoo()
        before = material.flat().clone()
        made = material.target.flat(MEAN.make(material, 2.0, 30, generator=seeded()))
        pairs = torch.stack([(before[i] + before[j]) / 2 for i in range(6) for j in range(i)])
        assert torch.cdist(made, pairs, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() < 1e-5
        assert torch.equal(before, material.flat())

    def test_a_gaussian_has_the_moments_of_the_zoo(self) -> None:
        material = zoo()
        made = material.target.flat(GAUSSIAN.make(material, 1.0, 4000, generator=seeded()))
        torch.testing.assert_close(made.mean(0), material.flat().mean(0), atol=0.1, rtol=0)
        torch.testing.assert_close(made.std(0), material.flat().std(0, correction=0), atol=0.1, rtol=0)
        still = material.target.flat(GAUSSIAN.make(material, 0.0, 9, generator=seeded()))
        torch.testing.assert_close(still, material.flat().mean(0, keepdim=True))


class TestRetrieval:
    """The nearest condition."""

    def test_takes_the_network_of_the_nearest_condition(self) -> None:
        some = networks(6)
        found = retrieved(some.tensors, conditions(6), torch.tensor([[0.45], [0.9], [-3.0]]))
        assert torch.equal(found["fc1.bias"], some.tensors["fc1.bias"][torch.tensor([2, 4, 0])])

    def test_numbers_of_another_scale_count_alike(self) -> None:
        known = torch.tensor([[0.0, 0.0], [1.0, 1000.0], [0.9, 0.0]])
        assert nearest(known, torch.tensor([[0.0, 200.0]])).tolist() == [0]
        assert nearest(torch.tensor([[1.0], [1.0]]), torch.tensor([[5.0]])).tolist() == [0]


def test_removed_tensors_are_zero() -> None:
    some = networks(2).tensors
    found = removed(some, ["fc1.weight"])
    assert not found["fc1.weight"].any()
    assert torch.equal(found["fc2.weight"], some["fc2.weight"])
    assert some["fc1.weight"].any()


class TestPruning:
    """Cutting networks down by magnitude."""

    def test_keeps_the_neurons_with_the_largest_weights_in_order(self) -> None:
        some = networks(3)
        found = pruned(some, spec(4))
        for at in range(3):
            first, bias, second = (some.tensors[name][at] for name in ("fc1.weight", "fc1.bias", "fc2.weight"))
            size = first.square().sum(1) + bias.square() + second.square().sum(0)
            kept = size.topk(4).indices.sort().values
            assert torch.equal(found["fc1.weight"][at], first[kept])
            assert torch.equal(found["fc1.bias"][at], bias[kept])
            assert torch.equal(found["fc2.weight"][at], second[:, kept])
            assert torch.equal(found["fc2.bias"][at], some.tensors["fc2.bias"][at])

    def test_to_the_same_size_changes_nothing(self) -> None:
        some = networks(3)
        assert all(torch.equal(tensor, some.tensors[name]) for name, tensor in pruned(some, spec()).items())

    def test_makes_nothing_larger(self) -> None:
        with pytest.raises(GenerationError, match="is to have 9 instead of 6 members; pruning only makes networks smaller"):
            pruned(networks(2), spec(9))

    def test_of_another_architecture_is_refused(self) -> None:
        deeper = nn.Sequential(nn.Linear(INPUTS, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, CLASSES))
        with pytest.raises(GenerationError, match="the smaller networks have other neuron groups than the zoo"):
            pruned(networks(2), trace(deeper, torch.zeros(1, INPUTS)))


class TestTraining:
    """Networks from scratch."""

    def test_learn_the_task_and_are_no_copies(self) -> None:
        lesson, target = task(), Target.of_module(module(), spec())
        before = {name: tensor.clone() for name, tensor in lesson.module.state_dict().items()}
        made = trained(lesson, target, task(1), count=2, steps=60, generator=seeded(), learning_rates=(1e-5, 3e-2))
        found = judge(task(1), made, target)
        assert found.scores.min() > 0.7  # at the first rate nothing is learned
        assert not torch.equal(made["fc1.weight"][0], made["fc1.weight"][1])
        assert all(torch.equal(before[name], tensor) for name, tensor in lesson.module.state_dict().items())

    def test_are_the_same_from_the_same_seed(self) -> None:
        target = Target.of_module(module(), spec())
        one, two = (trained(task(), target, task(1), count=1, steps=3, generator=seeded(5)) for _ in range(2))
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
