"""Running a batch of networks: the same as one after another, differentiable, and clear where it cannot be."""

import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.metanets.architectures import ARCHITECTURES, Architecture, architecture
from weightspace.errors import MetanetError
from weightspace.metanets import WeightBatch
from weightspace.metanets.running import run
from weightspace.spec import SymmetrySpec


def one_by_one(kind: Architecture, batch: WeightBatch, inputs: Tensor) -> Tensor:
    learned = dict(kind.module.named_parameters())
    whole = [
        {**kind.module.state_dict(), **{name: one[at] if name in learned else one[at].detach() for name, one in batch.tensors.items()}}
        for at in range(len(batch))
    ]
    return torch.stack([functional_call(kind.module, state, (inputs,)) for state in whole])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_at_once_is_one_after_another(name: str) -> None:
    kind = architecture(name)
    batch, inputs = kind.batch(3), kind.inputs.double()
    with torch.no_grad():
        torch.testing.assert_close(run(batch, inputs, chunk=2), one_by_one(kind, batch, inputs), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["cnn", "grouped", "lstm"])
def test_convolutions_all_at_once_are_the_same_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = architecture(name)
    batch, inputs = kind.batch(3), kind.inputs.double()
    with torch.no_grad():
        expected = run(batch, inputs)
        monkeypatch.setattr("weightspace.metanets.running._is_mapped", lambda *_: True)
        torch.testing.assert_close(run(batch, inputs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "transformer"])
def test_gradients_reach_inputs_and_weights(name: str) -> None:
    kind = architecture(name)
    batch = kind.batch(2)
    batch = replace(batch, tensors={one: tensor.requires_grad_() for one, tensor in batch.tensors.items()})
    inputs = kind.inputs.double().requires_grad_()
    wanted = [inputs, *(tensor for one, tensor in batch.tensors.items() if one not in batch.spec.statistics)]
    found = torch.autograd.grad(run(batch, inputs).square().sum(), wanted, allow_unused=True)
    expected = torch.autograd.grad(one_by_one(kind, batch, inputs).square().sum(), wanted, allow_unused=True)
    assert found[0].abs().sum() > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_networks_run_in_eval_mode_and_the_callers_module_stays_in_training() -> None:
    module = nn.Sequential(OrderedDict(fc1=nn.Linear(3, 4), drop=nn.Dropout(0.5), norm=nn.BatchNorm1d(4), fc2=nn.Linear(4, 2))).train()
    kind = Architecture(
        module, SymmetrySpec.parse({name: _integers(tensor) for name, tensor in module.state_dict().items()}), torch.ones(5, 3)
    )
    batch = kind.batch(2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = run(batch, kind.inputs)
    assert torch.equal(found, run(batch, kind.inputs)) and found.shape == (2, 5, 2)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def _integers(tensor: Tensor) -> str:
    return " ".join(map(str, tensor.shape))


def test_wrappers_around_names_and_tied_tensors_make_no_difference() -> None:
    module = nn.Sequential(OrderedDict(first=nn.Linear(3, 3), act=nn.Tanh(), second=nn.Linear(3, 3)))
    module.get_submodule("second").weight = module.get_submodule("first").weight
    names = {"first.weight": "3 3", "first.bias": "3", "second.bias": "3"}
    states = [{name: torch.randn(3, 3) if "weight" in name else torch.randn(3) for name in names} for _ in range(2)]
    plain = run(WeightBatch.stack(states, SymmetrySpec.parse(names), module=module), torch.ones(4, 3))
    wrapped = [{f"module.{name}": tensor for name, tensor in state.items()} for state in states]
    spec = SymmetrySpec.parse({f"module.{name}": row for name, row in names.items()})
    assert torch.equal(plain, run(WeightBatch.stack(wrapped, spec, module=module), torch.ones(4, 3)))
    by_hand = torch.tanh(torch.ones(4, 3) @ states[0]["first.weight"].T + states[0]["first.bias"]) @ states[0]["first.weight"].T
    torch.testing.assert_close(plain[0], by_hand + states[0]["second.bias"])


def test_a_module_whose_branches_look_at_values_is_run_one_by_one() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.fc(x)
            return -made if float(made.sum().detach()) < 0 else made

    states = [{"fc.weight": torch.full((1, 2), value), "fc.bias": torch.zeros(1)} for value in (-1.0, 2.0)]
    batch = WeightBatch.stack(states, SymmetrySpec.parse({"fc.weight": "1 2", "fc.bias": "1"}), module=Branching())
    assert run(batch, torch.ones(1, 2)).flatten().tolist() == [2.0, 4.0]


def test_what_cannot_be_run_is_said_so() -> None:
    mlp = architecture("mlp")
    batch = mlp.batch(2)
    with pytest.raises(MetanetError, match=re.escape("give modules=... beside the weights")):
        run(replace(batch, module=None), torch.ones(1, 3))
    with pytest.raises(MetanetError, match=r"does not fit module .*missing"):
        run(replace(batch, module=architecture("cnn").module), torch.ones(1, 3))
    with pytest.raises(MetanetError, match=r"cannot be run on inputs that it was given .*give the shape of its inputs"):
        run(batch, torch.ones(1, 7))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), x


def test_a_module_that_returns_no_tensor_is_refused() -> None:
    batch = WeightBatch.stack([Twice().state_dict()], SymmetrySpec.parse({"fc.weight": "2 2", "fc.bias": "2"}), module=Twice())
    with pytest.raises(MetanetError, match="module Twice returned a tuple, expected a tensor"):
        run(batch, torch.ones(1, 2))
