"""The canonical representative: the same for a whole orbit, another for another; and the distance between orbits."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import weightspace as ws
from tests.analysis.matching.networks import ARCHITECTURES, attention, chain, draw, heads, residual
from weightspace.analysis.matching.canonical import canonical, orbit_distance
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

SPECS = {**ARCHITECTURES, "scales": chain(symmetry="scale")}
SIREN = SymmetrySpec.parse(
    {"seq.0.weight": "h0 2", "seq.0.bias": "h0", "seq.1.weight": "h1 h0'", "seq.1.bias": "h1", "seq.2.weight": "1 h1'", "seq.2.bias": "1"},
    groups={"h0": {"size": 32, "symmetry": "sign"}, "h1": {"size": 32, "symmetry": "sign"}},
)


def doubles(spec: SymmetrySpec, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in draw(spec, generator).items()}


def planted(spec: SymmetrySpec, generator: torch.Generator, x: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights moved by a random element of what a canonical form removes."""
    has_matrices = any(g.symmetry in ("linear", "orthogonal") for g in spec.groups.values())
    return dict(act(spec.random(generator, discrete=has_matrices), x))


def largest_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(SPECS)), st.integers(0, 2**32))
def test_a_whole_orbit_has_one_representative(name: str, seed: int) -> None:
    spec, generator = SPECS[name], torch.Generator().manual_seed(seed)
    x = doubles(spec, generator)
    first, second = canonical(x, spec), canonical(planted(spec, generator, x), spec)
    assert not first.ties and not second.ties
    assert largest_gap(first.weights, second.weights) < 1e-9
    assert largest_gap(first.weights, dict(act(first.element, x))) == 0


@pytest.mark.parametrize("name", SPECS)
def test_another_network_has_another_representative(name: str, generator: torch.Generator) -> None:
    spec = SPECS[name]
    x = doubles(spec, generator)
    other = {tensor: values.clone() for tensor, values in x.items()}
    other[next(iter(spec.tensors))].view(-1)[0] += 0.01
    assert largest_gap(canonical(x, spec).weights, canonical(other, spec).weights) > 1e-3


@pytest.mark.parametrize("name", SPECS)
def test_canonical_again_changes_nothing(name: str, generator: torch.Generator) -> None:
    spec = SPECS[name]
    once = canonical(doubles(spec, generator), spec).weights
    assert largest_gap(once, canonical(once, spec).weights) < 1e-9


def test_networks_without_biases_are_told_apart_through_their_neighbours(generator: torch.Generator) -> None:
    """Nothing is anchored but at the far ends, and the middle groups see each other alone."""
    groups = {f"h{i}": {"size": 9, "symmetry": "sign"} for i in range(4)}
    spec = SymmetrySpec.parse({"a": "h0 3", "b": "h1 h0'", "c": "h2 h1'", "d": "h3 h2'", "e": "2 h3'"}, groups=groups)
    x = doubles(spec, generator)
    found = canonical(x, spec)
    assert not found.ties
    assert largest_gap(found.weights, canonical(planted(spec, generator, x), spec).weights) == 0


def test_dead_and_doubled_units_are_ties_that_do_not_matter(generator: torch.Generator) -> None:
    spec = chain(9, depth=2, symmetry="sign")
    x = doubles(spec, generator)
    for i, j in ((1, 4), (1, 6)):
        x["0.weight"][j], x["0.bias"][j], x["1.weight"][:, j] = x["0.weight"][i], x["0.bias"][i], x["1.weight"][:, i]
    for j in (2, 3):
        x["1.weight"][j], x["1.bias"][j], x["2.weight"][:, j] = 0.0, 0.0, 0.0
    found = canonical(x, spec)
    assert found.ties == {"h0": 3} and "ties: 3 of 'h0'" in repr(found)
    for _ in range(5):
        assert largest_gap(found.weights, canonical(planted(spec, generator, x), spec).weights) < 1e-12


def test_symmetries_of_the_weights_themselves_are_broken_together(generator: torch.Generator) -> None:
    """Two equal heads, and two units in each layer that can only change places at once."""
    spec = chain(4, depth=2)
    x = doubles(spec, generator)
    swap = spec.element({"h0": [1, 0, 2, 3], "h1": [1, 0, 2, 3]})
    mirrored = act(swap, x)
    x = {name: (tensor + mirrored[name]) / 2 for name, tensor in x.items()}
    found = canonical(x, spec)
    assert found.ties == {"h0": 2, "h1": 2}
    equal_heads = doubles(heads(), generator)
    for name in ("q", "k", "v"):
        equal_heads[name] = torch.cat([equal_heads[name][:6], equal_heads[name][:6], equal_heads[name][12:]])
    equal_heads["o"] = torch.cat([equal_heads["o"][:, :6], equal_heads["o"][:, :6], equal_heads["o"][:, 12:]], 1)
    for spec_, weights in ((spec, x), (heads(), equal_heads)):
        for _ in range(5):
            first, second = canonical(weights, spec_), canonical(planted(spec_, generator, weights), spec_)
            assert largest_gap(first.weights, second.weights) < 1e-12


def test_members_of_a_fixed_order_keep_it_and_get_signs(generator: torch.Generator) -> None:
    spec = SymmetrySpec.parse({"in": "h 3", "out": "2 h'"}, groups={"h": {"size": 4, "kind": "fixed", "symmetry": "sign"}})
    x = doubles(spec, generator)
    flipped = act(spec.random(generator), x)
    found = canonical(flipped, spec)
    assert torch.equal(found.element.actions["h"].index, torch.arange(4))
    assert largest_gap(found.weights, canonical(x, spec).weights) == 0


def test_running_statistics_tell_units_apart(generator: torch.Generator) -> None:
    spec = residual()
    x = {name: torch.zeros(spec.shape(name), dtype=torch.float64) for name in spec.tensors}
    x["mean"] = torch.randn(10, generator=generator, dtype=torch.float64)
    assert torch.equal(canonical(x, spec).weights["mean"].sort().values, x["mean"].sort().values)
    moved = planted(spec, generator, x)
    assert torch.equal(canonical(moved, spec).weights["mean"], canonical(x, spec).weights["mean"])


def test_a_checkpoint_comes_back_as_one(generator: torch.Generator) -> None:
    spec = chain(symmetry="sign")
    x = draw(spec, generator)
    found = canonical(Checkpoint.of(x), spec)
    assert isinstance(found.weights, Checkpoint)
    assert largest_gap(found.weights.state_dict(), canonical(x, spec).weights) == 0
    assert "no ties" in repr(found)


def test_weights_that_are_not_finite_are_refused(generator: torch.Generator) -> None:
    x = draw(chain(), generator)
    x["1.bias"][0] = float("nan")
    with pytest.raises(
        SymmetryError, match=r"tensor '1.bias' has values that are not finite; an order of its members needs finite weights"
    ):
        canonical(x, chain())


@pytest.mark.parametrize("count", [24, pytest.param(256, marks=pytest.mark.slow)])
def test_the_files_of_a_real_orbit_have_one_representative(real_checkpoints: Path, count: int) -> None:
    files = sorted((real_checkpoints / "inr_orbit").glob("*.pth"))[:count]
    first = canonical(ws.open(files[0]).state_dict(), SIREN)
    assert len(files) == count
    for file in files[1:]:
        found = canonical(ws.open(file).state_dict(), SIREN)
        assert not found.ties and largest_gap(dict(found.weights), dict(first.weights)) < 1e-5
    unsigned = SIREN.with_groups(h0={"symmetry": "none"}, h1={"symmetry": "none"})
    assert largest_gap(dict(canonical(ws.open(files[1]).state_dict(), unsigned).weights), dict(first.weights)) > 0.01


@pytest.mark.parametrize("name", SPECS)
def test_orbit_distance_is_zero_on_an_orbit_and_symmetric(name: str, generator: torch.Generator) -> None:
    spec = SPECS[name]
    x, y = doubles(spec, generator), doubles(spec, generator)
    between = orbit_distance(x, y, spec)
    assert orbit_distance(x, planted(spec, generator, x), spec) < 1e-9 * between
    assert orbit_distance(y, x, spec) == between > 0
    moved = orbit_distance(planted(spec, generator, x), planted(spec, generator, y), spec)
    assert moved == pytest.approx(between, rel=0.05)  # the search may end elsewhere


def test_the_triangle_inequality_holds_where_the_search_is_exact(generator: torch.Generator) -> None:
    spec = chain(8, depth=1, symmetry="sign")
    for _ in range(10):
        x, y, z = (doubles(spec, generator) for _ in range(3))
        assert orbit_distance(x, z, spec) <= orbit_distance(x, y, spec) + orbit_distance(y, z, spec) + 1e-9


def test_orbit_distance_of_attention_takes_options(generator: torch.Generator) -> None:
    spec = attention()
    x, y = doubles(spec, generator), doubles(spec, generator)
    assert orbit_distance(x, y, spec, restarts=4, generator=torch.Generator().manual_seed(1)) <= orbit_distance(x, y, spec) * 1.02
