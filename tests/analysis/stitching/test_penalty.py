"""Stitching penalties: what they are, that they have a direction, controls, and what is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.fitting import fit_stitches
from weightspace.analysis.stitching.patchwork import stitched
from weightspace.analysis.stitching.penalty import penalties, redrawn
from weightspace.errors import AnalysisError
from weightspace.task import Task, accuracy, cross_entropy, halves


def rings(count: int = 600) -> tuple[Tensor, Tensor]:
    """Three rings in the plane, beside six inputs of noise: nothing that a linear map of the input tells apart."""
    chance = torch.Generator().manual_seed(0)
    classes = torch.arange(count) % 3
    angles = 6.2832 * torch.rand(count, generator=chance)
    radii = 0.5 + classes + 0.15 * torch.randn(count, generator=chance)
    points = torch.stack([radii * angles.cos(), radii * angles.sin()], 1)
    return torch.cat([points, 0.3 * torch.randn(count, 6, generator=chance)], 1), classes


def chain(seed: int, width: int = 24, steps: int = 250) -> Chain:
    """A perceptron with two cuts that has learned to tell rings apart, in blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = (nn.Sequential(nn.Linear(size, width), nn.ReLU()) for size in (8, width))
        head = nn.Linear(width, 3)
    module = nn.Sequential(first, second, head)
    inputs, classes = rings()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(module(inputs), classes)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return Chain.of_blocks({"first": first, "second": second, "head": head}, inputs[:2])


def parts() -> tuple[Task, Task]:
    """Examples to find stitches on, and others to judge them on."""
    return halves(Task.classification(nn.Identity(), *rings(), batch_size=250))


@pytest.fixture(scope="module")
def networks() -> tuple[Chain, Chain]:
    return chain(0), chain(1)


def test_a_network_stitched_to_itself_loses_nothing(networks: tuple[Chain, Chain]) -> None:
    fit, judge = parts()
    found = penalties(networks[0], networks[0], fit_stitches(networks[0], networks[0], fit, [(0, 0), (1, 1)]), judge)
    for one in found.values():
        assert one.value == pytest.approx(0, abs=1e-2) and one.agreement > 0.99


def test_it_is_the_loss_of_the_stitched_network_less_that_of_the_end(networks: tuple[Chain, Chain]) -> None:
    (fit, judge), (a, b) = parts(), networks
    stitches = fit_stitches(a, b, fit, [(0, 1), (-1, 0)])
    found = penalties(a, b, stitches, judge)
    alone = judge.forward, b
    for pair, one in found.items():
        module = stitched(a, b, stitches[pair], pair)
        with torch.no_grad():
            losses = [float(cross_entropy(module(x), (x, y))) * len(x) for x, y in judge.batches]
            agreed = [float((module(x).argmax(1) == alone[1](x).argmax(1)).double().mean()) * len(x) for x, _ in judge.batches]
            own = [float(cross_entropy(b(x), (x, y))) * len(x) for x, y in judge.batches]
        count = sum(len(x) for x, _ in judge.batches)
        assert one.loss == pytest.approx(sum(losses) / count, rel=1e-5) and one.end_loss == pytest.approx(sum(own) / count, rel=1e-5)
        assert one.agreement == pytest.approx(sum(agreed) / count)


def test_it_has_a_direction_and_controls_lose_more(networks: tuple[Chain, Chain]) -> None:
    (fit, judge), (a, b) = parts(), networks
    there, back = (penalties(*pair, fit_stitches(*pair, fit, [(1, 1)]), judge)[1, 1].value for pair in ((a, b), (b, a)))
    assert there != pytest.approx(back, rel=1e-3)
    raw = penalties(a, b, fit_stitches(a, b, fit, [(-1, 1)]), judge)[-1, 1]
    assert raw.value > there + 0.3 and raw.agreement < 0.8


def test_a_random_front_is_fresh_and_the_same_for_the_same_chance() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = copy.deepcopy(module.state_dict())
    one, two, other = (redrawn(module, torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["0.weight"], before["0.weight"]) and not torch.equal(one["0.weight"], other["0.weight"])
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())


def test_gradients_and_weights_are_left_alone(networks: tuple[Chain, Chain]) -> None:
    (fit, judge), (a, b) = parts(), networks
    before = {name: tensor.clone() for name, tensor in b.state_dict().items()}
    penalties(a, b, fit_stitches(a, b, fit, [(0, 0)]), judge)
    assert all(torch.equal(b.state_dict()[name], tensor) for name, tensor in before.items())


def test_messages(networks: tuple[Chain, Chain]) -> None:
    (fit, _), (a, b) = parts(), networks
    with pytest.raises(AnalysisError, match="expected stitches to judge, found none; name cuts of both networks"):
        penalties(a, b, {}, fit)
    empty = Task(nn.Identity(), [], cross_entropy, {"accuracy": accuracy})
    with pytest.raises(AnalysisError, match="expected examples to judge stitches by, found none; give the task some"):
        penalties(a, b, fit_stitches(a, b, fit, [(0, 0)]), empty)
    with pytest.raises(AnalysisError, match="no layer of module Identity has `reset_parameters`, so there is no random front; leave that"):
        redrawn(nn.Identity(), torch.Generator())
