"""Slices through the loss landscape."""

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from tests.analysis.functional.networks import convolutional, digits
from tests.pictures import expect_good
from weightspace.analysis.functional.landscape import Landscape, landscape, random_direction
from weightspace.errors import AnalysisError
from weightspace.task import Task


def test_directions_have_the_norms_of_filters_and_leave_vectors_alone(generator: torch.Generator) -> None:
    task, weights = convolutional()
    direction = random_direction(task, weights, generator)
    assert set(direction) == {"conv1.weight", "conv2.weight", "fc.weight"}
    for name, values in direction.items():
        torch.testing.assert_close(values.flatten(1).norm(dim=1), weights[name].double().flatten(1).norm(dim=1))


class Conv1D(nn.Module):
    """A linear layer whose weight is (in, out), by the name and attribute that transformers gives it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * torch.logspace(-1, 2, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = x @ self.weight
        return made


def test_filters_lie_along_the_axis_of_outputs(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"linear": Conv1D(5, 3), "up": nn.ConvTranspose2d(4, 6, 3, groups=2)})
    with torch.no_grad():
        module["up"].weight.mul_(torch.logspace(-1, 2, 6).reshape(2, 3).repeat_interleave(2, 0)[..., None, None])  # type: ignore[operator]
    task = Task.classification(module, torch.randn(9, 5), torch.arange(9) % 3)
    direction = random_direction(task, module.state_dict(), generator)

    def lengths(linear: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        outputs = [up[group * 2 : group * 2 + 2, output] for group in range(2) for output in range(3)]
        return torch.cat([linear.double().norm(dim=0), torch.stack([one.double().norm() for one in outputs])])

    found, wanted = (lengths(one["linear.weight"], one["up.weight"]) for one in (direction, module.state_dict()))
    torch.testing.assert_close(found, wanted)


def test_buffers_and_the_network_itself_are_not_touched() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    seen: list[dict[str, torch.Tensor]] = []
    task = Task.classification(module, torch.randn(20, 3), torch.arange(20) % 2)

    class Watching(Task):
        def evaluate(self, state_dict: "dict[str, torch.Tensor]") -> dict[str, float]:  # type: ignore[override]
            seen.append(dict(state_dict))
            return super().evaluate(state_dict)

    landscape(Watching(module, task.batches, task.loss), weights, points=3)
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    for state in seen:
        moved = {name for name in weights if not torch.equal(state[name], weights[name])}
        assert moved <= {"0.weight", "2.weight"}
    assert len(seen) == 3


def test_the_middle_is_the_network_and_steps_go_along_the_directions(generator: torch.Generator) -> None:
    found = digits()
    network = found.networks[0]
    line = landscape(found.task, network, points=5, span=0.5, generator=torch.Generator().manual_seed(3))
    direction = random_direction(found.task, network, torch.Generator().manual_seed(3))
    moved = {name: (tensor + 0.25 * direction[name]).float() if name in direction else tensor for name, tensor in network.items()}
    values = line.values()
    assert values["loss@0"] == found.task.evaluate(network)["loss"] and values["accuracy@0"] == found.task.evaluate(network)["accuracy"]
    assert values["loss@0.25"] == pytest.approx(found.task.evaluate(moved)["loss"], rel=1e-5)
    assert values["loss@0.5"] > values["loss@0"] < values["loss@-0.5"]


def test_a_plane_has_the_line_of_its_first_direction() -> None:
    found = digits()
    plane = landscape(found.task, found.networks[0], directions=2, points=3)
    line = landscape(found.task, found.networks[0], points=3)
    assert len(plane.losses) == len(plane.metrics["accuracy"]) == 9
    for step in ("-1", "0", "1"):
        assert plane.values()[f"loss@{step},0"] == pytest.approx(line.values()[f"loss@{step}"], rel=1e-6)


def test_filter_norms_make_slices_of_rescaled_networks_the_same() -> None:
    """Why directions are normalised: a network and one whose hidden units are scaled are one function."""
    found = digits()
    network = {name: tensor.double() for name, tensor in found.networks[0].items()}
    scaled = {name: tensor * (8 if name.startswith("fc1") else 0.125 if name == "fc2.weight" else 1) for name, tensor in network.items()}
    module = found.task.module.double()
    task = Task.classification(module, next(iter(found.task.batches))[0].double(), next(iter(found.task.batches))[1])
    one, two = (landscape(task, weights, points=5).losses for weights in (network, scaled))
    module.float()
    assert one == pytest.approx(two, rel=1e-6)


def test_tied_weights_move_together() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    task = Task.classification(module, torch.randn(9, 3), torch.arange(9) % 3)
    assert len(landscape(task, module.state_dict(), points=3).losses) == 3


def test_messages_and_pictures() -> None:
    found = digits()
    with pytest.raises(AnalysisError, match=r"expected 1 or 2 directions, at least 2 points and a span above 0, found 3, 21 and 1.0"):
        landscape(found.task, found.networks[0], directions=3)
    for directions in (1, 2):
        assert isinstance(landscape(found.task, found.networks[0], directions=directions, points=3).plot(), Figure)


@pytest.mark.parametrize("losses", [(0.5,) * 9, (0.0,) * 9, (-1.0, -2.0, -3.0) * 3, (1.0, 10.0, 1e4) * 3, (0.5,) * 8 + (float("nan"),)])
def test_a_plane_of_any_losses_is_coloured(losses: tuple[float, ...]) -> None:
    figure = Landscape((-1.0, 0.0, 1.0), 2, losses, {}).plot()
    expect_good(figure)
    assert max(len(paths.get_paths()) for paths in figure.axes[0].collections) > 1


def test_a_plane_without_a_finite_loss_is_one_clear_line() -> None:
    with pytest.raises(AnalysisError, match="no loss on the plane is finite, so there is nothing to draw; look nearer"):
        Landscape((-1.0, 1.0), 2, (float("nan"), float("inf")) * 2, {}).plot()
