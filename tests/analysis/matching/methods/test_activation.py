"""Activation matching: what it recovers, where it looks, and what it says."""

import itertools
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.analysis.matching.trained import NETWORKS, trained
from weightspace.analysis.matching import match
from weightspace.errors import SymmetryError, TaskError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.task import Task, cross_entropy


class Bare(nn.Module):
    """A module with weights but no submodules: nothing shows its hidden group."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(width, 3))
        self.second = nn.Parameter(torch.randn(2, width))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.first.T).relu() @ self.second.T


class SharedOrder(nn.Module):
    """Heads whose query and key members keep one order in all heads, as a norm shared by the heads demands."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 5)
        self.scale = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = (q * self.scale @ k.mT).softmax(-1) @ v
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2)).mean(1)
        return out


def task_of(module: nn.Module, *shape: int, classes: int = 2, generator: torch.Generator) -> Task:
    inputs = torch.randn(60, *shape, generator=generator)
    return Task.classification(module, inputs, torch.randint(0, classes, (60,), generator=generator), batch_size=25)


def small(width: int, generator: torch.Generator) -> tuple[SymmetrySpec, Task, dict[str, Tensor], dict[str, Tensor]]:
    module = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    rows = {"0.weight": "h 3", "0.bias": "h", "2.weight": "2 h'", "2.bias": "2"}
    spec = SymmetrySpec.parse(rows, sizes={"h": width})
    a, b = ({name: torch.randn(spec.shape(name), generator=generator) for name in spec.tensors} for _ in range(2))
    return spec, task_of(module, 3, generator=generator), a, b


@pytest.mark.parametrize("similarity", ["correlation", "inner"])
@pytest.mark.parametrize("of", ["output", "input"])
@pytest.mark.parametrize("name", NETWORKS)
def test_planted_elements_are_recovered_on_trained_networks(name: str, of: str, similarity: str, generator: torch.Generator) -> None:
    net = trained(name)
    planted = net.spec.random(generator, discrete=True)
    found = match(net.a, act(planted, net.a), net.spec, "activation", task=net.task, of=of, similarity=similarity)
    if similarity == "correlation":  # a long vector may have a larger product with another than with itself
        assert found.l2_after < 1e-5 * found.l2_before
    else:
        assert found.l2_after < 0.5 * found.l2_before


@pytest.mark.parametrize("of", ["output", "input"])
def test_the_correlation_is_the_best_of_all_permutations(of: Literal["input", "output"], generator: torch.Generator) -> None:
    spec, task, a, b = small(5, generator)
    at = "0" if of == "output" else "2"
    values = [torch.cat([seen[at] for seen in task.activations(weights, [at], of)]).double() for weights in (a, b)]
    alike = torch.corrcoef(torch.cat(values, 1).T)[:5, 5:]
    best = max(sum(float(alike[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(5)))
    found = match(a, b, spec, "activation", task=task, of=of)
    assert found.objective[-1] == pytest.approx(best)
    assert found.objective[0] == pytest.approx(float(alike.trace()))


def test_raw_inner_products_are_the_best_of_all_permutations(generator: torch.Generator) -> None:
    spec, task, a, b = small(4, generator)
    left, right = (torch.cat([seen["0"] for seen in task.activations(weights, ["0"])]).double() for weights in (a, b))
    products = left.T @ right
    best = max(sum(float(products[i, j]) for i, j in enumerate(order)) for order in itertools.permutations(range(4)))
    assert match(a, b, spec, "activation", task=task, similarity="inner").objective[-1] == pytest.approx(best)


def test_both_networks_see_the_same_batches_of_a_loader_that_shuffles() -> None:
    net = trained("relu")
    images = torch.cat([batch[0] for batch in net.task.batches])
    data = TensorDataset(images[:200], torch.zeros(200, dtype=torch.long))
    loader = DataLoader(data, batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(3))
    task = Task(net.task.module, loader, cross_entropy)
    planted = net.spec.random(torch.Generator().manual_seed(4))
    found = match(net.a, act(planted, net.a), net.spec, "activation", task=task, of="input")
    alike = match(net.a, net.a, net.spec, "activation", task=task, of="input")
    assert found.objective[-1] == pytest.approx(alike.objective[-1])


def test_members_that_never_vary_gain_nothing_and_are_ties(generator: torch.Generator) -> None:
    spec, task, a, _ = small(5, generator)
    dead = {**a, "0.bias": a["0.bias"] - 1000 * torch.tensor([1.0, 0, 1, 0, 1])}
    found = match(dead, act(spec.random(generator), dead), spec, "activation", task=task, of="input")
    assert found.objective[-1] == pytest.approx(2)
    assert found.ties == {"h": 3}


def test_groups_that_no_submodule_shows_are_matched_by_weights(generator: torch.Generator) -> None:
    module, spec = Bare(6), SymmetrySpec.parse({"first": "h 3", "second": "2 h'"}, sizes={"h": 6})
    weights = {name: tensor.detach() for name, tensor in module.named_parameters()}
    planted = spec.random(generator)
    found = match(weights, act(planted, weights), spec, "activation", task=task_of(module, 3, generator=generator))
    assert (found.element @ planted).is_identity
    assert found.stopped == "no family could gain; by weights, as no submodule shows them: h"


def test_children_that_no_submodule_shows_are_named(generator: torch.Generator) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    module.register_parameter("aside", nn.Parameter(torch.randn(2, 4)))
    rows = {"0.weight": "g 3", "0.bias": "g", "1.weight": "2 g'", "1.bias": "2", "aside": "g x"}
    spec = SymmetrySpec.parse(rows, groups={"g": {"size": 2}, "x": {"size": 4, "per": "g"}})
    weights = {name: tensor.detach() for name, tensor in module.named_parameters()}
    found = match(weights, weights, spec, "activation", task=task_of(module, 3, generator=generator))
    assert found.stopped == "no family could gain; as they were, as no submodule shows them: x"


def test_heads_with_one_order_inside_them_all_are_matched_in_turn(generator: torch.Generator) -> None:
    module = SharedOrder()
    row = {name: f"(head {inside}) 6" for name, inside in {"q": "dk", "k": "dk", "v": "dv"}.items()}
    rows = {f"{name}.weight": axes for name, axes in row.items()} | {f"{name}.bias": axes.split(" 6")[0] for name, axes in row.items()}
    rows |= {"o.weight": "5 (head dv)'", "o.bias": "5", "scale": "dk"}
    spec = SymmetrySpec.parse(rows, groups={"head": {"size": 3}, "dk": {"size": 4}, "dv": {"size": 4, "per": "head"}})
    weights = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in module.named_parameters()}
    swapped = spec.element({"dk": [1, 0, 2, 3]}) @ spec.element({"head": [1, 0, 2]})
    task = task_of(module, 7, 6, classes=5, generator=generator)
    found = match(weights, act(swapped, weights), spec, "activation", task=task)
    assert (found.element @ swapped).is_identity


def test_unknown_words_are_refused(generator: torch.Generator) -> None:
    spec, task, a, b = small(3, generator)
    with pytest.raises(UnknownNameError, match="no similarity named 'corelation'; did you mean 'correlation'"):
        match(a, b, spec, "activation", task=task, similarity="corelation")
    with pytest.raises(UnknownNameError, match="no place of activations named 'outputs'; did you mean 'output'"):
        match(a, b, spec, "activation", task=task, of="outputs")


def test_no_task_and_a_task_without_batches_are_refused(generator: torch.Generator) -> None:
    spec, task, a, b = small(3, generator)
    with pytest.raises(
        TaskError, match="'activation' compares what members do on data, and there is no task; give one, or use method 'weight'"
    ):
        match(a, b, spec, "activation")
    with pytest.raises(TaskError, match="no batches, and needs at least one to match on; give it data"):
        match(a, b, spec, "activation", task=Task(task.module, [], cross_entropy))


def test_activations_that_are_not_finite_are_refused(generator: torch.Generator) -> None:
    spec, task, a, b = small(3, generator)
    batches = [(torch.full((2, 3), float("inf")), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(SymmetryError, match="activations of neuron group 'h' are not finite; matching needs finite weights and data"):
        match(a, b, spec, "activation", task=Task(task.module, batches, cross_entropy))
