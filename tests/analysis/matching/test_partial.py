"""Matching in part: unequal widths, a share of the units, and a space in which both networks compute what they did."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.analysis.matching.networks import attention, chain, draw, heads
from weightspace.analysis.matching.partial import match_partial
from weightspace.analysis.matching.widening import embed
from weightspace.errors import ShapeMismatchError, SymmetryError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

Weights = Mapping[str, Tensor]
EPS = 1e-12  # of norms: further members make an epsilon larger by as much as the stream


def mlp(w: Weights, x: Tensor) -> Tensor:
    for i in range(3):
        x = F.linear(x, w[f"{i}.weight"], w[f"{i}.bias"]).relu()
    return F.linear(x, w["3.weight"], w["3.bias"])


def conv_spec(stream: int, inner: int) -> SymmetrySpec:
    rows = {"stem": "c 3 3 3", "up": "m c' 3 3", "down": "c m' 3 3", "head": "5 c'"}
    for name, group in (("bn1", "c"), ("bn2", "m")):
        rows |= {f"{name}.{part}": group for part in ("weight", "bias", "running_mean", "running_var")}
    statistics = [name for name in rows if "running" in name]
    return SymmetrySpec.parse(rows, sizes={"c": stream, "m": inner}, statistics=statistics)


def conv_net(w: Weights, x: Tensor) -> Tensor:
    def normed(y: Tensor, name: str) -> Tensor:
        return F.batch_norm(y, w[f"{name}.running_mean"], w[f"{name}.running_var"].abs(), w[f"{name}.weight"], w[f"{name}.bias"])

    x = normed(F.conv2d(x, w["stem"], padding=1), "bn1").relu()
    x = x + F.conv2d(normed(F.conv2d(x, w["up"], padding=1), "bn2").relu(), w["down"], padding=1)
    return F.linear(x.mean((2, 3)), w["head"])


def gpt_spec(stream: int, count: int, inner: int, *, bias: bool = True) -> SymmetrySpec:
    """One block of a GPT with a tied embedding: heads of 4, pre-norm."""
    rows = {
        "embed": "20 d",
        "ln1.weight": "d",
        "qkv": "(head 4) + (head 4) + (head v) d'",
        "out": "d (head v)'",
        "ln2.weight": "d",
        "up": "m d'",
        "down": "d m'",
        "lnf.weight": "d",
    }
    rows |= {"ln1.bias": "d", "ln2.bias": "d", "lnf.bias": "d", "down.bias": "d"} if bias else {}
    groups: dict[str, dict[str, Any]] = {
        "d": {"size": stream},
        "head": {"size": count},
        "v": {"size": 4, "per": "head"},
        "m": {"size": inner},
    }
    return SymmetrySpec.parse(rows, groups=groups, aliases={"lm_head": "embed"})


def gpt(w: Weights, tokens: Tensor) -> Tensor:
    def normed(y: Tensor, name: str) -> Tensor:
        if f"{name}.bias" in w:
            return F.layer_norm(y, y.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], EPS)
        return F.rms_norm(y, y.shape[-1:], w[f"{name}.weight"], EPS)

    x = F.embedding(tokens, w["embed"])
    q, k, v = (part.reshape(*part.shape[:-1], -1, 4).transpose(1, 2) for part in F.linear(normed(x, "ln1"), w["qkv"]).chunk(3, dim=-1))
    x = x + F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), w["out"])
    x = x + F.linear(F.gelu(F.linear(normed(x, "ln2"), w["up"])), w["down"], w.get("down.bias"))
    return F.linear(normed(x, "lnf"), w["embed"])


def narrowed(weights: Weights, spec: SymmetrySpec, narrow: SymmetrySpec) -> dict[str, Tensor]:
    """The first members of every group."""
    made = {}
    for name in narrow.tensors:
        made[name] = torch.empty(narrow.shape(name), dtype=weights[name].dtype)
        for new, old in zip(narrow.blocks(name, made[name]), spec.blocks(name, weights[name]), strict=True):
            new.view.copy_(old.view[tuple(slice(n) for n in new.view.shape)])
    return made


def doubles(spec: SymmetrySpec, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in draw(spec, generator).items()}


def test_a_narrower_network_finds_its_units_in_the_wider_one(generator: torch.Generator) -> None:
    spec, narrow = chain(16), chain(11)
    a = doubles(spec, generator)
    order = spec.random(generator)
    b = narrowed(act(order, a), spec, narrow)
    found = match_partial(a, b, spec, narrow)
    assert found.unmatched_a == {"h0": 5, "h1": 5, "h2": 5} and found.unmatched_b == {} and found.spec == spec
    for name, partners in found.partners.items():
        taken = order.actions[name].index[:11]
        assert torch.equal(partners[taken], torch.arange(11)) and torch.equal(found.places[name], taken)


def test_both_networks_compute_what_they_did_in_the_shared_space(generator: torch.Generator) -> None:
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    left, right = chain(12), chain(12).with_groups(h0={"size": 17}, h1={"size": 5})
    a, b = doubles(left, generator), doubles(right, generator)
    wide_a, wide_b = match_partial(a, b, left, right).widen(a, b)
    assert wide_a["1.weight"].shape == wide_b["1.weight"].shape == (12, 17)
    torch.testing.assert_close(mlp(wide_a, x), mlp(a, x))
    torch.testing.assert_close(mlp(wide_b, x), mlp(b, x))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_units_keeps_the_pairs_that_fit_best(share: float, generator: torch.Generator) -> None:
    spec = chain(10)
    x = torch.randn(7, 6, dtype=torch.float64, generator=generator)
    a, b = doubles(spec, generator), doubles(spec, generator)
    found, whole = match_partial(a, b, spec, share=share), match_partial(a, b, spec)
    kept = round(share * 10)
    assert found.spec.sizes == {name: 20 - kept for name in spec.sizes}
    for wide, narrow in zip(found.widen(a, b), (a, b), strict=True):
        torch.testing.assert_close(mlp(wide, x), mlp(narrow, x))
    for name, partners in found.partners.items():
        paired = partners >= 0
        assert int(paired.sum()) == kept and torch.equal(partners[paired], whole.partners[name][paired])


def test_a_share_parts_the_pair_that_was_spoiled(generator: torch.Generator) -> None:
    spec = chain(8, depth=1, symmetry="sign")
    a = doubles(spec, generator)
    spoiled = {name: tensor.clone() for name, tensor in a.items()}
    spoiled["0.weight"][3], spoiled["0.bias"][3], spoiled["1.weight"][:, 3] = torch.randn(6, generator=generator), 0.0, 0.0
    planted = spec.random(generator)
    b = act(planted, spoiled)
    found = match_partial(a, b, spec, share={"h0": 7 / 8})
    assert found.partners["h0"][3] == -1 and found.unmatched_a == found.unmatched_b == {"h0": 1}
    wide_a, wide_b = found.widen(a, b)
    # But for the spoiled unit the two lie on each other, signs included.
    rest = [i for i in range(8) if i != 3]
    torch.testing.assert_close(wide_a["0.weight"][rest], wide_b["0.weight"][rest])
    torch.testing.assert_close(wide_a["1.weight"][:, rest], wide_b["1.weight"][:, rest])
    assert not wide_b["0.weight"][3].any() and not wide_a["0.weight"][8].any()


def test_residual_convolutions_with_batch_norm_are_widened(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=generator)
    left, right = conv_spec(8, 6), conv_spec(5, 9)
    a, b = doubles(left, generator), doubles(right, generator)
    found = match_partial(a, b, left, right)
    assert found.spec.sizes == {"c": 8, "m": 9}
    for wide, narrow in zip(found.widen(a, b), (a, b), strict=True):
        torch.testing.assert_close(conv_net(wide, x), conv_net(narrow, x))


@pytest.mark.parametrize("bias", [True, False], ids=["layer norm", "rms norm"])
def test_a_gpt_at_two_widths_computes_the_same_in_the_wider_space(bias: bool, generator: torch.Generator) -> None:
    tokens = torch.randint(0, 20, (2, 6), generator=generator)
    left, right = gpt_spec(16, 4, 20, bias=bias), gpt_spec(10, 3, 24, bias=bias)
    a, b = doubles(left, generator), doubles(right, generator)
    a["lm_head"], b["lm_head"] = a["embed"], b["embed"]
    norms = {f"{name}.weight": "layer" if bias else "rms" for name in ("ln1", "ln2", "lnf")}
    found = match_partial(a, b, left, right)
    wide_a, wide_b = found.widen(a, b, norms=norms)
    assert wide_b["lm_head"] is wide_b["embed"] and wide_b["embed"].shape == (20, 16)
    torch.testing.assert_close(gpt(wide_a, tokens), gpt(a, tokens))
    torch.testing.assert_close(gpt(wide_b, tokens), gpt(b, tokens))
    with pytest.raises(
        SymmetryError, match=r"tensor 'ln1.weight' seems to belong to a norm over group 'd'.*norms: \{'ln1.weight': 'layer'\}"
    ):
        found.widen(a, b)


@pytest.mark.parametrize("make", [attention, heads])
def test_heads_go_with_their_members(make: object, generator: torch.Generator) -> None:
    spec = attention() if make is attention else heads()
    wide = spec.with_groups(**{("kv" if make is attention else "head"): {"size": 5}, ("dv"): {"size": 7}})
    a = doubles(wide, generator)
    order = wide.random(generator, discrete=True)
    b = narrowed(act(order, a), wide, spec)
    found = match_partial(a, b, wide, spec)
    for name, group in spec.groups.items():
        if not group.per:
            assert torch.equal(found.places[name], order.actions[name].index[: group.size])
    left, right = found.widen(a, b)
    moved_back = act(order.inverse(), embed(b, spec, wide))
    assert found.spec.sizes == wide.sizes
    for name in left:
        torch.testing.assert_close(right[name], moved_back[name])


def test_members_inside_heads_agree_in_sign(generator: torch.Generator) -> None:
    spec = heads().with_groups(dv={"symmetry": "sign"}, dk={"symmetry": "none"}, d={"symmetry": "sign"})
    wide = spec.with_groups(head={"size": 6})
    a = doubles(wide, generator)
    order = wide.random(generator)
    b = narrowed(act(order, a), wide, spec)
    right = match_partial(a, b, wide, spec).widen(a, b)[1]
    moved_back = act(order.inverse(), embed(b, spec, wide))
    for name in right:
        torch.testing.assert_close(right[name], moved_back[name])


def test_specs_of_two_architectures_are_refused() -> None:
    spec = chain(4)
    with pytest.raises(SymmetryError, match=r"not of one architecture at two widths \(group h0: 4 permutable none -> 4 permutable sign\)"):
        match_partial({}, {}, spec, chain(4, symmetry="sign"))


def test_mistakes_are_told(generator: torch.Generator) -> None:
    spec, gained = chain(4), gpt_spec(4, 1, 3)
    a = draw(spec, generator)
    with pytest.raises(SymmetryError, match=r"share 1.5 of group 'h0' cannot be kept; expected 0 to 1"):
        match_partial(a, a, spec, share=1.5)
    with pytest.raises(UnknownNameError, match="no neuron group named 'h9'"):
        match_partial(a, a, spec, share={"h9": 0.5})
    with pytest.raises(ShapeMismatchError, match=r"tensor '0.weight' axis 0 \('h0'\) has size 4, but the spec says 5"):
        embed(a, chain(5), chain(6))
    wide, b = gpt_spec(6, 1, 3), draw(gained, generator)
    with pytest.raises(UnknownNameError, match=r"no kind of norm \(for 'ln1.weight'\) named 'batch'"):
        embed(b, gained, wide, norms={"ln1.weight": "batch"})
    with pytest.raises(SymmetryError, match=r"'up' has axes 'm d'', expected one group; name the gain of the norm"):
        embed(b, gained, wide, norms={"up": "rms"})
