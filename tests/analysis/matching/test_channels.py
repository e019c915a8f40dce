"""Where groups show: every kind of layer, seen by what happens to its outputs and inputs when an element acts."""

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.matching.channels import channels_of
from weightspace.axes import show
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act


class Conv1D(nn.Module):
    """The linear layer of GPT-2 in transformers: its weight is (in, out)."""

    def __init__(self, out: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, out)), nn.Parameter(torch.randn(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class RMS(nn.Module):
    """A norm of one's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / x.square().mean(-1, keepdim=True).sqrt()


# A layer, the axes of its tensors, where its output shows a group and where its input does.
LAYERS: dict[str, tuple[nn.Module, dict[str, str], tuple[str, int] | None, tuple[str, int] | None]] = {
    "linear": (nn.Linear(4, 6), {"weight": "h i'", "bias": "h"}, ("h", -1), ("i'", -1)),
    "linear without bias": (nn.Linear(4, 6, bias=False), {"weight": "h i'"}, ("h", -1), ("i'", -1)),
    "convolution": (nn.Conv2d(4, 6, 3, bias=False), {"weight": "h i' 3 3"}, ("h", -3), ("i'", -3)),
    "one-dimensional": (nn.Conv1d(4, 6, 3), {"weight": "h i' 3", "bias": "h"}, ("h", -2), ("i'", -2)),
    "grouped": (nn.Conv2d(4, 6, 1, groups=2), {"weight": "(2 o) i 1 1", "bias": "(2 o)"}, ("(2 o)", -3), None),
    "depthwise": (nn.Conv2d(6, 6, 1, groups=6), {"weight": "h 1 1 1", "bias": "h"}, ("h", -3), None),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, bias=False), {"weight": "i' h 2 2"}, ("h", -3), ("i'", -3)),
    "of GPT-2": (Conv1D(6, 4), {"weight": "i' h", "bias": "h"}, ("h", -1), ("i'", -1)),
    "embedding": (nn.Embedding(5, 6), {"weight": "5 h"}, ("h", -1), None),
    "batch norm": (nn.BatchNorm2d(6), {name: "h" for name in ("weight", "bias", "running_mean", "running_var")}, ("h", 1), ("h", 1)),
    "layer norm": (nn.LayerNorm(6), {"weight": "h", "bias": "h"}, ("h", -1), ("h", -1)),
    "group norm": (nn.GroupNorm(2, 6), {"weight": "(2 o)", "bias": "(2 o)"}, ("(2 o)", 1), ("(2 o)", 1)),
    "own norm": (RMS(6), {"weight": "h"}, ("h", -1), ("h", -1)),
}
SIZES = {"h": 6, "i": 4, "o": 3}


def spec_and_weights(name: str, generator: torch.Generator) -> tuple[nn.Module, SymmetrySpec, dict[str, Tensor]]:
    layer, rows, _, _ = LAYERS[name]
    rows = {f"0.{key}": axes for key, axes in rows.items()}
    groups = {g: size for g, size in SIZES.items() if any(g in axes for axes in rows.values())}
    spec = SymmetrySpec.parse(rows, sizes=groups | ({"i": 2} if name == "grouped" else {}))
    module = nn.Sequential(layer)
    weights = {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in module.state_dict().items()
    }
    return module.eval(), spec, weights


@pytest.mark.parametrize("name", LAYERS)
def test_channels_are_found(name: str, generator: torch.Generator) -> None:
    module, spec, weights = spec_and_weights(name, generator)
    for of_input, expected in ((False, LAYERS[name][2]), (True, LAYERS[name][3])):
        found = channels_of(module, spec, weights, of_input=of_input)
        assert [(show([place.axis]), place.dim) for place in found] == ([expected] if expected else [])


@pytest.mark.parametrize("name", ["linear", "convolution", "transposed", "of GPT-2", "embedding", "batch norm", "own norm"])
def test_an_element_moves_the_channels_of_the_output_as_it_moves_the_group(name: str, generator: torch.Generator) -> None:
    module, spec, weights = spec_and_weights(name, generator)
    (place,) = channels_of(module, spec, weights)
    element = spec.element({"h": torch.randperm(6, generator=generator)})
    channels = 6 if "norm" in name else 4
    given = torch.randn(2, channels, 5, 5, generator=generator) if place.dim != -1 else torch.randn(7, channels, generator=generator)
    if name == "embedding":
        given = torch.arange(5)
    index = element.actions["h"].index
    moved = given if "norm" not in name else given.index_select(place.dim, index)
    before, after = (torch.func.functional_call(module, w, (x,)) for w, x in ((weights, given), (act(element, weights), moved)))
    torch.testing.assert_close(place.last(moved, after), place.last(given, before)[:, index])


def test_modules_with_submodules_and_tensors_without_rows_show_nothing(generator: torch.Generator) -> None:
    class Holder(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 6))
            self.weight = nn.Parameter(torch.randn(6))

    module = Holder()
    spec = SymmetrySpec.parse({"0.weight": "h 4", "0.bias": "h", "weight": "h"}, sizes={"h": 6})
    weights = {key: value.detach() for key, value in module.state_dict().items()}
    assert [place.module for place in channels_of(module, spec, weights)] == ["0"]
