"""Modules fall apart where one group of neurons crosses, and their parts in a row compute what they do, at any size of a batch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.families import TINY
from weightspace.errors import SymmetryError
from weightspace.tracing.cutting import Parts, cut

QUICK = ("gpt2", "llama_tied", "vit_timm", "resnet_cifar_a")
FEATURES = torch.linspace(-1, 1, 24).reshape(4, 6)
OTHERS = torch.linspace(-2, 1, 42).reshape(7, 6)  # another size of a batch


class Made(nn.Module):
    """Three linear layers and a function that calls them."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.function(self, *inputs, **kwargs)

    def hidden(self, x: Tensor) -> Tensor:
        return functional.relu(self.b(functional.relu(self.a(x))))


def composed(parts: Parts, *inputs: Any) -> Any:
    value: Any = None
    with torch.no_grad():
        for at, (part, needs) in enumerate(zip(parts.modules, parts.needs, strict=True)):
            given = [inputs[which] for which in needs]
            value = part(*given) if at == 0 else part(value, *given)
    return value


def names(parts: Parts) -> list[str]:
    return [one.name for one in parts.cuts]


def outputs_of(module: nn.Module, *inputs: Any, **kwargs: Any) -> list[Tensor]:
    with torch.no_grad():
        found = module.eval()(*inputs, **kwargs)
    values = found.values() if isinstance(found, dict) else [found] if isinstance(found, Tensor) else found
    return [value for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TINY])
def test_parts_in_a_row_are_the_module_at_another_size_of_a_batch(name: str) -> None:
    tiny = TINY[name]()
    before = {key: tensor.clone() for key, tensor in tiny.module.state_dict().items()}
    found = cut(tiny.module, *tiny.inputs)
    inputs = [value[[1, 0, 1]] for value in tiny.inputs]
    for mine, theirs in zip(composed(found, *inputs), outputs_of(tiny.module, *inputs), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    assert all(torch.equal(before[key], tensor) for key, tensor in tiny.module.state_dict().items())
    # Two networks side by side cross by more than one value, and a bare encoder gives out its stream itself, whose order is fixed then.
    if name not in ("t5", "t5_gated", "clip", "bert"):
        assert found.cuts and len(set(names(found))) == len(found.cuts)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda self, x: self.c(self.hidden(x)), ["a", "b"]),
        (lambda self, x: {"logits": self.c(self.hidden(x)), "loss": None, "count": 3}, ["a", "b"]),
        (lambda self, x: (self.c(h := self.hidden(x)), h), ["a"]),  # what is given out is used behind a cut there
        (lambda self, x: self.c(functional.relu_(self.b(functional.relu_(self.a(x))))), ["a", "b"]),
        (lambda self, x: self.c((h := functional.relu(self.a(x))).add_(self.b(h))), ["a", "b"]),
        (lambda self, x: self.c(functional.relu(self.b(self.hidden(x)))), ["a", "b", "b:2"]),
        (lambda self, x: self.hidden(x) @ self.a.weight, ["a", "b"]),  # tied to itself
        (lambda self, x: self.c(self.hidden(x)) + x[:, :3], []),
        (lambda self, x: self.c((h := self.hidden(x)) - h.mean(0)), ["a", "b"]),
    ],
)
def test_cuts_lie_where_one_value_alone_crosses(function: Callable[..., Any], expected: list[str]) -> None:
    module = Made(function)
    found = cut(module, FEATURES)
    assert names(found) == expected
    for mine, theirs in zip(composed(found, OTHERS), outputs_of(module, OTHERS), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    if "b" in expected:
        assert found.cuts[0].shape == (8,) and found.cuts[0].units == 8 and found.cuts[0].places == ()


def test_a_part_behind_a_cut_takes_of_integer_inputs_what_masks_need_and_nothing_of_others() -> None:
    module = Made(lambda self, x, mask: self.c(self.hidden(x) * mask[:, None]))
    mask = torch.tensor([1, 0, 1, 1])
    found = cut(module, FEATURES, mask)
    assert names(found) == ["a", "b"] and found.needs == ((0, 1), (1,), ()) and found.inputs == ("input0", "input1")
    others = torch.tensor([0, 1, 1, 0, 1, 1, 0])
    assert torch.allclose(composed(found, OTHERS, others)[0], outputs_of(module, OTHERS, others)[0])
    assert names(cut(module, FEATURES, mask.float())) == ["b"]  # numbers that say more than a mask


def test_inputs_by_keyword_keep_their_names_and_those_that_are_no_tensors_are_built_in() -> None:
    module = Made(lambda self, x, mask=None, double=False: self.c(self.hidden(x)) * (2 if double else 1))
    found = cut(module, x=FEATURES, mask=None, double=True)
    assert found.inputs == ("x", "mask", "double") and found.needs[1:] == ((), ())
    assert torch.allclose(composed(found, OTHERS, None, True)[0], outputs_of(module, OTHERS, double=True)[0])


def test_an_input_that_is_needed_late_leaves_no_cut_before() -> None:
    late = Made(lambda self, x, z: self.c(functional.relu(self.b(functional.relu(self.a(x)) + z))))
    assert names(cut(late, FEATURES, torch.ones(4, 8))) == ["b"]
    assert names(cut(Made(lambda self, x, z: self.c(self.hidden(x)) + z), FEATURES, torch.ones(4, 3))) == []


def test_an_input_without_examples_is_the_same_for_all() -> None:
    module = Made(lambda self, x, at: self.c(functional.relu(self.b(functional.relu(self.a(x)) + self.e(at)))), e=nn.Embedding(5, 8))
    found = cut(module, FEATURES[:, None].expand(4, 5, 6).contiguous(), torch.arange(5)[None])
    inputs = OTHERS[:, None].expand(7, 5, 6).contiguous(), torch.arange(5)[None]
    assert torch.allclose(composed(found, *inputs)[0], outputs_of(module, *inputs)[0], atol=1e-6)


def test_one_example_is_enough() -> None:
    module = Made(lambda self, x: self.c(self.hidden(x)))
    assert torch.allclose(composed(cut(module, FEATURES[:1]), OTHERS)[0], outputs_of(module, OTHERS)[0])


def test_buffers_that_are_written_to_are_no_outputs_and_stay() -> None:
    module = Made(lambda self, x: (self.seen.add_(1), self.c(self.hidden(x)))[1])
    module.register_buffer("seen", torch.zeros(()))
    found = cut(module, FEATURES)
    assert names(found) == ["a", "b"] and len(composed(found, OTHERS)) == 1 and float(module.get_buffer("seen")) == 0


def test_parameters_are_copies_and_tied_ones_stay_tied() -> None:
    tied = nn.Linear(6, 8, bias=False)
    module = Made(
        lambda self, x: self.e(functional.relu(functional.linear(self.hidden(x), self.g))), e=tied, g=nn.Parameter(torch.ones(6, 8))
    )
    tied.weight = module.a.weight
    module.c = nn.Identity()  # type: ignore[assignment]
    found = cut(module, FEATURES)
    held = {id(tensor): tensor for part in found.modules for tensor in part.parameters()}
    assert not held.keys() & {id(tensor) for tensor in module.parameters()}
    assert sum(tensor.numel() for tensor in held.values()) == sum(tensor.numel() for tensor in module.parameters())
    assert names(found) == ["b"]  # the others are tied to inputs and outputs, whose order is fixed
    assert torch.allclose(composed(found, OTHERS)[0], outputs_of(module, OTHERS)[0], atol=1e-5)


def test_convolutions_are_cut_with_their_maps_before_pooling() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)]
    module = nn.Sequential(*layers, nn.Dropout(), nn.ReLU(), nn.Linear(5, 2)).train()
    found = cut(module, torch.randn(2, 1, 8, 8))
    assert [(one.name, one.shape, one.axis) for one in found.cuts] == [("0", (4, 8, 8), 0), ("5", (5,), 0)]
    assert found.cuts[0].units == 4 and found.cuts[0].places == (8, 8) and module.training
    images = torch.randn(5, 1, 8, 8)
    assert torch.allclose(composed(found, images)[0], outputs_of(module, images)[0], atol=1e-6)


def test_recurrent_layers_and_torchs_own_transformer_fall_apart() -> None:
    torch.manual_seed(0)
    lstm = Made(lambda self, x: self.c(self.r(x)[0][:, -1]), r=nn.LSTM(6, 8, 2, batch_first=True))
    encoder = Made(lambda self, x: self.c(self.t(self.a(x)).mean(1)), t=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    for module, expected in ((lstm, ["r"]), (encoder, ["a", "t.self_attn", "t"])):
        found = cut(module, torch.randn(2, 5, 6))
        others = torch.randn(3, 5, 6)
        assert names(found) == expected
        assert torch.allclose(composed(found, others)[0], outputs_of(module, others)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda self, x: self.c(self.hidden(x).reshape(len(x), 8)), "the size of a batch is built into the module"),
        (lambda self, x: self.c(self.a(x)) if x.sum() > 0 else self.c(self.hidden(x)), "the path through the module depends on the data"),
    ],
)
def test_what_cannot_be_cut_is_said_in_one_line(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(SymmetryError, match=message) as caught:
        cut(Made(function), FEATURES)
    assert "\n" not in str(caught.value)


def test_inputs_that_hold_several_tensors_are_refused() -> None:
    with pytest.raises(SymmetryError, match="expected tensors as inputs, found a list; wrap the module"):
        cut(Made(lambda self, xs: self.c(self.hidden(xs[0]))), [FEATURES])


def test_a_module_without_examples_is_refused() -> None:
    with pytest.raises(SymmetryError, match="the size of a batch is built into the module"):
        cut(Made(lambda self, count: self.c(self.hidden(torch.ones(4, 6)))), 4)
