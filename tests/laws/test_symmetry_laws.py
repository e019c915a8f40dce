"""The laws of a group acting: on weights drawn at random over specs drawn at random, and on the functions of networks."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from tests.strategies import Draft, drafts, same, seeded, seeds, state_of
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import Symmetry, act

few = settings(max_examples=40)


def _some(spec: SymmetrySpec, seed: int) -> Symmetry:
    """A random element, of all groups or of some."""
    g = spec.random(seeded(seed))
    keep = torch.rand(len(g.actions), generator=seeded(seed + 1)) < 0.8 if seed % 2 else torch.ones(len(g.actions)).bool()
    return Symmetry(spec, {name: action for (name, action), kept in zip(g.actions.items(), keep, strict=True) if kept})


@few
@given(drafts(), seeds, seeds)
def test_acting_with_a_product_is_acting_twice(draft: Draft, first: int, second: int) -> None:
    spec = draft.spec
    g, h, theta = _some(spec, first), _some(spec, second), state_of(spec, first)
    assert same(act(g @ h, theta), act(g, act(h, theta)))


@few
@given(drafts(), seeds)
def test_the_inverse_undoes(draft: Draft, seed: int) -> None:
    spec = draft.spec
    g, theta = _some(spec, seed), state_of(spec, seed)
    assert same(act(g.inverse(), act(g, theta)), theta)
    assert same(act(g, act(g.inverse(), theta)), theta)
    assert same(act(g.inverse() @ g, theta), theta)


@few
@given(drafts(), seeds)
def test_the_identity_does_nothing(draft: Draft, seed: int) -> None:
    spec = draft.spec
    g, theta = _some(spec, seed), state_of(spec, seed)
    assert spec.identity().is_identity
    assert same(act(spec.identity(), theta), theta, tolerance=0)
    assert same(act(spec.identity() @ g, theta), act(g, theta)) and same(act(g @ spec.identity(), theta), act(g, theta))


@few
@given(drafts(), seeds)
def test_products_associate(draft: Draft, seed: int) -> None:
    spec = draft.spec
    g, h, k = (_some(spec, seed + j) for j in range(3))
    assert same(act((g @ h) @ k, state_of(spec)), act(g @ (h @ k), state_of(spec)))


@few
@given(drafts(), seeds)
def test_the_inverse_of_a_product_is_the_product_of_inverses_turned_round(draft: Draft, seed: int) -> None:
    spec = draft.spec
    g, h = _some(spec, seed), _some(spec, seed + 1)
    assert same(act((g @ h).inverse(), state_of(spec)), act(h.inverse() @ g.inverse(), state_of(spec)))


@few
@given(drafts(), seeds)
def test_products_and_inverses_are_elements(draft: Draft, seed: int) -> None:
    spec = draft.spec
    g, h = _some(spec, seed), _some(spec, seed + 1)
    for made in (g, g @ h, g.inverse()):
        assert same(act(spec.element(dict(made.actions)), state_of(spec)), act(made, state_of(spec)))


@few
@given(drafts(), seeds)
def test_every_number_is_kept_by_a_permutation(draft: Draft, seed: int) -> None:
    """Discrete elements without signs only move numbers about."""
    spec = draft.spec
    theta = state_of(spec)
    moved = act(spec.random(seeded(seed), discrete=True), theta)
    for name in spec.tensors:
        assert torch.equal(moved[name].abs().flatten().sort().values, theta[name].abs().flatten().sort().values)


def _unchanged(module: nn.Module, spec: SymmetrySpec, seed: int, inputs: Tensor) -> None:
    theta = {
        name: torch.rand(tensor.shape, generator=seeded(seed + j), dtype=torch.float64) - (0 if "var" in name else 0.5)
        if tensor.is_floating_point()
        else tensor
        for j, (name, tensor) in enumerate(module.state_dict().items())
    }
    g = spec.random(seeded(seed))
    moved = act(g, theta)
    assert g.is_identity or any(not torch.equal(moved[name], theta[name]) for name in theta)
    with torch.no_grad():
        torch.testing.assert_close(
            functional_call(module, dict(moved), (inputs,)), functional_call(module, theta, (inputs,)), rtol=1e-9, atol=1e-11
        )


@few
@given(st.lists(st.integers(2, 5), min_size=3, max_size=5), st.sampled_from(["relu", "tanh", "gelu", "identity"]), seeds)
def test_a_multilayer_perceptron_is_the_same_function_after_its_weights_move(widths: list[int], name: str, seed: int) -> None:
    activation, symmetry = {
        "relu": (nn.ReLU(), "scale"),
        "tanh": (nn.Tanh(), "sign"),
        "gelu": (nn.GELU(), "none"),
        "identity": (nn.Identity(), "linear"),
    }[name]
    layers, rows, groups = list[nn.Module](), dict[str, str](), dict[str, Any]()
    for j in range(len(widths) - 1):
        layers += [nn.Linear(widths[j], widths[j + 1]), activation]
        out = f"h{j}" if j < len(widths) - 2 else str(widths[-1])
        rows |= {f"{2 * j}.weight": f"{out} {f'h{j - 1}{chr(39)}' if j else widths[0]}", f"{2 * j}.bias": out}
        groups |= {f"h{j}": {"size": widths[j + 1], "symmetry": symmetry}} if j < len(widths) - 2 else {}
    module = nn.Sequential(*layers[:-1]).double()
    _unchanged(
        module, SymmetrySpec.parse(rows, groups=groups), seed, torch.randn(7, widths[0], generator=seeded(seed), dtype=torch.float64)
    )


class _Convolutional(nn.Module):
    """A grouped convolution, a batch norm, a residual sum and a flattening."""

    def __init__(self, channels: int, groups: int, each: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, groups * each, 3, padding=1)
        self.norm = nn.BatchNorm2d(groups * each)
        self.grouped = nn.Conv2d(groups * each, groups * each, 3, padding=1, groups=groups)
        self.out = nn.Conv2d(groups * each, channels, 1)
        self.head = nn.Linear(channels * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.out(x + self.grouped(x))).flatten(1))  # type: ignore[no-any-return]


@few
@given(st.integers(2, 4), st.integers(1, 3), st.integers(2, 3), seeds)
def test_a_convolutional_network_is_the_same_function_after_its_weights_move(channels: int, groups: int, each: int, seed: int) -> None:
    rows = {f"norm.{name}": "(g c)" for name in ("weight", "bias")}
    rows |= {f"norm.{name}": "(g c^0)" for name in ("running_mean", "running_var")}
    rows |= {"stem.weight": "(g c^0) 2 3 3", "stem.bias": "(g c^0)"}
    rows |= {"grouped.weight": "(g c) c' 3 3", "grouped.bias": "(g c)", "out.weight": "k (g c)' 1 1", "out.bias": "k"}
    rows |= {"head.weight": "3 (k 4)'", "head.bias": "3"}
    spec = SymmetrySpec.parse(
        rows,
        groups={"g": {"size": groups}, "c": {"size": each, "per": "g", "symmetry": "scale"}, "k": {"size": channels, "symmetry": "scale"}},
    )
    inputs = torch.randn(3, 2, 2, 2, generator=seeded(seed), dtype=torch.float64)
    _unchanged(_Convolutional(channels, groups, each).double().eval(), spec, seed, inputs)
