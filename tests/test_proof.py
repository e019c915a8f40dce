import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategies import seeded
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError
from weightspace.formats.safetensors import save
from weightspace.opening import open as open_checkpoint
from weightspace.proof import Certificate, certificate, function_change, prove
from weightspace.proof.arguments import expect_module, expect_spec
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

MLP = {"0.weight": "a 5", "0.bias": "a", "2.weight": "b a'", "2.bias": "b", "4.weight": "3 b'", "4.bias": "3"}
INPUT = torch.zeros(4, 5)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def mlp(activation: Callable[[], nn.Module], last: Callable[[], nn.Module] | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), activation(), nn.Linear(7, 6), (last or activation)(), nn.Linear(6, 3))


def mlp_spec(rows: dict[str, str] | None = None, **symmetries: str) -> SymmetrySpec:
    groups = {"a": {"size": 7, "symmetry": symmetries.get("a", "none")}, "b": {"size": 6, "symmetry": symmetries.get("b", "none")}}
    return SymmetrySpec.parse({**MLP, **(rows or {})}, groups=groups)


class Attention(nn.Module):
    """Two heads, values and keys of three."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6, bias) for _ in range(3))
        self.o = nn.Linear(6, 4, bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 3)).transpose(-2, -3) for part in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(-2, -3).flatten(-2))  # type: ignore[no-any-return]


def attention_spec(bias: bool = False, **symmetries: str) -> SymmetrySpec:
    rows = {"q": "(h k)", "k": "(h k')", "v": "(h v)", "o": "4"}
    tensors = {f"{name}.weight": f"{row} {'6' if name != 'o' else chr(40) + 'h v' + chr(39) + chr(41)}" for name, row in rows.items()}
    tensors |= {f"{name}.bias": row for name, row in rows.items()} if bias else {}
    groups: dict[str, Any] = {"h": {"size": 2}} | {
        name: {"size": 3, "per": "h", "symmetry": symmetries.get(name, "none")} for name in ("k", "v")
    }
    return SymmetrySpec.parse(tensors, groups=groups)


class Normed(nn.Module):
    """A residual stream under RMSNorm, computed in float32 as language models do."""

    def __init__(self, entering: int = 7, gains: bool = False) -> None:
        super().__init__()
        self.e, self.a, self.b, self.o = (nn.Linear(*widths, bias=False) for widths in ((entering, 5), (5, 6), (6, 5), (5, 3)))
        self.g, self.g2 = (nn.Parameter(torch.ones(5)) if gains else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.e(x)
        x = x + self.b(nn.functional.gelu(self.a(self._normed(x, self.g))))
        return self.o(self._normed(x, self.g2))  # type: ignore[no-any-return]

    def _normed(self, x: Tensor, gain: Tensor | None) -> Tensor:
        wide = x.to(torch.float32)
        normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return normed if gain is None else normed * gain


def normed_spec(entering: int = 7, gains: bool = False, symmetry: str = "orthogonal") -> SymmetrySpec:
    rows = {"e.weight": f"s {entering}", "a.weight": "m s'", "b.weight": "s m'", "o.weight": "3 s'"} | (
        {"g": "s", "g2": "s"} if gains else {}
    )
    return SymmetrySpec.parse(rows, groups={"s": {"size": 5, "symmetry": symmetry}, "m": {"size": 6}})


class LowRank(nn.Module):
    """A weight with a low-rank update beside it, under a non-linearity each."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.down, self.up = (nn.Parameter(torch.zeros(shape)) for shape in ((4, 6), (2, 6), (4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w.T) + x @ self.down.T @ self.up.T


LOW_RANK = SymmetrySpec.parse({"w": "4 6", "down": "r 6", "up": "4 r'"}, groups={"r": {"size": 2, "symmetry": "linear"}})


# Soundness


@pytest.mark.parametrize(
    ("spec", "module", "given"),
    [
        (mlp_spec(a="scale", b="scale"), mlp(nn.ReLU), INPUT),
        (mlp_spec(a="sign", b="linear"), mlp(nn.Tanh, nn.Identity), INPUT),
        (mlp_spec(), mlp(nn.GELU), INPUT),
        (mlp_spec(a="sign", b="sign"), mlp(Sine), INPUT),
        (attention_spec(k="linear", v="linear"), Attention(), torch.zeros(2, 4, 6)),
        (normed_spec(), Normed(), torch.zeros(2, 7)),
        (normed_spec(gains=True, symmetry="none"), Normed(gains=True), torch.zeros(2, 7)),
        (LOW_RANK, LowRank(), torch.zeros(3, 6)),
    ],
    ids=["relu", "tanh and linear", "gelu", "sine", "attention", "rms norm", "rms norm with gains", "low rank"],
)
def test_a_right_spec_is_proved_as_it_is(spec: SymmetrySpec, module: nn.Module, given: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = prove(spec, module, given)
    assert found.proved and found == spec and found.notes == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training and next(module.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "module", "given", "kept", "note"),
    [
        (mlp_spec(a="scale"), mlp(nn.GELU), INPUT, ("permutable", "none"), "so it is only permuted, without 'scale'"),
        (mlp_spec(a="sign"), mlp(nn.ReLU), INPUT, ("permutable", "none"), "so it is only permuted, without 'sign'"),
        (mlp_spec({"2.bias": "6"}, b="linear"), mlp(nn.ReLU, nn.Identity), INPUT, None, ""),
        (mlp_spec({"0.bias": "7"}), mlp(nn.ReLU), INPUT, ("fixed", "none"), "so it is fixed"),
        (mlp_spec({"0.bias": "7"}, a="scale"), mlp(nn.ReLU), INPUT, ("fixed", "none"), "so it is fixed"),
    ],
    ids=["gelu scale", "relu sign", "another group", "forgotten bias", "forgotten bias with scale"],
)
def test_what_does_not_preserve_the_function_is_taken_away(
    spec: SymmetrySpec, module: nn.Module, given: Tensor, kept: tuple[str, str] | None, note: str
) -> None:
    found = prove(spec, module, given)
    assert found.proved
    if kept is None:  # what is wrong with b leaves a alone
        assert found.groups["a"] == spec.groups["a"] and not found.groups["b"].is_movable
        return
    assert (found.groups["a"].kind, found.groups["a"].symmetry) == kept
    assert found.groups["b"] == spec.groups["b"]
    assert len(found.notes) == 1 and found.notes[0].startswith("moving group 'a' changes the outputs by ")
    assert found.notes[0].endswith(note)


class Ordered(nn.Module):
    """A linear bottleneck that scales but must not be permuted: its members are multiplied by their places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * torch.arange(1, 4))  # type: ignore[no-any-return]


def test_a_group_may_keep_its_scale_and_lose_its_order() -> None:
    rows = {"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h'", "b.bias": "2"}
    found = prove(SymmetrySpec.parse(rows, groups={"h": {"size": 3, "symmetry": "scale"}}), Ordered(), torch.zeros(2, 4))
    assert found.proved and (found.groups["h"].kind, found.groups["h"].symmetry) == ("fixed", "scale")
    assert "but its order is fixed" in found.notes[0]


@pytest.mark.parametrize("forgotten", ["g", "b.weight"])
def test_a_spec_that_forgets_gains_does_not_pass_at_initialisation(forgotten: str) -> None:
    """At initialisation every gain is one, and a spec without them preserves the function."""
    spec, module = normed_spec(gains=True, symmetry="none"), Normed(gains=True)
    wrong = SymmetrySpec.parse(
        {name: str(row) for name, row in {**spec.to_dict()["tensors"], forgotten: "5" if forgotten == "g" else "5 m'"}.items()},
        sizes={"s": 5, "m": 6},
    )
    found = prove(wrong, module, torch.zeros(2, 7))
    assert not found.groups["s"].is_movable and found.groups["m"].is_movable


def test_the_wrong_child_of_a_right_parent_is_found() -> None:
    """Query members may not be moved without the key's."""
    spec = attention_spec()
    wrong = SymmetrySpec.parse(
        {**spec.to_dict()["tensors"], "k.weight": "(h 3) 6"}, groups={name: group for name, group in spec.groups.items()}
    )
    found = prove(wrong, Attention(), torch.zeros(2, 4, 6))
    assert [name for name, group in found.groups.items() if group.is_movable] == ["h", "v"]


def test_keys_biases_that_softmax_cancels_are_fixed() -> None:
    found = prove(attention_spec(bias=True), Attention(bias=True), torch.zeros(2, 4, 6))
    assert found.proved
    assert found.notes == ("tensor 'k.bias' has no effect on the outputs, so its axes are fixed",)
    assert found.diff(attention_spec(bias=True)) == ["tensor k.bias: '6' -> '(h k')'"]


class Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unread = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))  # type: ignore[no-any-return]


def test_a_tensor_that_nothing_reads_is_fixed_and_reported() -> None:
    rows = {"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h'", "b.bias": "2", "unread.weight": "h u", "unread.bias": "u"}
    found = prove(SymmetrySpec.parse(rows, sizes={"h": 3, "u": 3}), Unread(), torch.zeros(2, 4))
    assert found.proved and set(found.groups) == {"h"}
    assert found.to_dict()["tensors"]["unread.weight"] == "3 3" and found.to_dict()["tensors"]["a.weight"] == "h 4"
    assert found.notes == tuple(
        f"tensor 'unread.{part}' has no effect on the outputs, so its axes are fixed" for part in ("weight", "bias")
    )


class Averaged(nn.Module):
    """One tensor whose rows are averaged: their order has no effect, that of its columns has."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Parameter(torch.zeros(4, 3)), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table.mean(0) * x))  # type: ignore[no-any-return]


def test_an_axis_whose_order_has_no_effect_moves_alone_or_is_fixed() -> None:
    rows = {"table": "rows h", "out.weight": "2 h", "out.bias": "2"}
    spec = SymmetrySpec.parse(rows, sizes={"rows": 4, "h": 3})
    found = prove(spec, Averaged(), torch.zeros(2, 1))
    assert found.proved and found == spec and not found.notes
    module = Averaged()
    module.other = nn.Parameter(torch.zeros(4))
    twice = SymmetrySpec.parse({**rows, "other": "rows"}, sizes={"rows": 4, "h": 3})
    found = prove(twice, module, torch.zeros(2, 1))
    assert found.proved and found.to_dict()["tensors"]["table"] == "4 h" and set(found.groups) == {"h"}
    assert "moving 'rows' on axis 0 of 'table' alone changes nothing, so it is fixed there" in found.notes


class Committee(nn.Module):
    """Units whose outputs are only added, and a shared query and key: each group stands in one place."""

    def __init__(self, unread: bool = False) -> None:
        super().__init__()
        self.units, self.q, self.v = nn.Linear(5, 6, bias=False), nn.Linear(5, 4, bias=False), nn.Linear(5, 2)
        self.unread = 0.0 if unread else 1.0

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        mixed = torch.softmax(q @ q.mT, -1) @ self.v(x)
        return mixed + self.unread * torch.tanh(self.units(x)).sum(-1, keepdim=True)  # type: ignore[no-any-return]


def test_a_group_in_one_place_is_moved_as_a_whole() -> None:
    spec = SymmetrySpec.parse({"units.weight": "u 5", "q.weight": "q 5", "v.weight": "2 5", "v.bias": "2"}, sizes={"u": 6, "q": 4})
    found = prove(spec, Committee(), torch.zeros(2, 3, 5))
    assert found.proved and found == spec and not found.notes
    unread = prove(spec, Committee(unread=True), torch.zeros(2, 3, 5))
    assert [group.name for group in unread.movable] == ["q"]
    assert unread.notes == ("tensor 'units.weight' has no effect on the outputs, so its axes are fixed",)


def shared_in_part() -> dict[str, tuple[nn.Module, str]]:
    transposed, ranged, columns, expanded, apart = (nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)) for _ in range(5))
    flat = torch.randn(72, generator=seeded(0))
    transposed[2].weight = nn.Parameter(transposed[0].get_parameter("weight").data.t())
    ranged[0].weight, ranged[2].bias = nn.Parameter(flat[:36].view(6, 6)), nn.Parameter(flat[30:36])
    columns[0].weight, columns[2].weight = (nn.Parameter(flat.view(6, 12)[:, k : k + 6]) for k in (0, 6))
    expanded[0].bias = nn.Parameter(torch.ones(1).expand(6))
    apart[2].weight = nn.Parameter(apart[0].get_parameter("weight").data)
    return {
        "a transpose": (transposed, "tensors '0.weight' and '2.weight' share storage in part; their axes are fixed"),
        "a range": (ranged, "tensors '0.weight' and '2.bias' share storage in part; their axes are fixed"),
        "columns apart": (columns, ""),
        "expanded": (expanded, "entries of tensor '0.bias' share storage; its axes are fixed"),
        "one tensor of two rows": (
            apart,
            "tensors '0.weight' and '2.weight' are one in the module but have different rows; their axes are fixed",
        ),
    }


@pytest.mark.parametrize("name", shared_in_part())
def test_tensors_that_share_storage_but_would_move_apart_are_fixed(name: str) -> None:
    module, note = shared_in_part()[name]
    spec = SymmetrySpec.parse({"0.weight": "h 6", "0.bias": "h", "2.weight": "6 h'", "2.bias": "6"}, sizes={"h": 6})
    found = prove(spec, module, torch.zeros(2, 6))
    assert found.proved and bool(found.movable) == (not note) and found.notes == ((note,) if note else ())


def test_two_views_of_one_memory_are_tied() -> None:
    module = Tied()
    module.head.weight = nn.Parameter(module.embed.weight.data)
    rows = {"embed.weight": "9 s", "norm.weight": "s", "norm.bias": "s", "frequencies": "6", "head.weight": "9 s"}
    found = prove(SymmetrySpec.parse(rows, sizes={"s": 6}), module, torch.randint(0, 9, (2, 4), generator=seeded(0)), torch.ones(2, 4))
    assert found.proved and found.aliases == {"head.weight": "embed.weight"} and len(found.movable) == 1


class Faint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.faint = nn.Linear(4, 3), nn.Linear(3, 2), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x) + 1e-7 * self.faint))  # type: ignore[no-any-return]


def test_an_effect_too_weak_to_prove_anything_fixes_its_group() -> None:
    rows = {"a.weight": "h 4", "a.bias": "h", "b.weight": "2 h", "b.bias": "2", "faint": "h"}
    found = prove(SymmetrySpec.parse(rows, sizes={"h": 3}), Faint(), torch.zeros(2, 4))
    assert found.proved and not found.movable
    assert "moving 'h' on axis 0 of 'faint' alone changes the outputs by only " in found.notes[0]


class Tied(nn.Module):
    """A language model in small: a lookup table that is also the last layer, and outputs of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("frequencies", torch.arange(1, 7).float(), persistent=True)

    def forward(self, tokens: Tensor, mask: Tensor) -> Any:
        x = self.norm(self.embed(tokens)) * mask[..., None]
        return {"logits": self.head(x), "pooled": (x.pow(2).mean((1, 2)), [mask]), "guess": self.head(x).argmax(-1)}


@pytest.mark.parametrize("is_declared", [True, False])
def test_tied_tensors_integers_masks_and_nested_outputs(is_declared: bool) -> None:
    rows = {"embed.weight": "9 s", "norm.weight": "s", "norm.bias": "s", "frequencies": "6"} | (
        {} if is_declared else {"head.weight": "9 s"}
    )
    spec = SymmetrySpec.parse(rows, sizes={"s": 6}, aliases={"head.weight": "embed.weight"} if is_declared else {})
    mask = torch.ones(2, 4)
    mask[0, 2:] = 0
    found = prove(spec, Tied(), torch.randint(0, 9, (2, 4), generator=seeded(0)), mask)
    assert found.proved and found.groups == spec.groups and found.aliases == {"head.weight": "embed.weight"}
    assert found.notes == (() if is_declared else ("tensor 'head.weight' is tied to 'embed.weight' in the module",))


class BatchNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x))))  # type: ignore[no-any-return]


BATCH_NORMED = {"conv.weight": "c^0 2 3 3", "conv.bias": "c^0", "norm.weight": "c", "norm.bias": "c"}
BATCH_NORMED |= {"norm.running_mean": "c^0", "norm.running_var": "c^0", "out.weight": "2 c' 1 1", "out.bias": "2"}


def test_running_statistics_move_with_their_channels() -> None:
    def spec(**changes: str) -> SymmetrySpec:
        statistics = ["norm.running_mean", "norm.running_var"]
        return SymmetrySpec.parse({**BATCH_NORMED, **changes}, groups={"c": {"size": 4, "symmetry": "scale"}}, statistics=statistics)

    found = prove(spec(), BatchNormed(), torch.zeros(2, 2, 4, 4))
    assert found.proved and found == spec() and not found.notes
    forgot = prove(spec(**{"norm.running_var": "4"}), BatchNormed(), torch.zeros(2, 2, 4, 4))
    assert forgot.groups["c"].kind == "fixed" and forgot.groups["c"].symmetry == "scale"


class Rotary(nn.Module):
    """One head whose queries and keys are turned by their positions: planes may be turned, and the whole grows against shrinking."""

    frequency: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(5, 4, bias=False), nn.Linear(5, 4, bias=False)
        self.register_buffer("frequency", torch.tensor([1.0, 0.3]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1]).to(torch.float32)[:, None] * self.frequency

        def turned(y: Tensor) -> Tensor:
            a, b = y.chunk(2, -1)
            return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

        return turned(self.q(x)) @ turned(self.k(x)).mT


def test_rotary_planes_may_be_turned() -> None:
    rows = {"q.weight": "(f + f) 5", "k.weight": "(f + f)' 5"}
    spec = SymmetrySpec.parse(rows, groups={"f": {"size": 2, "kind": "fixed", "symmetry": "rotation"}})
    found = prove(spec, Rotary(), torch.zeros(2, 3, 5))
    assert found.proved and found == spec and not found.notes
    assert certificate(spec, Rotary(), torch.zeros(2, 3, 5)).complete
    free = SymmetrySpec.parse(rows, groups={"f": {"size": 2, "symmetry": "rotation"}})
    assert prove(free, Rotary(), torch.zeros(2, 3, 5)).groups["f"].kind == "fixed"


def test_groups_of_one_and_specs_that_move_nothing() -> None:
    one = SymmetrySpec.parse({"weight": "3 1", "bias": "o"}, sizes={"o": 3})
    assert prove(SymmetrySpec.parse({"weight": "3 1", "bias": "3"}), nn.Linear(1, 3), torch.zeros(1, 1)).proved
    found = prove(one, nn.Linear(1, 3), torch.zeros(1, 1))
    assert found.proved and not found.movable
    narrow = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 2))
    rows = {"0.weight": "h 2", "0.bias": "h", "2.weight": "2 h", "2.bias": "2"}
    for symmetry, kept in (("sign", "sign"), ("scale", "none"), ("orthogonal", "orthogonal"), ("linear", "none"), ("none", "none")):
        spec = SymmetrySpec.parse(rows, groups={"h": {"size": 1, "symmetry": symmetry}})
        found = prove(spec, narrow, torch.zeros(3, 2))
        assert found.proved and found.groups["h"].symmetry == kept


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


@pytest.mark.parametrize("activation", [Sine, nn.ReLU, nn.Tanh])
def test_deep_networks_are_drawn_so_that_signals_neither_drown_nor_die(activation: type[nn.Module]) -> None:
    """Rounding grows thirtyfold in each layer of steep sines at ordinary weights, and signals die in deep networks of small ones."""
    module = nn.Sequential(
        nn.Linear(2, 8), activation(), *(part for _ in range(14) for part in (nn.Linear(8, 8), activation())), nn.Linear(8, 1)
    )
    rows = {f"{2 * j}.weight": f"{f'h{j}' if j < 15 else 1} {f'h{j - 1}' if j else 2}" for j in range(16)}
    rows |= {f"{2 * j}.bias": f"h{j}" if j < 15 else "1" for j in range(16)}
    found = prove(SymmetrySpec.parse(rows, sizes={f"h{j}": 8 for j in range(15)}), module, torch.zeros(4, 2))
    assert found.proved and len(found.movable) == 15 and not found.notes


def test_a_stream_whose_gains_are_folded_away_may_be_turned() -> None:
    def spec(**gains: list[str]) -> SymmetrySpec:
        plain = normed_spec(gains=True)
        return SymmetrySpec.parse(plain.to_dict()["tensors"], groups=plain.groups, gains=gains)

    module, given = Normed(gains=True), torch.zeros(8, 7)
    right = spec(g=["a.weight"], g2=["o.weight"])
    found = prove(right, module, given)
    assert found.proved and found == right and not found.notes
    measured = certificate(right, module, given)
    assert measured.complete and measured.nullity == 10 and measured.parameters == sum(p.numel() for p in module.parameters()) - 10
    half = prove(spec(g=["a.weight"]), module, given)
    assert half.proved and half.groups["s"].symmetry == "none" and half.groups["s"].is_movable
    assert half.notes[0].startswith("mixing group 's' changes the outputs by ")
    unread = prove(spec(g=["e.weight"], g2=["o.weight"]), module, given)
    assert unread.groups["s"].symmetry == "none"
    assert unread.notes[0].startswith("group 's' is only permuted, without 'orthogonal': gain 'g' scales group 's'")


# The function of two state dicts


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


# Completeness


@pytest.mark.parametrize(
    ("spec", "module", "given", "nullity"),
    [
        (mlp_spec(a="scale", b="scale"), mlp(nn.ReLU), INPUT, 13),
        (mlp_spec(), mlp(nn.Tanh), INPUT, 0),
        (mlp_spec(), mlp(nn.GELU), INPUT, 0),
        (mlp_spec(), mlp(Sine), INPUT, 0),
        (attention_spec(k="linear", v="linear"), Attention(), torch.zeros(2, 5, 6), 36),
        (normed_spec(), Normed(), torch.zeros(8, 7), 10),
        (LOW_RANK, LowRank(), torch.zeros(3, 6), 4),
    ],
    ids=["relu", "tanh", "gelu", "sine", "attention", "rms norm", "low rank"],
)
def test_declared_and_measured_dimensions_agree(spec: SymmetrySpec, module: nn.Module, given: Tensor, nullity: int) -> None:
    found = certificate(spec, module, given)
    assert (found.nullity, found.declared, found.missing, found.complete) == (nullity, nullity, 0, True)
    assert found.parameters == sum(p.numel() for p in module.parameters()) and found.gap > 1e3
    assert spec.certificate(module, given, samples=300) == found


@pytest.mark.parametrize("rows", [{}, {"2.weight": "b a", "4.weight": "3 b"}], ids=["with marks", "without marks"])
def test_a_scale_that_is_not_declared_is_named(rows: dict[str, str]) -> None:
    found = certificate(mlp_spec(rows, b="none"), mlp(nn.ReLU), INPUT)
    assert (found.missing, found.complete) == (13, False)
    assert len(found.lines) == 2
    assert found.lines[0].startswith("7 dimensions in ") and found.lines[0].endswith(": 'a' can have 'scale'")
    assert found.lines[1].startswith("6 dimensions in ") and found.lines[1].endswith(": 'b' can have 'scale'")
    assert all(f"'{name}'" in found.lines[0] for name in ("0.weight", "0.bias", "2.weight")) and "'4.weight'" not in found.lines[0]


def test_what_is_declared_is_not_named_again() -> None:
    found = certificate(mlp_spec(a="scale"), mlp(nn.ReLU), INPUT)
    assert found.missing == 6 and len(found.lines) == 1 and "'b' can have 'scale'" in found.lines[0]


def test_a_missing_query_key_product_is_named() -> None:
    found = certificate(attention_spec(v="linear"), Attention(), torch.zeros(2, 5, 6))
    assert found.missing == 18 and len(found.lines) == 1
    assert found.lines[0].startswith("18 dimensions in '") and found.lines[0].endswith(": 'k' can be 'linear'")
    assert "'q.weight'" in found.lines[0] and "'k.weight'" in found.lines[0]


def test_what_is_declared_but_changes_the_outputs_is_named() -> None:
    found = certificate(mlp_spec(a="scale"), mlp(nn.Tanh), INPUT)
    assert (found.nullity, found.declared, found.missing, found.complete) == (0, 0, 0, False)
    assert found.lines == ("group 'a' has symmetry 'scale', but 7 of its 7 directions change the outputs",)


def test_a_stream_wider_than_what_enters_it() -> None:
    """10 rotations, 10 gains against the weights that follow, and 6 because four inputs fill four of five dimensions."""
    found = certificate(normed_spec(4, gains=True, symmetry="none"), Normed(4, gains=True), torch.zeros(8, 4))
    assert (found.nullity, found.declared) == (26, 0)
    assert found.lines[0] == "6 dimensions in 'a.weight' alone: less reaches it than it is wide"
    assert found.lines[1].startswith("10 dimensions in ") and found.lines[1].endswith(": members of 's' can be scaled")
    assert found.lines[2].startswith("10 dimensions in ") and found.lines[2].endswith(": 's' can be 'orthogonal'")


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(6, 2), nn.Linear(2, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(tokens)))  # type: ignore[no-any-return]


def test_rows_that_no_input_looks_up_are_named() -> None:
    spec = SymmetrySpec.parse({"table.weight": "6 h", "out.weight": "1 h", "out.bias": "1"}, sizes={"h": 2})
    found = certificate(spec, Lookup(), torch.tensor([[0, 3]]))
    assert "4 of its entries are never used" in found.lines[0] and "'table.weight' alone" in found.lines[0]


def test_directions_of_no_group_are_named_by_their_tensors() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x * (self.a + self.b))

    found = certificate(SymmetrySpec.parse({"a": "3", "b": "3"}), Doubled(), torch.zeros(2, 3))
    assert found.lines == ("3 dimensions in 'a' (50 %), 'b' (50 %), of no group of the spec",)


def test_running_statistics_are_no_parameters() -> None:
    spec = SymmetrySpec.parse(BATCH_NORMED, groups={"c": {"size": 4, "symmetry": "scale"}})
    found = certificate(spec, BatchNormed(), torch.zeros(2, 2, 4, 4))
    assert found.parameters == sum(p.numel() for p in BatchNormed().parameters())
    assert found.declared == 4 and found.missing >= 8  # a conv's rows and bias are absorbed by the norm: not declared here


def test_too_many_parameters_are_refused_in_one_line() -> None:
    with pytest.raises(SymmetryError) as caught:
        certificate(SymmetrySpec.parse({"weight": "100 100"}), nn.Linear(100, 100, bias=False), torch.zeros(1, 100))
    assert str(caught.value) == "a certificate needs at most 6000 parameters, but this module has 10000; give a smaller instance of it"


def test_the_repr_of_a_certificate() -> None:
    found = Certificate(111, 98, 7, 3.2e13, ("6 dimensions in 'x': 'b' can have 'scale'",))
    assert repr(found).splitlines() == [
        "<Certificate: 6 missing; 111 parameters, rank 98, nullity 13, declared 7, gap 3.2e+13>",
        "  6 dimensions in 'x': 'b' can have 'scale'",
    ]
    assert repr(Certificate(3, 3, 0, math.inf)) == "<Certificate: complete; 3 parameters, rank 3, nullity 0, declared 0, gap inf>"
    assert repr(Certificate(3, 3, 0, 5.0, ("the rank is not clear",))).startswith("<Certificate: doubtful;")
