"""Which modules, inputs and settings a proof takes, and what it says of those that it does not."""

import math
import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.proof.networks import INPUT, MLP, mlp, mlp_spec
from tests.strategies import seeded
from weightspace.errors import ShapeMismatchError, SymmetryError
from weightspace.proof import certificate, function_change, prove
from weightspace.proof.arguments import expect_module, expect_spec
from weightspace.spec import SymmetrySpec


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x).to(torch.float32)).to(x.dtype)
        return self.b(hidden if float(x.sum()) > 0 else 2 * hidden)  # type: ignore[no-any-return]


def test_a_module_that_cannot_be_exported_is_proved_to_a_looser_tolerance() -> None:
    rows = {"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h'", "b.bias": "2"}
    found = prove(SymmetrySpec.parse(rows, groups={"h": {"size": 3, "symmetry": "scale"}}), Branching(), torch.ones(2, 4))
    assert found.proved and found.groups["h"].symmetry == "scale"
    assert len(found.notes) == 1 and found.notes[0].startswith("the module's graph cannot be exported (GuardOnDataDependentSymNode")
    assert found.notes[0].endswith("proved to 1e-05 with its float32 casts")


@dataclass
class Answer:
    logits: Tensor
    states: tuple[Tensor, ...]


class Answering(Branching):
    def forward(self, x: Tensor) -> Any:
        return Answer(super().forward(x), (x,)) if float(x.sum()) > -math.inf else None


def test_outputs_of_a_dataclass_are_found_without_a_graph() -> None:
    rows = {"a.weight": "h 4", "a.bias": "3", "b.weight": "2 h'", "b.bias": "2"}
    assert not prove(SymmetrySpec.parse(rows, sizes={"h": 3}), Answering(), torch.ones(2, 4)).movable


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(1)


class Silent(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return None


class Undefined(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * math.nan


@pytest.mark.parametrize(
    ("module", "given", "message"),
    [
        (Noisy(2, 3), torch.zeros(1, 2), "the module returns something else each time although it is in eval mode"),
        (Silent(2, 3), torch.zeros(1, 2), "the module returns no tensor, so nothing can be proved about it"),
        (nn.Linear(2, 3), torch.zeros(1, 5), "the module does not run on the example inputs: "),
        (Undefined(2, 3), torch.zeros(1, 2), "the module returns NaN at every random draw of its weights; see that it runs"),
    ],
)
def test_a_module_about_which_nothing_can_be_proved(module: nn.Module, given: Tensor, message: str) -> None:
    with pytest.raises(SymmetryError) as caught:
        prove(SymmetrySpec.parse({"weight": "3 h", "bias": "3"}, sizes={"h": 2}), module, given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": math.nan}, "expected a positive tolerance, found tolerance=nan; 1e-09 is usual"),
        ({"tolerance": math.inf}, "expected a positive tolerance, found tolerance=inf"),
        ({"tolerance": 0.0}, "expected a positive tolerance, found tolerance=0.0"),
        ({"contrast": math.nan}, "expected a positive contrast, found contrast=nan; 0.001 is usual"),
        ({"draws": 0}, "expected at least one draw, found draws=0; three are usual"),
    ],
)
def test_settings_that_prove_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SymmetryError, match=message):
        prove(mlp_spec(), mlp(nn.ReLU), INPUT, **settings)


def test_what_is_no_spec_or_module_is_refused() -> None:
    """The type checks of these tests would come first, so the functions that refuse are called by themselves."""
    for check, given, message in (
        (expect_spec, nn.ReLU(), "expected a SymmetrySpec, found a ReLU; give the spec first and the module second"),
        (expect_spec, {}, "expected a SymmetrySpec, found a dict; make one with SymmetrySpec.parse or trace"),
        (expect_module, mlp_spec(), "expected an nn.Module, found a SymmetrySpec; give the spec first and the module second"),
        (expect_module, nn.ReLU, "expected an nn.Module, found the class ReLU; give an instance of it"),
        (expect_module, len, "expected an nn.Module, found a builtin_function_or_method; wrap what it does in the forward of a module"),
    ):
        with pytest.raises(SymmetryError) as caught:
            check(given)
        assert str(caught.value) == message


def test_tensors_without_values_and_empty_outputs_are_refused() -> None:
    with pytest.raises(SymmetryError, match=r"tensor '0\.weight' is on the meta device and has no values"):
        prove(mlp_spec(), mlp(nn.ReLU).to("meta"), INPUT)
    with pytest.raises(SymmetryError, match="input 0 is on the meta device and has no values; give an input on the cpu"):
        prove(mlp_spec(), mlp(nn.ReLU), INPUT.to("meta"))
    with pytest.raises(SymmetryError, match=r"the outputs are empty, of shape \[0, 3\]"):
        prove(mlp_spec(), mlp(nn.ReLU), INPUT[:0])


class Halved(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.a, self.b, self.dtype = nn.Linear(4, 3), nn.Linear(3, 2), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)).to(self.dtype).to(x.dtype))  # type: ignore[no-any-return]


def test_half_types_inside_a_module_are_lifted_and_noted() -> None:
    rows = {"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h", "b.bias": "2"}
    spec = SymmetrySpec.parse(rows, groups={"h": {"size": 3, "symmetry": "sign"}})
    for dtype, own, notes in (
        (torch.bfloat16, torch.float32, ("the module computes partly in bfloat16: proved for exact arithmetic",)),
        (torch.float16, torch.float32, ("the module computes partly in float16: proved for exact arithmetic",)),
        (torch.float32, torch.float32, ()),
        (torch.bfloat16, torch.bfloat16, ()),
    ):
        found = prove(spec, Halved(dtype).to(own), torch.zeros(2, 4, dtype=own))
        assert found.proved and found.groups == spec.groups and found.notes == notes


class Locked(nn.Linear):
    lock: Any = None


def test_attributes_computed_from_weights_are_copied_and_what_cannot_be_is_named() -> None:
    spec, module = SymmetrySpec.parse({**MLP}, sizes={"a": 7, "b": 6}), mlp(nn.Tanh)
    module.cache = module(INPUT)
    assert prove(spec, module, INPUT) == spec
    locked = Locked(2, 3)
    locked.lock = threading.Lock()
    with pytest.raises(SymmetryError, match=r"module Locked cannot be copied \(TypeError: .*; expected one that copy.deepcopy takes"):
        prove(SymmetrySpec.parse({"weight": "3 h", "bias": "3"}, sizes={"h": 2}), locked, torch.zeros(1, 2))


class Averaging(nn.Module):
    """Writes a running mean even in eval mode."""

    ema: Tensor

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)
        self.register_buffer("ema", torch.zeros(3), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.a(x))
        self.ema.mul_(0.9).add_(hidden.mean(0).detach())
        return self.b(hidden - self.ema)  # type: ignore[no-any-return]


@pytest.mark.parametrize("persistent", [True, False])
def test_a_buffer_that_is_written_leaves_the_function_as_it_is(persistent: bool) -> None:
    rows = {"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h", "b.bias": "2"} | ({"ema": "h"} if persistent else {})
    spec, module = SymmetrySpec.parse(rows, groups={"h": {"size": 3, "symmetry": "sign"}}), Averaging(persistent)
    assert prove(spec, module, torch.zeros(5, 4)) == spec
    assert not module.ema.any()


def test_a_spec_of_another_architecture_is_refused() -> None:
    with pytest.raises(ShapeMismatchError, match=r"tensor '0\.weight' axis 0"):
        prove(SymmetrySpec.parse(MLP, sizes={"a": 8, "b": 6}), mlp(nn.ReLU), INPUT)


def test_a_proof_is_repeated_by_the_same_seed() -> None:
    spec, module = mlp_spec(a="scale"), mlp(nn.GELU)
    notes = [prove(spec, module, INPUT, generator=seeded(seed)).notes for seed in (1, 1, 2)]
    assert notes[0] == notes[1] != notes[2]


class Combined(nn.Module):
    """Takes its inputs by keyword, one of which must be positive."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor, size: int = 1, positive: Tensor | None = None) -> Tensor:
        scaled = x * size if positive is None else x * size + positive.log()
        return self.b(torch.tanh(self.a(scaled)))  # type: ignore[no-any-return]


def test_inputs_by_keyword_in_any_order_and_of_a_domain() -> None:
    rows = {"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h", "b.bias": "2"}
    spec, keywords = SymmetrySpec.parse(rows, groups={"h": {"size": 3, "symmetry": "sign"}}), {"positive": torch.rand(2, 4) + 1, "size": 2}
    found = prove(spec, Combined(), torch.zeros(2, 4), keywords=keywords)
    assert found.proved and found == spec and not found.notes
    assert certificate(spec, Combined(), torch.zeros(2, 4), keywords={"size": 2}).complete
    state = Combined().state_dict()
    assert function_change(Combined(), state, state, keywords={"size": 3, "x": torch.ones(2, 4)}) == 0
