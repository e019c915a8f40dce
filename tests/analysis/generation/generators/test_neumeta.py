"""NeuMeta: a trained network drawn at any width."""

from collections import OrderedDict
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from weightspace.analysis.generation import Material, Target, Wish, fit, load_generator, sample, save_generator
from weightspace.analysis.generation.generators.neumeta import NeuMeta
from weightspace.analysis.generation.manifold.distilling import distilled
from weightspace.analysis.generation.resizing import resized, resized_task
from weightspace.errors import GenerationError, UnknownNameError
from weightspace.metanets import WeightBatch
from weightspace.task import Task
from weightspace.tracing import trace

INPUTS, WIDTH, CLASSES = 6, 16, 3
QUICK: dict[str, Any] = {"fit_steps": 60, "steps": 80, "hidden": 16, "depth": 1, "learning_rate": 3e-3}


def perceptron(width: int = WIDTH) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(INPUTS, width), relu=nn.ReLU(), fc2=nn.Linear(width, width), relu2=nn.ReLU(), fc3=nn.Linear(width, CLASSES)
        )
    )


def blobs(module: nn.Module, seed: int = 0) -> Task:
    """Each class is two blobs opposite each other, so that no linear map tells them apart."""
    centres = torch.linalg.qr(torch.randn(INPUTS, INPUTS, generator=torch.Generator().manual_seed(1)))[0][:CLASSES]
    chance = torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (512,), generator=chance)
    sides = torch.randint(2, (512, 1), generator=chance) * 2 - 1
    x = 3 * sides * centres[classes] + 0.7 * torch.randn(512, INPUTS, generator=chance)
    return Task.classification(module, x, classes, batch_size=128)


@cache
def trained() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = perceptron()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(25):
            for x, y in blobs(module).batches:
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(module(x), y))
                optimizer.step()
    return module.eval()


def material(module: nn.Module | None = None, task: Task | None = None) -> Material:
    module = module or trained()
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    networks = WeightBatch.stack([state], trace(module, torch.zeros(2, INPUTS)))
    return Material(Target.of_networks(networks, state), networks, [task or blobs(module)])


def made(**settings: Any) -> NeuMeta:
    found = fit("neumeta", material(), **{**QUICK, **settings})
    assert isinstance(found, NeuMeta)
    return found


@cache
def one() -> NeuMeta:
    return made(steps=4, fit_steps=4)


def own() -> dict[str, torch.Tensor]:
    """The tensors of the trained network."""
    return {name: tensor.detach() for name, tensor in trained().state_dict().items()}


def accuracy(fitted: NeuMeta, width: int) -> float:
    target = resized(fitted.target, dict.fromkeys(fitted.groups, width))
    state = {name: tensor[0] for name, tensor in sample(fitted, 1, Wish(target=target)).items()}
    return resized_task(blobs(trained(), seed=7), target).evaluate(target.whole(state))["accuracy"]


def test_networks_of_all_widths_do_the_task_and_unseen_ones_as_well_as_their_neighbours() -> None:
    fitted = made(every=4, blockwise=True, steps=200, noise=0.5, learning_rate=3e-3)
    assert fitted.widths() == [16, 12, 8, 4]
    full = blobs(trained(), seed=7).evaluate(trained().state_dict())["accuracy"]
    found = {width: accuracy(fitted, width) for width in (16, 12, 10, 8, 6)}
    assert full > 0.9 and min(found.values()) > 0.65, found  # chance is 0.33


def test_without_task_steps_the_full_network_is_learned_and_no_other() -> None:
    fitted = made(steps=0, fit_steps=150, noise=0.0, learning_rate=1e-2)
    assert accuracy(fitted, 16) > 0.9 > accuracy(fitted, 5)


def test_the_fit_reaches_the_smoothed_weights_which_run_as_the_network_does() -> None:
    fitted, given = made(steps=0, fit_steps=300, noise=0.0, learning_rate=1e-2, only=["fc1", "fc2", "fc3.weight"]), material()
    state = {name: tensor[0] for name, tensor in sample(fitted, 1).items()}
    assert state["fc3.bias"].equal(own()["fc3.bias"])
    error = (fitted.target.flat(state) - given.flat()[0]).norm() / given.flat()[0].norm()
    assert error > 0.5  # the neurons stand in another order
    x = next(iter(blobs(trained(), 7).batches))[0]
    apart = torch.func.functional_call(trained(), state, (x,)) - trained()(x)
    assert apart.square().mean() < 0.05 * trained()(x).square().mean()


def test_blockwise_training_lets_one_group_vary_at_a_time_and_then_all() -> None:
    groups = ("fc1", "fc2")
    assert one()._stages() == [(groups, 4)]
    assert NeuMeta(one().target, steps=41, blockwise=True)._stages() == [(("fc1",), 10), (("fc2",), 10), (groups, 21)]


def test_a_chosen_group_varies_and_the_rest_stays() -> None:
    fitted = made(groups=["fc1"], only=["fc1", "fc2.weight"], steps=5, fit_steps=5)
    target = resized(fitted.target, {"fc1": 9})
    found = sample(fitted, 2, Wish(target=target))
    assert {name: tuple(tensor.shape[1:]) for name, tensor in found.items()} == dict(target.shapes)
    assert found["fc1.weight"].shape == (2, 9, INPUTS) and found["fc2.weight"].shape == (2, WIDTH, 9)
    bias = own()["fc2.bias"]
    assert found["fc2.bias"][0].sort().values.equal(bias.sort().values)


def test_a_target_of_another_module_is_a_wish_too() -> None:
    target = Target.of_module(perceptron(5), trace(perceptron(5), torch.zeros(2, INPUTS)))
    found = sample(one(), 1, Wish(target=target))
    assert {name: tuple(tensor.shape[1:]) for name, tensor in found.items()} == dict(target.shapes)


def test_averaged_networks_differ_and_a_single_one_has_no_chance_in_it() -> None:
    first, second = sample(one(), 2)["fc2.weight"]
    assert first.equal(second)
    fitted = made(steps=5, fit_steps=5, averaged=3)
    first, second = sample(fitted, 2)["fc2.weight"]
    assert not first.equal(second)


def test_saving_keeps_what_is_made_and_what_is_kept(tmp_path: Any) -> None:
    fitted = made(groups=["fc1"], only=["fc1", "fc2.weight"], steps=5, fit_steps=5)
    loaded = load_generator(save_generator(fitted, tmp_path / "generator.safetensors"))
    wish = Wish(target=resized(fitted.target, {"fc1": 9}))
    before, after = sample(fitted, 1, wish), sample(loaded, 1, wish)
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smallest": 0.0}, "setting 'smallest' of generator 'neumeta' is 0.0; expected a number above 0 and up to 1"),
        ({"distil": 2.0}, "setting 'distil' of generator 'neumeta' is 2.0; expected a number from 0 to 1"),
        ({"every": 0}, "setting 'every' of generator 'neumeta' is 0; expected a whole number from 1 to"),
        ({"only": ["fc9"]}, "no tensor's name begins with 'fc9'; the tensors are fc1.weight, fc1.bias, "),
        ({"groups": ["in"]}, "group 'in' cannot vary in size; the groups that can are fc1, fc2"),
        (
            {"groups": ["fc1"], "only": ["fc1"]},
            "group 'fc1' varies and indexes tensor 'fc2.weight', which is not made; add the tensor to `only`",
        ),
        ({"only": ["fc1"]}, "no neuron group's size can vary: each is fixed, or indexes a tensor that is not made; make more tensors"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError) as caught:
        made(**settings)
    assert message in str(caught.value)


def test_targets_that_differ_in_more_than_the_width_are_refused() -> None:
    target = resized(one().target, {"fc1": 8, "in": 4})
    with pytest.raises(
        GenerationError, match=r"tensor 'fc1.weight' has shape \[8, 4\] in the target that is wished for, expected \[8, 6\]"
    ):
        sample(one(), 1, Wish(target=target))


def test_several_tasks_are_refused() -> None:
    given = material()
    with pytest.raises(GenerationError, match="learns through one task, and was given 2; give one"):
        fit("neumeta", Material(given.target, given.networks, [*given.tasks, *given.tasks]), **QUICK)


def test_networks_without_a_tensor_that_is_to_be_made_are_refused() -> None:
    given = material()
    assert given.networks is not None
    less = WeightBatch(given.networks.layout, {name: tensor for name, tensor in given.networks.tensors.items() if name != "fc3.bias"})
    with pytest.raises(GenerationError, match=r"the networks have no tensor 'fc3.bias', which is to be made; give a target of their own"):
        fit("neumeta", Material(given.target, less, given.tasks), **QUICK)


def test_a_target_without_symmetry_is_refused() -> None:
    given = material()
    with pytest.raises(GenerationError, match="its symmetry is not known; give it a spec"):
        fit("neumeta", Material(Target.of_module(trained()), given.networks, given.tasks), **QUICK)


def test_a_tensor_without_a_row_is_refused() -> None:
    given = material()
    target = Target({**given.target.shapes, "more": (2,)}, spec=given.target.spec)
    with pytest.raises(GenerationError, match="tensor 'more' has no row in the target's spec; add one"):
        fit("neumeta", Material(target, given.networks, given.tasks), **QUICK)


def test_batch_norms_are_to_be_folded_before() -> None:
    module = nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, CLASSES)).eval()
    with pytest.raises(GenerationError, match="no neuron group's size can vary"):
        fit("neumeta", material(module), **QUICK)
    with pytest.raises(GenerationError, match=r"indexes tensor '1.running_mean', which is not made; .*fold running statistics"):
        fit("neumeta", material(module), groups=["layer0"], **QUICK)


def test_an_unknown_group_is_refused_in_resizing() -> None:
    with pytest.raises(UnknownNameError, match="fc9"):
        resized(one().target, {"fc9": 3})


class Layers(nn.Module):
    """One of every layer whose code has a size beside that of its weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(INPUTS, 4 * width)
        self.width = 4
        self.deep = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Conv1d(width, width, 1)
        self.norm = nn.BatchNorm1d(width)
        self.group = nn.GroupNorm(1, width)
        self.layer = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).unflatten(-1, (-1, self.width))
        x = self.group(self.norm(self.mix(torch.relu(self.deep(x))))).mean(-1)
        out: torch.Tensor = self.head(self.layer(x))
        return out


def test_a_task_at_another_width_gives_what_a_module_of_that_width_gives() -> None:
    torch.manual_seed(0)
    large, small = Layers(8).eval(), Layers(3).eval()
    task = resized_task(blobs(large), Target.of_networks(WeightBatch.stack([small.state_dict()], trace(small, torch.zeros(2, INPUTS)))))
    x, y = next(iter(task.batches))
    torch.testing.assert_close(task.outputs_of(small.state_dict(), (x, y)), small(x))
    told = task.module
    assert isinstance(told, Layers)
    assert (told.deep.groups, told.deep.in_channels, told.mix.in_channels, told.embed.out_features) == (3, 3, 3, 12)
    assert large.deep.groups == 8 and large.layer.normalized_shape == (8,) and large.embed.weight.shape == (32, INPUTS)


class Stubborn(nn.Module):
    """Keeps its width in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(INPUTS, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(torch.relu(self.fc1(x)) * torch.ones(8))
        return out


def test_a_module_that_keeps_its_width_in_its_code_is_refused() -> None:
    target = Target.of_module(Stubborn(), trace(perceptron_of_one(), torch.zeros(2, INPUTS)))
    with pytest.raises(GenerationError, match=r"module Stubborn does not run with fc1 = 4 .*; let its code take sizes from its tensors"):
        resized_task(blobs(Stubborn()), resized(target, {"fc1": 4}))


def perceptron_of_one() -> nn.Module:
    return nn.Sequential(OrderedDict(fc1=nn.Linear(INPUTS, 8), relu=nn.ReLU(), fc2=nn.Linear(8, CLASSES)))


def test_a_task_of_another_module_is_refused() -> None:
    with pytest.raises(GenerationError, match=r"module Linear has no tensor 'fc1.weight'; give the task of the target's own module"):
        resized_task(blobs(nn.Linear(INPUTS, CLASSES)), one().target)


def test_a_task_with_a_teacher_has_no_loss_from_it_where_outputs_are_the_teachers() -> None:
    task, state = blobs(trained()), trained().state_dict()
    taught = distilled(task, state, 1.0)
    assert taught.evaluate(state)["loss"] == pytest.approx(0.0, abs=1e-6)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    answers = torch.cat(list(task.outputs(state)))
    assert taught.evaluate(zeros)["loss"] == pytest.approx(float(answers.square().mean() / answers.var(correction=0)), rel=1e-4)
    half = distilled(task, state, 0.5)
    assert half.evaluate(zeros)["loss"] == pytest.approx(
        0.5 * task.evaluate(zeros)["loss"] + 0.5 * taught.evaluate(zeros)["loss"], rel=1e-4
    )
    assert distilled(task, state, 0.0) is task


def test_outputs_that_are_no_tensor_cannot_be_learned_from() -> None:
    task = Task(
        trained(), blobs(trained()).batches, lambda outputs, batch: outputs[0].sum(), forward=lambda module, batch: (module(batch[0]),)
    )
    with pytest.raises(GenerationError, match=r"outputs of type tuple cannot be learned from; .*distil=0"):
        distilled(task, trained().state_dict(), 0.5)
