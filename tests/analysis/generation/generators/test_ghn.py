"""The graph hypernetwork: weights for architectures that it has not seen, and what users are told."""

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Material, Target, WeightGenerator, Wish, fit, generate, load_generator, sample, save_generator
from weightspace.analysis.generation.generators.ghn import GraphHypernetwork
from weightspace.analysis.generation.graphs.graph import ArchitectureGraph
from weightspace.analysis.generation.graphs.reading import read
from weightspace.errors import GenerationError
from weightspace.task import Task

TINY: dict[str, Any] = {"hidden": 8, "decoder_width": 8, "max_channels": 12, "max_kernel": 3, "steps": 2, "together": 2}


class Net(nn.Module):
    """Hidden layers of one width, perhaps with batch norms and with a skip around each layer but the first."""

    def __init__(self, width: int, depth: int, *, norm: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.maps = nn.ModuleList([nn.Linear(6 if at == 0 else width, width) for at in range(depth)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(width) if norm else nn.Identity() for _ in range(depth)])
        self.head, self.skip = nn.Linear(width, 4), skip

    def forward(self, x: Tensor) -> Tensor:
        for at, (linear, norm) in enumerate(zip(self.maps, self.norms, strict=True)):
            y = norm(linear(x)).relu()
            x = x + y if self.skip and at else y
        logits: Tensor = self.head(x)
        return logits


class Convolutional(nn.Module):
    """A convolution, averaged over its places."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.head = nn.Conv1d(1, 10, 3), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.map(x[:, None]).relu().mean(-1))
        return logits


def task(module: nn.Module, seed: int = 0) -> Task:
    """Four blobs in six dimensions."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(200) % 4
    centres = 1.5 * torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    return Task.classification(module, centres[classes] + torch.randn(200, 6, generator=generator), classes, batch_size=50)


def material(*modules: nn.Module) -> Material:
    return Material(Target.of_module(modules[0]), tasks=[task(module) for module in modules], parents=("a" * 64,))


def fitted(*modules: nn.Module, **settings: Any) -> WeightGenerator:
    return fit("ghn", material(*(modules or (Net(8, 1),))), norms="re-estimate", **(TINY | settings))


def wished(module: nn.Module) -> Wish:
    return Wish(target=Target.of_module(module), module=module)


@cache
def seen() -> tuple[list[ArchitectureGraph], list[Task]]:
    """Architectures to learn from."""
    choices = itertools.product((8, 12), (1, 2), (False, True), (False, True))
    modules = [Net(width, depth, norm=norm, skip=skip) for width, depth, norm, skip in choices if depth > 1 or not skip]
    return [read(module, torch.randn(2, 6)) for module in modules], [task(module) for module in modules]


@pytest.mark.parametrize("layers", ["gated", "transformer"])
def test_unseen_architectures_work_without_training(layers: str) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"hidden": 16, "decoder_width": 16, "steps": 120, "together": 4, "learning_rate": 5e-3}
    made = GraphHypernetwork(Target.of_module(Net(8, 1)), **(TINY | settings), layers=layers)
    made.learn_on(*seen(), generator=torch.Generator().manual_seed(0))
    made.example = nn.Buffer(torch.randn(2, 6))
    for module in (Net(10, 2, skip=True), Net(10, 1, norm=True)):
        wish = wished(module)
        assert wish.target is not None
        state = wish.target.whole({name: tensor[0] for name, tensor in sample(made, 1, wish).items()})
        hits = [(logits.argmax(-1) == batch[1]).double().mean() for batch, logits in task(module, seed=1).run(state, batch_statistics=True)]
        assert torch.stack(hits).mean() > 0.6, "of four classes"


def test_norms_need_their_statistics_measured() -> None:
    module = Net(8, 2, norm=True)
    made = fitted(module)
    with pytest.raises(GenerationError, match=r"leaves running statistics to be measured; give the task"):
        sample(made, 1)
    drawn = sample(made, 2, task=task(module))
    assert {"norms.0.running_mean", "norms.1.running_var"} < set(drawn)
    hidden = torch.cat([batch[0] for batch in task(module).batches]) @ drawn["maps.0.weight"][0].T + drawn["maps.0.bias"][0]
    torch.testing.assert_close(drawn["norms.0.running_mean"][0], hidden.mean(0), rtol=1e-3, atol=1e-4)


def test_what_it_was_fitted_on_needs_no_wish_even_when_loaded(tmp_path: Any) -> None:
    module = Net(8, 2, skip=True)
    made = fitted(module, Net(10, 1))
    loaded = load_generator(save_generator(made, tmp_path / "ghn.safetensors"))
    for wish in (None, wished(module), wished(Convolutional())):
        one, two = sample(made, 2, wish), sample(loaded, 2, wish)
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(tensor, sample(made, 2)[name]) for name, tensor in sample(made, 2, wished(module)).items())


def test_networks_of_one_architecture_are_equal_and_those_of_another_have_its_tensors() -> None:
    made, module = fitted(), Convolutional()
    [one, two] = generate(made, 2, wished(module))
    assert set(one.info) == set(module.state_dict())
    assert all(torch.equal(one[name], two[name]) for name in one.info)


@cache
def known() -> tuple[ArchitectureGraph, Target]:
    """The graph of a network with three hidden layers, and its target."""
    return read(Net(12, 3), torch.randn(2, 6)), Target.of_module(Net(12, 3))


def first(**settings: Any) -> dict[str, Tensor]:
    """What a hypernetwork that has learned nothing makes of it."""
    torch.manual_seed(0)
    graph, target = known()
    made = GraphHypernetwork(target, **(TINY | settings)).eval()
    with torch.no_grad():
        [weights] = made.weights([graph], [target])
    return weights


def test_layers_of_one_shape_differ_by_their_place_in_the_graph_alone() -> None:
    assert not torch.allclose(first()["maps.1.weight"], first()["maps.2.weight"])
    torch.testing.assert_close(first(depth=0)["maps.1.weight"], first(depth=0)["maps.2.weight"])


@pytest.mark.parametrize("layers", ["gated", "transformer"])
def test_virtual_edges_are_on_off_or_as_long_as_told(layers: str) -> None:
    drawn = [first(layers=layers, virtual_edges=edges)["head.weight"] for edges in (True, 50, False, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])
    assert not torch.allclose(drawn[0], drawn[2]) and not torch.allclose(drawn[4], drawn[2])


def test_normalisation_is_one_setting() -> None:
    plain, scaled = first(normalise=False), first()
    torch.testing.assert_close(scaled["maps.1.weight"], plain["maps.1.weight"] * (2 / 12) ** 0.5)
    torch.testing.assert_close(scaled["maps.1.bias"], torch.tanh(plain["maps.1.bias"] / 5))


def test_architectures_that_are_made_together_do_not_meet() -> None:
    torch.manual_seed(0)
    graph, target = known()
    made = GraphHypernetwork(target, **TINY)
    pair = made.weights([graph, graph], [target, target])
    [alone] = made.weights([graph], [target])
    for name in target.shapes:
        torch.testing.assert_close(pair[0][name], alone[name])
        torch.testing.assert_close(pair[1][name], alone[name])


@pytest.mark.parametrize(("given", "missing"), [("target", "module"), ("module", "target")])
def test_half_an_architecture_is_refused(given: str, missing: str) -> None:
    module = Net(8, 1)
    wish = Wish(target=Target.of_module(module)) if given == "target" else Wish(module=module)
    with pytest.raises(
        GenerationError, match=rf"a {given} without its {missing}: .* give Wish\(target=Target.of_module\(module\), module=module\)"
    ):
        sample(fitted(), 1, wish)


def test_a_target_of_another_module_is_refused() -> None:
    with pytest.raises(GenerationError, match=r"tensor 'map.weight' is no parameter of the module; make the target with Target.of_module"):
        sample(fitted(), 1, Wish(target=Target.of_module(Convolutional()), module=Net(8, 1)))


def test_unknown_layers_are_named() -> None:
    with pytest.raises(GenerationError, match=r"layers 'recurrent' are not known; expected gated or transformer"):
        fitted(layers="recurrent")


def test_batches_must_be_pairs() -> None:
    module = Net(8, 1)
    strange = Task(module, [{"x": torch.randn(4, 6)}], lambda outputs, batch: outputs.square().mean())
    with pytest.raises(GenerationError, match=r"expected batches of \(input, target\), found dict; give tasks with such batches"):
        fit("ghn", Material(Target.of_module(module), tasks=[strange]), **TINY)
