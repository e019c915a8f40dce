"""What a merge method declares, how its parameters are read, and what a user is told."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from weightspace.analysis.merging import method as method_module
from weightspace.analysis.merging.method import Between, Each, MergeMethod, Share, Slab, Slabs, merge_method, methods
from weightspace.errors import MergeError, UnknownNameError, WeightSpaceError
from weightspace.registry import Registry


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MergeMethod]:
    """Registers a function where no other test sees it."""
    monkeypatch.setattr(method_module, "methods", Registry[MergeMethod]("merge method"))

    def registered(combine: Callable[..., Tensor], **declared: Any) -> MergeMethod:
        merge_method("mine", paper="none", promises=(), **declared)(combine)
        return method_module.methods["mine"]

    return registered


def mixed(
    slab: Slab,
    *,
    weight: Each,
    density: Share = (1.0,),
    lambda_: Annotated[float, Between(0, 2, open=True)] = 1.0,
    steps: int = 3,
    word: str = "sum",
    scale: float | None = None,
    loud: bool = False,
) -> Tensor:
    """One parameter of each kind."""
    return slab.tensors[0]


def said(call: Callable[[], Any], kind: type[WeightSpaceError] = MergeError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_a_signature_declares_parameters(declare: Callable[..., MergeMethod]) -> None:
    found = declare(mixed).parameters
    assert list(found) == ["weight", "density", "lambda", "steps", "word", "scale", "loud"]
    assert [name for name, one in found.items() if one.is_required] == ["weight"]
    assert [name for name, one in found.items() if one.is_each] == ["weight", "density"]
    assert [one.kind for one in found.values()] == [float, float, float, int, str, float, bool]
    assert found["density"].bounds == Between(0, 1)
    assert found["density"].default == 1.0


def test_parameters_are_filled_in_and_one_value_holds_for_all_inputs(declare: Callable[..., MergeMethod]) -> None:
    assert declare(mixed).read({"weight": 2, "density": [0.5, 1]}, 2) == {
        "weight": (2.0, 2.0),
        "density": (0.5, 1.0),
        "lambda_": 1.0,
        "steps": 3,
        "word": "sum",
        "scale": None,
        "loud": False,
    }
    assert declare_value(declare, "scale", 2) == 2.0
    assert declare_value(declare, "scale", None) is None
    assert isinstance(declare_value(declare, "steps", 4.0), int)
    assert [declare_value(declare, "loud", value) for value in (1, 0.0, "true", False)] == [True, False, True, False]


def declare_value(declare: Callable[..., MergeMethod], name: str, value: Any) -> Any:
    if "mine" not in method_module.methods:
        declare(mixed)
    return method_module.methods["mine"].read({"weight": 1.0, name: value}, 1)[name]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "here: merge method 'mine' needs the parameter 'weight'; give it a value"),
        ({"weight": [1.0, 2.0, 3.0]}, "here: parameter 'weight' has 3 values for 2 models; give one for each"),
        ({"weight": []}, "here: parameter 'weight' has 0 values for 2 models; give one for each"),
        ({"weight": "much"}, "here: parameter 'weight' is 'much'; expected a number"),
        ({"weight": [1.0, None]}, "here: parameter 'weight' is None; expected a number"),
        ({"weight": True}, "here: parameter 'weight' is True; expected a number"),
        ({"weight": float("nan")}, "here: parameter 'weight' is nan; expected a number"),
        ({"weight": float("inf")}, "here: parameter 'weight' is inf; expected a number"),
        ({"weight": 1, "density": [0.5, 1.5]}, "here: parameter 'density' is 1.5; expected a number from 0 to 1"),
        ({"weight": 1, "lambda": 2}, "here: parameter 'lambda' is 2; expected a number above 0 and below 2"),
        ({"weight": 1, "steps": 2.5}, "here: parameter 'steps' is 2.5; expected a whole number"),
        ({"weight": 1, "loud": 2}, "here: parameter 'loud' is 2; expected true or false"),
        ({"weight": 1, "loud": None}, "here: parameter 'loud' is None; expected true or false"),
        ({"weight": 1, "word": 1}, "here: parameter 'word' is 1; expected a word"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(declare: Callable[..., MergeMethod], given: Mapping[str, Any], message: str) -> None:
    mine = declare(mixed)
    assert said(lambda: mine.read(given, 2, "here")) == message


def test_an_unknown_parameter_gets_a_suggestion() -> None:
    message = said(lambda: methods["linear"].read({"wieght": 1.0}, 2), UnknownNameError)
    assert message == "no parameter of merge method 'linear' named 'wieght'; did you mean 'weight'? (known: weight, normalize)"


def test_an_unknown_method_gets_a_suggestion() -> None:
    assert said(lambda: methods["slrep"], UnknownNameError).startswith("no merge method named 'slrep'; did you mean 'slerp'?")


@pytest.mark.parametrize(
    ("name", "inputs", "base", "message"),
    [
        ("slerp", 2, True, "merge method 'slerp' takes exactly 1 model besides the base, found 2; name as many"),
        ("nuslerp", 1, False, "merge method 'nuslerp' takes exactly 2 models besides the base, found 1; name as many"),
        ("model_stock", 1, True, "merge method 'model_stock' takes at least 2 models besides the base, found 1; name as many"),
        ("linear", 0, False, "merge method 'linear' takes at least 1 model, found 0; name as many"),
        ("slerp", 1, False, "merge method 'slerp' needs a base model, found none; name it as base_model"),
        ("linear", 2, True, "merge method 'linear' has no use for a base model; list it among the models, or leave it out"),
    ],
)
def test_a_wrong_number_of_models_is_refused(name: str, inputs: int, base: bool, message: str) -> None:
    assert said(lambda: methods[name].expect(inputs, base)) == message


def test_a_range_of_inputs_is_said_from_to(declare: Callable[..., MergeMethod]) -> None:
    mine = declare(mixed, base="none", inputs=(2, 3))
    assert said(lambda: mine.expect(4, False)) == "merge method 'mine' takes 2 to 3 models, found 4; name as many"


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (torch.zeros(3), "(2,) float32, (3,) float32"),
        (torch.zeros(2, dtype=torch.float64), "(2,) float32, (2,) float64"),
        (torch.zeros(2, dtype=torch.int64), "(2,) float32, (2,) int64"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(other: Tensor, found: str) -> None:
    expected = f"merge method 'linear' takes tensors of one shape, all float32 or all float64, found {found}; convert them"
    assert said(lambda: methods["linear"]([torch.zeros(2), other], weight=1.0)) == expected


def test_half_precision_is_refused() -> None:
    assert "found (2,) bfloat16; convert" in said(lambda: methods["linear"]([torch.zeros(2, dtype=torch.bfloat16)], weight=1.0))


@pytest.mark.parametrize(("name", "setting"), [("linear", "normalize"), ("multislerp", "normalize_weights")])
def test_weights_that_sum_to_nothing_are_refused(name: str, setting: str) -> None:
    message = said(lambda: methods[name]([torch.ones(2), torch.zeros(2)], weight=[0.5, -0.5]))
    assert message == f"the weights [0.5, -0.5] sum to 0, which cannot be normalised; change them, or set {setting}: false"


def test_a_name_is_registered_once(declare: Callable[..., MergeMethod]) -> None:
    declare(mixed)
    with pytest.raises(ValueError, match="'mine' is already registered"):
        declare(mixed)


def test_a_summary_sees_every_slab_before_any_is_merged(declare: Callable[..., MergeMethod]) -> None:
    def largest(slabs: Slabs, *, scale: float) -> float:
        return scale * max(float(slab.tensors[0].max()) for slab in slabs)

    def over(slab: Slab, *, scale: float, summary: float) -> Tensor:
        return slab.tensors[0] / summary

    assert declare(over, base="none", summary=largest)([torch.tensor([1.0, 4.0])], scale=2.0).tolist() == [0.125, 0.5]
