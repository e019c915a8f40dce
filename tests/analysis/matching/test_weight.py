"""Weight matching: what it recovers, what it promises, and what it says."""

import itertools
import math
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.analysis.matching.networks import ARCHITECTURES, attention, chain, draw, heads, noisy, residual
from weightspace.analysis.matching import match
from weightspace.analysis.matching.family import Rules
from weightspace.analysis.matching.pair import Pair
from weightspace.analysis.matching.search import descend
from weightspace.analysis.matching.weight import Descent, gained
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

SEEDS = range(10)


def largest_gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_planted_elements_are_recovered(name: str, noise: float) -> None:
    spec = ARCHITECTURES[name]
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        a = draw(spec, generator)
        planted = spec.random(generator, discrete=True)
        found = match(a, noisy(act(planted, a), noise, generator), spec)
        assert (found.element @ planted).is_identity, f"seed {seed}"
        if not noise:
            assert found.l2_after < 1e-5 * found.l2_before


@pytest.mark.parametrize("seed", range(3))
def test_planted_matrices_are_recovered(seed: int) -> None:
    spec = heads()
    generator = torch.Generator().manual_seed(seed)
    a = draw(spec, generator)
    turned = spec.with_groups(dk={"symmetry": "orthogonal"}, dv={"symmetry": "orthogonal"})
    b = act(turned.random(generator), a)
    with_matrices, without = match(a, b, spec, matrices=True), match(a, b, spec)
    assert largest_gap(act(with_matrices.element, b), a) < 1e-4
    assert without.l2_after > 0.5 * without.l2_before


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_objective_never_falls_and_is_what_the_element_gains(name: str) -> None:
    spec = ARCHITECTURES[name]
    generator = torch.Generator().manual_seed(1)
    a, b = draw(spec, generator), draw(spec, generator)
    found = match(a, b, spec, restarts=3, generator=generator)
    assert all(later >= earlier for earlier, later in itertools.pairwise(found.objective))
    moved = act(found.element, b)
    counted = [n for n in spec.tensors if n not in spec.statistics]
    gained_here = sum(float((a[n] * moved[n]).sum()) for n in counted)
    still = sum(float((a[n] * b[n]).sum()) for n in counted if not any(c.isalpha() for c in " ".join(map(str, spec.axes(n)))))
    assert found.objective[-1] == pytest.approx(gained_here - still, rel=1e-4)
    assert len(found.restarts) == 3 and max(found.restarts) == found.objective[-1]
    # Inner products and distances say the same: permutations and signs keep norms.
    assert found.l2_before**2 - found.l2_after**2 == pytest.approx(
        2 * (gained_here - sum(float((a[n] * b[n]).sum()) for n in counted)), rel=1e-3
    )


@pytest.mark.parametrize("symmetry", ["none", "sign"])
def test_one_hidden_layer_is_matched_as_well_as_by_trying_everything(symmetry: str) -> None:
    spec = chain(width=4, depth=1, symmetry=symmetry)
    generator = torch.Generator().manual_seed(5)
    a, b = draw(spec, generator), draw(spec, generator)
    distances = []
    for order in itertools.permutations(range(4)):
        for signs in itertools.product([1.0, -1.0], repeat=4) if symmetry == "sign" else [None]:
            element = spec.element({"h0": (list(order), list(signs)) if signs else list(order)})
            moved = act(element, b)
            distances.append(math.sqrt(sum(float((a[n] - moved[n]).square().sum()) for n in a)))
    assert match(a, b, spec).l2_after == pytest.approx(min(distances), rel=1e-5)


def test_heads_are_compared_by_their_best_inner_assignment() -> None:
    """Brute force over heads and over both inner orders of three heads of two members."""
    spec = SymmetrySpec.parse(
        {"q": "(head dk) 5", "k": "(head dk) 5", "v": "(head dv) 5"},
        groups={"head": {"size": 3}, "dk": {"size": 2, "per": "head"}, "dv": {"size": 2, "per": "head"}},
    )
    generator = torch.Generator().manual_seed(2)
    a, b = draw(spec, generator), draw(spec, generator)
    inner = [torch.tensor(x) for x in itertools.product([[0, 1], [1, 0]], repeat=3)]
    best = max(
        sum(float((a[n] * moved[n]).sum()) for n in a)
        for order in itertools.permutations(range(3))
        for dk in inner
        for dv in inner
        for moved in [act(spec.element({"head": list(order), "dk": dk, "dv": dv}), b)]
    )
    assert match(a, b, spec).objective[-1] == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kept_gains_equal_fresh_ones(name: str) -> None:
    """Gains updated by what moved are those computed from nothing, after any visits."""
    spec = ARCHITECTURES[name]
    generator = torch.Generator().manual_seed(3)
    pair = Pair.of(draw(spec, generator), draw(spec, generator), spec)
    rules = Rules.of(spec, matrices=False, solver="scipy")
    still = {name: spec.identity().action(name) for family in pair.families for name in family.members}
    state = Descent(pair, rules, dict(still))
    for at in [*range(len(pair.families)), *reversed(range(len(pair.families)))]:
        state.visit(at)
    for at, family in enumerate(pair.families):
        kept = state.update(at)
        fresh = Descent(pair, rules, dict(state.actions)).update(at)
        assert kept.keys() == fresh.keys()
        for names in kept:
            torch.testing.assert_close(kept[names], fresh[names], rtol=1e-4, atol=1e-3)
        if not family.quadratic:
            alone = [pair.blocks[k] for k in family.blocks]
            expected = sum(float((x.a * x.moved(x.b, state.actions, frozenset())).sum()) for x in alone)
            assert gained(family, kept, state.actions) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_group_on_both_axes_of_a_tensor_still_rises_and_stops() -> None:
    """The published step is a linearisation there: its objective falls and it never ends (20 of 20 trials at size 64)."""
    spec = SymmetrySpec.parse({"recurrent": "h h'"}, sizes={"h": 24})
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        a, b = draw(spec, generator), draw(spec, generator)
        found = match(a, b, spec)
        assert found.stopped == "no family could gain"
        assert all(later >= earlier for earlier, later in itertools.pairwise(found.objective))
        assert found.objective[-1] > float((a["recurrent"] * b["recurrent"]).sum())


def test_a_network_is_matched_to_itself_by_doing_nothing() -> None:
    for spec in ARCHITECTURES.values():
        a = draw(spec, torch.Generator().manual_seed(0))
        found = match(a, a, spec)
        assert found.element.is_identity and found.l2_after == 0 and found.cosine_after == pytest.approx(1)


def test_inputs_stay_as_they_were_and_the_same_seed_gives_the_same_answer() -> None:
    spec = residual()
    generator = torch.Generator().manual_seed(0)
    a, b = draw(spec, generator), draw(spec, generator)
    before = {name: tensor.clone() for name, tensor in b.items()}
    first, second = (match(a, b, spec, restarts=3, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(before[name], b[name]) for name in b)
    assert first.objective == second.objective and first.restarts == second.restarts
    assert all(torch.equal(x.index, second.element.actions[g].index) for g, x in first.element.actions.items())


def test_checkpoints_are_matched_as_state_dicts_are() -> None:
    spec = attention()
    generator = torch.Generator().manual_seed(0)
    a, b = draw(spec, generator), draw(spec, generator)
    lazily = match(Checkpoint.of(a), Checkpoint.of(b), spec)
    assert lazily.objective == match(a, b, spec).objective


def test_statistics_move_but_do_not_count() -> None:
    spec = residual()
    generator = torch.Generator().manual_seed(0)
    a, b = draw(spec, generator), draw(spec, generator)
    other = {**b, "mean": torch.full((10,), 1e6)}
    assert match(a, b, spec).objective == match(a, other, spec).objective
    assert match(a, other, spec).l2_before < 1e4


def test_members_that_could_change_places_are_reported() -> None:
    spec = chain(width=6, depth=1)
    a = draw(spec, torch.Generator().manual_seed(0))
    for name in ("0.weight", "0.bias"):
        a[name][4:] = 0  # two dead units ...
    a["1.weight"][:, 4:] = 0  # ... that nothing reads
    assert match(a, a, spec).ties == {"h0": 2}


def test_masked_columns_do_not_count() -> None:
    spec = chain()
    generator = torch.Generator().manual_seed(0)
    a = draw(spec, generator)
    planted = spec.random(generator, discrete=True)
    b = act(planted, a)
    b["0.weight"][:, 0] = 50 * torch.randn(12, generator=generator)  # an input that is always zero
    mask = torch.ones(6)
    mask[0] = 0
    masked = match(a, b, spec, masks={"0.weight": mask})
    assert (masked.element @ planted).is_identity
    assert not (match(a, b, spec).element @ planted).is_identity


def test_a_descent_stops_where_it_is_told() -> None:
    spec = chain(width=40)
    generator = torch.Generator().manual_seed(0)
    pair = Pair.of(draw(spec, generator), draw(spec, generator), spec)
    still = {name: spec.identity().action(name) for family in pair.families for name in family.members}
    rules = Rules.of(spec, matrices=False, solver="scipy")
    run = descend(pair, rules, still, anchored=False, max_sweeps=1, generator=generator)
    assert run.stopped == "stopped after 1 sweeps" and len(run.objective) == 2


def test_messages() -> None:
    spec = chain()
    a = draw(spec, torch.Generator().manual_seed(0))
    with pytest.raises(UnknownNameError, match="no matching method named 'wieght'; did you mean 'weight'"):
        match(a, a, spec, method="wieght")
    with pytest.raises(ShapeMismatchError, match=r"tensor '0.bias' axis 0 \('h0'\) has size 13, but the spec says 12"):
        match(a, {**a, "0.bias": torch.zeros(13)}, spec)
    with pytest.raises(SymmetryError, match=r"tensor '1.bias' has values that are not finite"):
        match(a, {**a, "1.bias": torch.full((12,), float("nan"))}, spec)
    fixed = SymmetrySpec.parse({"w": "(place h) 3"}, groups={"place": {"size": 2, "kind": "fixed"}, "h": {"size": 3, "per": "place"}})
    with pytest.raises(SymmetryError, match="group 'h' is per 'place', which is fixed"):
        match({"w": torch.ones(6, 3)}, {"w": torch.ones(6, 3)}, fixed)
    assert repr(match(a, a, spec, restarts=2)).startswith("<Match by weight: distance 0 -> 0 (0.0% less), cosine 1.000 -> 1.000, 1 sweeps")


ORBIT = {
    "seq.0.weight": "h0 2",
    "seq.0.bias": "h0",
    "seq.1.weight": "h1 h0'",
    "seq.1.bias": "h1",
    "seq.2.weight": "1 h1'",
    "seq.2.bias": "1",
}


def siren(weights: dict[str, torch.Tensor], points: torch.Tensor) -> torch.Tensor:
    """The network of the orbit files: sin(30 (W x + b)), twice, then linear."""
    x = points
    for layer in (0, 1):
        x = torch.sin(30 * (x @ weights[f"seq.{layer}.weight"].T + weights[f"seq.{layer}.bias"]))
    return x @ weights["seq.2.weight"].T + weights["seq.2.bias"]


def test_a_real_orbit_is_aligned_whole_with_signs_and_not_without(real_checkpoints: Path) -> None:
    files = sorted((real_checkpoints / "inr_orbit").glob("orbit_*.pth"))
    assert len(files) == 256
    odd = SymmetrySpec.parse(ORBIT, groups={"h0": {"size": 32, "symmetry": "sign"}, "h1": {"size": 32, "symmetry": "sign"}})
    plain = odd.with_groups(h0={"symmetry": "none"}, h1={"symmetry": "none"})
    a = ws.open(files[0]).state_dict()
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = siren(a, points)
    for file in files[1:]:
        b = ws.open(file).state_dict()
        moved = act(match(a, b, odd).element, b)
        assert largest_gap(a, moved) < 1e-5
        assert float((siren(moved, points) - expected).abs().max()) < 1e-5
    for file in files[1::32]:
        b = ws.open(file).state_dict()
        assert largest_gap(a, act(match(a, b, plain).element, b)) > 0.05


def test_signs_do_not_act_on_gains() -> None:
    """A gain under a norm moves with its member and keeps its sign: its products count whatever the sign."""
    groups = {"s": {"size": 8, "symmetry": "sign"}}
    spec = SymmetrySpec.parse({"embed": "9 s", "norm": "s^0", "head": "7 s'"}, groups=groups)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        a = draw(spec, generator)
        a["norm"] = 5 * (1 + 0.1 * a["norm"])
        planted = spec.random(generator, discrete=True)
        assert (match(a, act(planted, a), spec).element @ planted).is_identity
        b = draw(spec, generator)
        b["norm"] = 5 * (1 + 0.1 * b["norm"])
        found = match(a, b, spec, restarts=6)
        moved = act(found.element, b)
        assert found.objective[-1] == pytest.approx(sum(float((a[n] * moved[n]).sum()) for n in a), rel=1e-5)


def test_half_precision_is_compared_in_full() -> None:
    spec = chain()
    generator = torch.Generator().manual_seed(0)
    a = draw(spec, generator)
    planted = spec.random(generator, discrete=True)
    halves = {name: tensor.bfloat16() for name, tensor in act(planted, a).items()}
    for left, right in ((a, halves), (halves, a)):
        found = match(left, right, spec)
        assert found.l2_after < 0.02 * found.l2_before
        assert all(act(found.element, right)[name].dtype is right[name].dtype for name in right)


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_very_large_and_very_small_weights_have_distances(size: float) -> None:
    spec = chain()
    generator = torch.Generator().manual_seed(0)
    a, b = ({name: tensor * size for name, tensor in draw(spec, generator).items()} for _ in range(2))
    found = match(a, b, spec)
    assert 0 < found.l2_after < found.l2_before < math.inf and not found.ties


def test_a_stream_with_gains_is_folded_before_it_is_turned() -> None:
    spec = SymmetrySpec.parse(
        {"embed": "9 d", "norm": "d", "head": "7 d'"}, groups={"d": {"size": 6, "symmetry": "orthogonal"}}, gains={"norm": ["head"]}
    )
    a = draw(spec, torch.Generator().manual_seed(0))
    with pytest.raises(SymmetryError, match="a matrix acts on group 'd', but gain 'norm' is not constant; fold it away first"):
        match(a, a, spec, matrices=True)
    assert match(ws.fold(a, spec), ws.fold(a, spec), spec, matrices=True).l2_after < 1e-5


def test_options_that_cannot_be() -> None:
    spec = chain()
    a = draw(spec, torch.Generator().manual_seed(0))
    with pytest.raises(SymmetryError, match="expected at least one restart and no negative number of shakes or sweeps, found restarts=0"):
        match(a, a, spec, restarts=0)
    with pytest.raises(UnknownNameError, match=r"no tensor to mask named '0\.wieght'; did you mean '0\.weight'"):
        match(a, a, spec, masks={"0.wieght": torch.ones(1)})
    with pytest.raises(SymmetryError, match="device 'nowhere' cannot be used here"):
        match(a, a, spec, device="nowhere")
    assert not match(a, a, spec, max_sweeps=0).ties
