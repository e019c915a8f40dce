"""Policies for running statistics, on convolutional networks of the `cnns` population."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from weightspace.analysis.generation import Material, Target, fit, generate, load_generator, sample, save_generator
from weightspace.analysis.generation.generators.noise import Noise
from weightspace.analysis.generation.norms import settled
from weightspace.checkpoint import Checkpoint
from weightspace.errors import GenerationError, TaskError, UnknownNameError
from weightspace.metanets import WeightBatch
from weightspace.metanets.layout import Layout
from weightspace.modules import module_for
from weightspace.spec import SymmetrySpec
from weightspace.task import Task, task_for
from weightspace.tracing import trace
from weightspace.zoo.populations.cnns import cnns

STATISTICS = {f"{layer}.norm.running_{what}" for layer in ("stem", "block1") for what in ("mean", "var")}


@cache
def population() -> tuple[Checkpoint, ...]:
    """Five small convolutional networks with batch norms, hardly trained."""
    made = cnns(count=5, widths=[4], depths=[1], norms=["batch"], residual=[False], activations=["relu"], steps=[20], jobs=1)
    return tuple(replace(Checkpoint.of(one.tensors), recipe=one.recipe) for one in made)


@cache
def layout() -> Layout:
    """Their layout, which takes a while to find."""
    return Layout.of(trace(module_for(population()[0]), torch.randn(2, 64)))


def material() -> Material:
    first = population()[0]
    networks = WeightBatch.stack(population(), layout(), module=module_for(first))
    return Material(Target.of_networks(networks, like=first.state_dict()), networks, [task_for(first)])


def outputs(material: Material, at: int) -> torch.Tensor:
    """What one of the material's networks makes of the task's examples."""
    assert material.networks is not None
    state = material.target.whole(material.target.plain({name: tensor[at] for name, tensor in material.networks.tensors.items()}))
    return torch.cat(list(material.tasks[0].outputs(state)))


def test_the_population_has_statistics() -> None:
    assert set(material().target.shapes) >= STATISTICS


def test_fused_networks_are_the_same_functions() -> None:
    plain = material()
    fused = settled(plain, "fuse", logarithms=True)
    assert not set(fused.target.shapes) & STATISTICS and set(fused.target.constants) >= STATISTICS
    assert fused.networks is not None and not set(fused.networks.tensors) & STATISTICS
    for at in range(5):
        expected = outputs(plain, at)
        assert (outputs(fused, at) - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))


def test_fusing_asks_the_module_what_is_added_to_variances() -> None:
    plain = material()
    assert plain.networks is not None and plain.networks.module is not None
    for module in [plain.networks.module, plain.tasks[0].module]:
        for one in module.modules():
            if isinstance(one, nn.BatchNorm2d):
                one.eps = 0.1
    fused = settled(plain, "fuse", logarithms=True)
    assert float(fused.target.constants["stem.norm.running_var"][0]) == pytest.approx(0.9)
    torch.testing.assert_close(outputs(fused, 2), outputs(plain, 2), rtol=1e-5, atol=1e-6)
    from_task = settled(replace(plain, networks=replace(plain.networks, module=None)), "fuse", logarithms=True)
    assert float(from_task.target.constants["stem.norm.running_var"][0]) == pytest.approx(0.9)


def test_generated_variances_are_positive_and_the_plain_mean_is_theirs() -> None:
    plain = material()
    made = sample(fit("gaussian", plain, spread=5.0), 50)
    assert all((made[name] > 0).all() for name in STATISTICS if name.endswith("var"))
    mean = sample(fit("mean", plain, of=0), 1)
    assert plain.networks is not None
    variances = plain.networks.tensors["stem.norm.running_var"]
    torch.testing.assert_close(mean["stem.norm.running_var"][0], variances.mean(0))
    torch.testing.assert_close(mean["stem.norm.running_mean"][0], plain.networks.tensors["stem.norm.running_mean"].mean(0))


def test_a_generator_that_runs_what_it_makes_sees_variances_as_they_are() -> None:
    plain = material()
    assert settled(plain, "generate", logarithms=False) is plain


def test_re_estimated_statistics_are_those_of_the_data() -> None:
    plain = material()
    fitted = fit("noise", plain, norms="re-estimate", sigma=0.1)
    task = plain.tasks[0]
    made = sample(fitted, 3, task=task)
    assert set(made) == set(plain.target.shapes)
    inputs = torch.cat([batch[0] for batch in task.batches])
    for at in range(3):
        stem = nn.functional.conv2d(inputs.view(-1, 1, 8, 8), made["stem.conv.weight"][at], made["stem.conv.bias"][at], stride=2, padding=1)
        torch.testing.assert_close(made["stem.norm.running_mean"][at], stem.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made["stem.norm.running_var"][at], stem.var((0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_re_estimated_statistics_stand_in_checkpoints() -> None:
    plain = material()
    fitted = fit("noise", plain, norms="re-estimate", sigma=0.1)
    [one] = generate(fitted, 1, task=plain.tasks[0])
    assert torch.equal(one["block1.norm.running_var"], sample(fitted, 1, task=plain.tasks[0])["block1.norm.running_var"][0])


def test_measuring_statistics_anew_saves_noised_networks() -> None:
    plain = material()
    task = plain.tasks[0]

    def loss(norms: str) -> float:
        made = generate(fit("noise", plain, norms=norms, sigma=0.3), 10, task=task)
        return sum(task.evaluate(one)["loss"] for one in made) / 10

    assert loss("re-estimate") < 0.9 * loss("generate")


@pytest.mark.parametrize("norms", ["generate", "fuse", "re-estimate"])
def test_the_policy_is_in_the_recipe_and_survives_saving(norms: str, tmp_path: Path) -> None:
    plain = material()
    fitted = fit("noise", plain, norms=norms, sigma=0.0)
    [one] = generate(fitted, 1, task=plain.tasks[0])
    assert fitted.recipe["norms"] == norms and one.recipe is not None and one.recipe["norms"] == norms
    assert set(one.info) == set(population()[0].info)
    loaded = load_generator(save_generator(fitted, tmp_path / "noise.safetensors"))
    first, again = (sample(generator, 2, task=plain.tasks[0]) for generator in (fitted, loaded))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_networks_without_statistics_are_left_as_they_are() -> None:
    networks = WeightBatch.stack([{"weight": torch.ones(4, 2)}], SymmetrySpec.parse({"weight": "h 2"}, sizes={"h": 4}))
    plain = Material(Target.of_networks(networks), networks)
    assert all(settled(plain, norms, logarithms=True) is plain for norms in ("generate", "fuse", "re-estimate"))


def test_an_unknown_policy_is_told() -> None:
    with pytest.raises(UnknownNameError, match="no policy for norms named 'fold'"):
        fit("mean", material(), norms="fold")


def test_norms_without_gains_cannot_be_fused() -> None:
    axes = {"norm.running_mean": "h", "norm.running_var": "h"}
    spec = SymmetrySpec.parse(axes, sizes={"h": 4}, statistics=list(axes))
    networks = WeightBatch.stack([dict.fromkeys(axes, torch.ones(4))], spec)
    with pytest.raises(GenerationError, match="norm 'norm' has no 'weight', so it cannot be fused"):
        fit("mean", Material(Target.of_networks(networks), networks), norms="fuse")


def test_statistics_to_be_measured_need_a_task() -> None:
    with pytest.raises(GenerationError, match="give the task with the data to measure them on"):
        sample(fit("noise", material(), norms="re-estimate"), 1)


def test_negative_variances_are_refused() -> None:
    fitted = fit("noise", material(), sigma=0.0)
    assert isinstance(fitted, Noise)
    fitted.target = replace(fitted.target, logarithms=frozenset())  # as for a generator that runs what it makes
    fitted.networks = nn.Buffer(-fitted.networks.abs())
    with pytest.raises(GenerationError, match="negative variances; fit the generator with norms='fuse'"):
        sample(fitted, 1)


def test_a_network_without_batches_is_told() -> None:
    plain = material()
    empty = Task(plain.tasks[0].module, [], plain.tasks[0].loss)
    with pytest.raises(TaskError, match="no batches"):
        sample(fit("noise", plain, norms="re-estimate"), 1, task=empty)


def test_what_norms_add_to_variances_is_not_guessed() -> None:
    plain = material()
    assert plain.networks is not None
    bare = replace(plain, tasks=(), networks=replace(plain.networks, module=None))
    with pytest.raises(
        GenerationError, match=r"adds to variances is not known, so it cannot be fused; give the networks' module or their task"
    ):
        settled(bare, "fuse", logarithms=False)
    with pytest.raises(GenerationError, match="norms='fuse' is for generators that learn from networks; choose norms='re-estimate'"):
        settled(replace(plain, networks=None), "fuse", logarithms=False)
