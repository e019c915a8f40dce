"""How far two state dicts are from one function."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.proof.networks import INPUT, Tied, mlp, mlp_spec
from tests.strategies import seeded
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError
from weightspace.formats.safetensors import save
from weightspace.opening import open as open_checkpoint
from weightspace.proof import function_change
from weightspace.symmetry import act


def test_an_element_changes_the_function_by_rounding_only(tmp_path: Any) -> None:
    spec, module = mlp_spec(a="scale", b="scale"), mlp(nn.ReLU)
    state, inputs = module.state_dict(), torch.randn(4, 5, generator=seeded(0))
    moved = act(spec.random(seeded(0)), {name: tensor.double() for name, tensor in state.items()})
    assert function_change(module, state, moved, inputs) < 1e-14
    assert function_change(module, state, {**moved, "0.bias": state["0.bias"]}, inputs) > 1e-2
    save(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path / "model.safetensors")
    assert isinstance(checkpoint, Checkpoint)
    assert function_change(module, checkpoint, moved, inputs) < 1e-14


def test_weights_of_a_tied_module_may_name_it_once() -> None:
    module, tokens = Tied(), torch.zeros(1, 2, dtype=torch.long)
    once = {name: tensor for name, tensor in module.state_dict().items() if name != "head.weight"}
    assert function_change(module, module.state_dict(), once, tokens, torch.ones(1, 2)) == 0
    del once["embed.weight"]
    with pytest.raises(
        SymmetryError, match=r"the module has a tensor 'embed\.weight', which the weights lack; give weights of this module"
    ):
        function_change(module, module.state_dict(), once, tokens, torch.ones(1, 2))


def test_weights_of_another_shape_are_refused() -> None:
    state = mlp(nn.ReLU).state_dict()
    message = r"tensor '0\.bias' has shape \(9,\) in the weights but \(7,\) in the module; give weights of this module"
    with pytest.raises(ShapeMismatchError, match=message):
        function_change(mlp(nn.ReLU), state, {**state, "0.bias": torch.zeros(9)}, INPUT)
