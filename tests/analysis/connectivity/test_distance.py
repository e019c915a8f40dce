"""The reduction of the distance, and what chance alone would reduce."""

import pytest
import torch

from tests.analysis.connectivity.conftest import Pair, State, align
from weightspace.analysis.connectivity import l2_reduction, spectrum_matched
from weightspace.analysis.connectivity.distance import distance
from weightspace.errors import TaskError


def test_distance_counts_tied_tensors_once_and_leaves_out_statistics_and_integers() -> None:
    zero, three = torch.zeros(1), torch.full((1,), 3.0)
    a = {"x": zero, "y": zero, "bn.running_mean": zero, "bn.running_var": zero, "n": torch.tensor(0), "z": torch.zeros(1)}
    b = {"x": three, "y": three, "bn.running_mean": three, "bn.running_var": three, "n": torch.tensor(9), "z": torch.full((1,), 4.0)}
    assert distance(a, b) == 5


def test_random_networks_have_the_spectra_and_the_entries_of_the_real_one(perceptrons: Pair, generator: torch.Generator) -> None:
    tied = {
        **perceptrons.a,
        "tied": perceptrons.a["fc1.weight"],
        "conv": torch.randn(4, 3, 2, 2),
        "n": torch.tensor(3),
        "s": torch.tensor(0.5),
    }
    made = spectrum_matched(tied, generator)
    for name, tensor in tied.items():
        assert made[name].shape == tensor.shape and made[name].dtype == tensor.dtype
    for name in ("fc1.weight", "conv"):
        real, random = (torch.linalg.svdvals(one[name].flatten(1).double()) for one in (tied, made))
        assert torch.allclose(real, random, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tied[name], made[name], atol=1e-2)
    assert torch.equal(made["fc1.bias"].sort().values, tied["fc1.bias"].sort().values)
    assert not torch.equal(made["fc1.bias"], tied["fc1.bias"])
    assert made["tied"] is made["fc1.weight"]
    assert made["n"].item() == 3 and made["s"].item() == 0.5


def test_singular_vectors_are_drawn_uniformly(generator: torch.Generator) -> None:
    # A fixed sign convention of the decomposition would show as a mean that is not zero.
    drawn = torch.stack([spectrum_matched({"w": torch.eye(2)}, generator)["w"] for _ in range(600)])
    assert drawn.mean(0).abs().max() < 0.12
    assert (drawn.square().mean(0) - 0.5).abs().max() < 0.05


def test_matching_reduces_more_than_chance(perceptrons: Pair, generator: torch.Generator) -> None:
    found = l2_reduction(perceptrons.a, perceptrons.b, align, generator=generator, nulls=2)
    assert found.before == pytest.approx(distance(perceptrons.a, perceptrons.b))
    assert found.after == pytest.approx(distance(perceptrons.a, perceptrons.aligned))
    assert 0 < found.null_mean < found.reduction
    assert found.corrected == pytest.approx(found.reduction - found.null_mean)


def test_an_alignment_that_does_nothing_reduces_nothing(perceptrons: Pair, generator: torch.Generator) -> None:
    def nothing(a: State, b: State) -> State:
        return b

    found = l2_reduction(perceptrons.a, perceptrons.b, nothing, generator=generator, nulls=1)
    assert (found.reduction, found.null_mean, found.corrected) == (0, 0, 0)
    assert l2_reduction(perceptrons.a, perceptrons.a, nothing, generator=generator, nulls=1).reduction == 0


def test_at_least_one_null_pair(perceptrons: Pair, generator: torch.Generator) -> None:
    with pytest.raises(TaskError, match="expected at least 1 pair of random networks, found 0; 3 are usual"):
        l2_reduction(perceptrons.a, perceptrons.b, align, generator=generator, nulls=0)
