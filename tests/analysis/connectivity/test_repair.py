"""REPAIR gives channels the moments they should have, in every kind of layer, and says what it leaves alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.connectivity.conftest import Pair, State, task_of
from weightspace.analysis.connectivity import barrier, repair
from weightspace.analysis.connectivity.layers import by_channel
from weightspace.analysis.connectivity.moments import Gathering, Moments
from weightspace.analysis.connectivity.paths import blend
from weightspace.checkpoint import Checkpoint
from weightspace.errors import TaskError, UnknownNameError
from weightspace.task import Task


def moments(task: Task, state_dict: State, name: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of what a layer gives on all batches together."""
    module = task.module.get_submodule(name)
    values = torch.cat([by_channel(module, part[name]) for part in task.activations(state_dict, [name])]).double()
    return values.mean(0), values.std(0, correction=0)


def off(task: Task, state_dict: State, a: State, b: State, name: str, t: float = 0.5) -> float:
    """How far the deviations of a layer's channels are from their goal, relative, the worst channel."""
    (mean_a, std_a), (mean_b, std_b), (mean, std) = (moments(task, one, name) for one in (a, b, state_dict))
    goal_mean, goal_std = (1 - t) * mean_a + t * mean_b, (1 - t) * std_a + t * std_b
    return max(((std - goal_std).abs() / goal_std).max().item(), ((mean - goal_mean).abs() / goal_std).max().item())


def drawn(module: nn.Module, *inputs: Tensor, batch_size: int = 7) -> tuple[Task, State, State, State]:
    """A task on inputs, two random networks and their midpoint."""

    def redrawn(seed: int) -> State:
        generator = torch.Generator().manual_seed(seed)
        made: State = {}
        for name, tensor in module.state_dict(keep_vars=True).items():
            noise = torch.randn(tensor.shape, generator=generator)
            known = next((one for other, one in module.state_dict(keep_vars=True).items() if one is tensor and other in made), None)
            made[name] = tensor.detach() if not tensor.is_floating_point() else noise.abs() + 0.5 if "running_var" in name else noise
            if known is not None:
                made[name] = next(made[other] for other, one in module.state_dict(keep_vars=True).items() if one is known)
        return made

    batches = list(
        zip(*(torch.split(tensor, batch_size) for tensor in inputs), torch.split(torch.zeros(len(inputs[0])), batch_size), strict=True)
    )
    a, b = redrawn(0), redrawn(1)
    return Task(module, batches, lambda out, _: out.mean()), a, b, blend((0.5, 0.5), (a, b))


class TestMoments:
    def test_parts_of_any_size_give_the_moments_of_the_whole(self, generator: torch.Generator) -> None:
        values = 1000 + torch.randn(50, 3, generator=generator)
        gathering = Gathering()
        for part in torch.split(values, [1, 30, 19]):
            alone = gathering.add(part)
        assert torch.allclose(alone.mean, values[31:].double().mean(0))
        assert torch.allclose(gathering.moments.mean, values.double().mean(0))
        assert torch.allclose(gathering.moments.std, values.double().std(0, correction=0))

    def test_a_channel_that_hardly_varies_is_only_shifted(self) -> None:
        goal = Moments(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]))
        scale, shift = Moments(torch.tensor([3.0, 3.0]), torch.tensor([4.0, 0.0])).towards(goal)
        assert scale.tolist() == [0.5, 1.0] and shift.tolist() == [-0.5, -2.0]


class TestTrainedNetworks:
    def test_deviations_shrink_in_between_and_are_restored(self, perceptrons: Pair) -> None:
        task, a, b = perceptrons.task, perceptrons.a, perceptrons.aligned
        middle = blend((0.5, 0.5), (a, b))
        found = repair(task, middle, a, b, 0.5)
        assert found.layers == ("fc1", "fc2") and found.norms == () and found.notes == ()
        for layer in found.layers:
            shrunk = moments(task, middle, layer)[1].mean() / (moments(task, a, layer)[1] + moments(task, b, layer)[1]).mean() * 2
            assert shrunk < 0.95
            assert off(task, found.state_dict, a, b, layer) < 0.01
        assert all(torch.equal(found.state_dict[name], middle[name]) for name in ("fc3.weight", "fc3.bias"))

    def test_independent_networks_are_better_in_the_middle(self, perceptrons: Pair) -> None:
        task, a = perceptrons.task, perceptrons.a
        for b, gain in ((perceptrons.b, 0.1), (perceptrons.aligned, 0.0)):
            plain, repaired = (barrier(a, b, task, 3, repair=mode) for mode in (None, "repair"))
            assert repaired.values["accuracy"][1] > plain.values["accuracy"][1] + gain
            assert repaired.barrier < plain.barrier
            assert repaired.repair == "repair"

    def test_ends_are_left_as_they_are(self, perceptrons: Pair) -> None:
        found = repair(perceptrons.task, perceptrons.a, perceptrons.a, perceptrons.b, 0.0)
        # Up to what the moments of single batches differ from those of all.
        assert perceptrons.task.evaluate(found.state_dict)["loss"] == pytest.approx(
            perceptrons.task.evaluate(perceptrons.a)["loss"], abs=2e-3
        )

    def test_batch_norms_are_reset_and_repaired(self, with_batch_norm: Pair) -> None:
        task, a, b = with_batch_norm.task, with_batch_norm.a, with_batch_norm.aligned
        middle = blend((0.5, 0.5), (a, b))
        reset, repaired = (repair(task, middle, a, b, 0.5, mode=mode) for mode in ("reset", "repair"))
        assert (reset.layers, reset.norms) == ((), ("norm1", "norm2"))
        assert (repaired.layers, repaired.norms) == (("norm1", "conv2", "norm2"), ("norm1", "norm2")), "conv1 goes straight into norm1"
        assert {name for name in middle if not torch.equal(middle[name], reset.state_dict[name])} == {
            f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("running_mean", "running_var")
        }
        for layer in repaired.layers:
            assert off(task, repaired.state_dict, a, b, layer) < 0.01 < off(task, middle, a, b, layer)
        losses = [task.evaluate(one)["loss"] for one in (middle, reset.state_dict, repaired.state_dict)]
        assert max(losses[1:]) < 0.8 * losses[0]

    def test_reset_statistics_are_those_torch_measures_in_training(self, with_batch_norm: Pair) -> None:
        task, a = with_batch_norm.task, with_batch_norm.a
        found = repair(task_of(task.module, batch_size=5000), a, a, a, 0.0, mode="reset").state_dict
        [batch] = task_of(task.module, batch_size=5000).batches
        module = task.module
        module.load_state_dict(a)
        for norm in (module.get_submodule("norm1"), module.get_submodule("norm2")):
            assert isinstance(norm, nn.BatchNorm2d)
            norm.train().momentum = 1.0
        module(batch[0])
        for name in ("norm1.running_mean", "norm1.running_var", "norm2.running_mean", "norm2.running_var"):
            assert torch.allclose(found[name], module.state_dict()[name], rtol=1e-4, atol=1e-6)

    def test_transformers_with_layer_norms(self, transformers: Pair) -> None:
        task, a, b = transformers.task, transformers.a, transformers.b
        middle = blend((0.5, 0.5), (a, b))
        found = repair(task, middle, a, b, 0.5)
        assert {"embed", "block.linear1", "block.linear2"} <= set(found.layers) and "head" not in found.layers
        for layer in ("embed", "block.linear1", "block.linear2"):
            assert off(task, found.state_dict, a, b, layer) < 0.01 < off(task, middle, a, b, layer)
        assert task.evaluate(found.state_dict)["loss"] < task.evaluate(middle)["loss"]

    def test_statistics_may_be_measured_on_another_task(self, perceptrons: Pair) -> None:
        inputs, classes = (torch.cat([batch[at] for batch in perceptrons.task.batches]) for at in (0, 1))
        few = Task.classification(perceptrons.task.module, inputs[:16], classes[:16])
        own = barrier(perceptrons.a, perceptrons.b, perceptrons.task, 3, repair="repair", statistics=perceptrons.task)
        other = barrier(perceptrons.a, perceptrons.b, perceptrons.task, 3, repair="repair", statistics=few)
        middle = repair(few, blend((0.5, 0.5), (perceptrons.a, perceptrons.b)), perceptrons.a, perceptrons.b, 0.5).state_dict
        assert own.losses == barrier(perceptrons.a, perceptrons.b, perceptrons.task, 3, repair="repair").losses != other.losses
        assert other.losses[1] == pytest.approx(perceptrons.task.evaluate(middle)["loss"])

    def test_curves_record_what_could_not_be_done(self, perceptrons: Pair) -> None:
        found = barrier(perceptrons.a, perceptrons.b, perceptrons.task, 3, repair="reset")
        assert found.notes == ("no layer keeps running statistics: there is nothing to reset",)
        assert found.losses == barrier(perceptrons.a, perceptrons.b, perceptrons.task, 3).losses


def conv1d_of_gpt2() -> nn.Module:
    layer: nn.Module = pytest.importorskip("transformers.pytorch_utils").Conv1D(5, 4)
    return layer


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(4, 5), (20, 4)),
        (lambda: nn.Linear(4, 5), (20, 3, 4)),
        (conv1d_of_gpt2, (20, 3, 4)),
        (lambda: nn.Conv1d(4, 6, 3, groups=2), (20, 4, 5)),
        (lambda: nn.Conv2d(4, 5, 3), (20, 4, 5, 5)),
        (lambda: nn.Conv3d(4, 5, 2), (20, 4, 3, 3, 3)),
        (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (20, 4, 5)),
        (lambda: nn.ConvTranspose2d(4, 5, 3, stride=2), (20, 4, 3, 3)),
        (lambda: nn.BatchNorm1d(4), (20, 4)),
        (lambda: nn.BatchNorm2d(4), (20, 4, 3, 3)),
    ],
    ids=["linear", "tokens", "gpt2", "grouped", "conv2d", "conv3d", "transposed-grouped", "transposed", "norm1d", "norm2d"],
)
def test_every_kind_of_layer_gets_the_moments_of_its_goal(make: Any, shape: tuple[int, ...], generator: torch.Generator) -> None:
    module = nn.Sequential(make(), nn.Flatten(), nn.LazyLinear(2))
    inputs = torch.randn(shape, generator=generator)
    module(inputs)
    task, a, b, middle = drawn(module, inputs, batch_size=20)
    found = repair(task, middle, a, b, 0.3)
    assert found.layers == ("0",)
    assert off(task, middle, a, b, "0", 0.3) > 0.1
    assert off(task, found.state_dict, a, b, "0", 0.3) < 1e-5


class TestNames:
    def test_prefixes_dtypes_and_inputs_are_kept(self, perceptrons: Pair) -> None:
        task = perceptrons.task
        plain, halves = (
            {f"module.{name}": tensor.to(dtype) for name, tensor in perceptrons.a.items()} for dtype in (torch.float32, torch.float16)
        )
        other = {f"module.{name}": tensor for name, tensor in perceptrons.b.items()}
        given = {name: tensor.clone() for name, tensor in halves.items()}
        found = repair(task, halves, Checkpoint.of(plain), other, 0.5).state_dict
        assert list(found) == list(halves) and all(tensor.dtype == torch.float16 for tensor in found.values())
        assert all(torch.equal(halves[name], given[name]) for name in given)
        assert not torch.equal(found["module.fc1.weight"], halves["module.fc1.weight"])


class Odd(nn.Module):
    """One layer twice, two that share a weight, one without bias, a computed weight, a plain norm, and the end."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.unbiased, self.computed = nn.Linear(4, 4, bias=False), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.plain, self.end, self.idle = nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.twice(self.twice(x)).relu()).relu()).relu()
        made: Tensor = self.end(self.plain(self.computed(self.unbiased(x).relu()).relu())).log_softmax(-1)
        return made


class TestLeftAlone:
    @pytest.fixture
    def odd(self, generator: torch.Generator) -> tuple[Task, State, State, State]:
        return drawn(Odd(), torch.randn(21, 4, generator=generator))

    def test_what_is_left_alone_is_said(self, odd: tuple[Task, State, State, State]) -> None:
        task, a, b, middle = odd
        found = repair(task, middle, a, b, 0.5)
        assert found.layers == ("unbiased",) and found.norms == ("plain",)
        assert found.notes == (
            "layer 'twice' is left as it is: it is called more than once",
            "layer 'one' is left as it is: its weight is shared with another layer",
            "layer 'two' is left as it is: its weight is shared with another layer",
            "layer 'computed' is left as it is: its weight is computed, not stored",
            "layer 'plain' is left as it is: it has no affine",
            "layer 'unbiased' has no bias: its deviation is corrected, its mean is not",
        )
        deviations = [moments(task, one, "unbiased")[1] for one in (a, b, found.state_dict)]
        assert torch.allclose(deviations[2], (deviations[0] + deviations[1]) / 2, rtol=0.1)

    def test_layers_can_be_chosen(self, perceptrons: Pair) -> None:
        found = repair(perceptrons.task, perceptrons.a, perceptrons.a, perceptrons.b, 0.5, layers=["fc3"])
        assert found.layers == ("fc3",)
        assert {name for name in perceptrons.a if not torch.equal(perceptrons.a[name], found.state_dict[name])} == {
            "fc3.weight",
            "fc3.bias",
        }

    def test_layers_that_cannot_be_chosen(self, odd: tuple[Task, State, State, State]) -> None:
        task, a, b, middle = odd
        with pytest.raises(TaskError, match="layer 'twice' cannot be corrected: it is called more than once; leave it out"):
            repair(task, middle, a, b, 0.5, layers=["unbiased", "twice"])
        with pytest.raises(UnknownNameError, match="no convolution, linear layer or batch norm that runs named 'idle'"):
            repair(task, middle, a, b, 0.5, layers=["idle"])

    def test_a_batch_norm_behind_something_done_in_place_is_not_right_behind_the_layer(self, generator: torch.Generator) -> None:
        inputs = torch.randn(12, 4, generator=generator)
        for between, layers in ((nn.Identity(), ("2",)), (nn.ReLU(inplace=True), ("0", "2"))):
            module = nn.Sequential(nn.Linear(4, 4), between, nn.BatchNorm1d(4), nn.Linear(4, 2))
            task, a, b, middle = drawn(module, inputs)
            assert repair(task, middle, a, b, 0.5).layers == layers
