"""What is proved holds, and what does not preserve the function is taken away."""

import pytest
import torch
from torch import Tensor, nn

from tests.proof.networks import (
    BATCH_NORMED,
    INPUT,
    LOW_RANK,
    Attention,
    BatchNormed,
    LowRank,
    Normed,
    Sine,
    Tied,
    attention_spec,
    mlp,
    mlp_spec,
    normed_spec,
)
from tests.strategies import seeded
from weightspace.proof import certificate, prove
from weightspace.spec import SymmetrySpec


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
