"""Many networks in one shared space: planted orders, the objective, and cycles that close."""

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.analysis.matching.networks import ARCHITECTURES, chain, draw, heads, noisy
from weightspace.analysis.matching import match
from weightspace.analysis.matching.many import HOW, Matches, cycle_error, match_many, match_pairs, match_values
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.zoo import Added, Zoo


def tiny10() -> SymmetrySpec:
    """Eight convolutions with batch norms, and a linear layer on the mean over positions."""
    rows: dict[str, str] = {}
    for k in range(1, 9):
        rows[f"conv{k}.weight"] = f"c{k} {f'c{k - 1} ' if k > 1 else '3 '}{'1 1' if k == 8 else '3 3'}"
        rows |= {
            f"{name}": f"c{k}" for name in (f"conv{k}.bias", *(f"bn{k}.{p}" for p in ("weight", "bias", "running_mean", "running_var")))
        }
    sizes = {f"c{k}": width for k, width in enumerate((16, 16, 32, 32, 32, 64, 64, 64), 1)}
    return SymmetrySpec.parse({**rows, "fc.weight": "10 c8", "fc.bias": "10"}, sizes=sizes, statistics=[n for n in rows if "running" in n])


def pairwise(models: list[dict[str, Tensor]], found: Matches) -> float:
    """The objective from its definition."""
    moved = [act(element, model) for element, model in zip(found.elements, models, strict=True)]
    counted = [name for name in found.spec.tensors if name not in found.spec.statistics]
    return sum(float((a[name] * b[name]).sum()) for a, b in itertools.combinations(moved, 2) for name in counted)


@pytest.mark.parametrize(("name", "how"), [*((name, "universe") for name in ARCHITECTURES), *(("odd chain", how) for how in HOW[:2])])
def test_planted_elements_are_recovered_up_to_the_shared_space(name: str, how: str, generator: torch.Generator) -> None:
    spec = ARCHITECTURES[name]
    base = draw(spec, generator)
    planted = [spec.random(generator, discrete=True) for _ in range(3)]
    models = [act(element, noisy(base, 0.3, generator)) for element in planted]
    found = match_many(models, spec, how)
    for i, j in itertools.permutations(range(3), 2):
        assert (found.pair(i, j) @ planted[j] @ planted[i].inverse()).is_identity
    assert found.cycle_error == 0
    assert found.objective[-1] == pytest.approx(pairwise(models, found), rel=1e-4)
    for tensor in spec.tensors:
        moved = [act(element, model)[tensor] for element, model in zip(found.elements, models, strict=True)]
        torch.testing.assert_close(found.mean[tensor], torch.stack(moved).mean(0))


def test_each_way_is_at_least_as_good_as_the_one_before(generator: torch.Generator) -> None:
    spec = chain(16)
    base = draw(spec, generator)
    models = [act(spec.random(generator), noisy(base, 2.0, generator)) for _ in range(4)]
    best, universe = match_many(models, spec, "reference"), match_many(models, spec)
    first = match_many(models, spec, "reference", reference=0)
    assert first.reference == 0
    assert first.objective[-1] <= best.objective[-1] < universe.objective[-1]
    for found in (universe, match_many(models, spec, "merge")):
        assert all(later >= earlier for earlier, later in itertools.pairwise(found.objective))
        assert found.stopped == "no network could gain"
    assert "4 networks by universe" in repr(universe)
    assert match_many(models, spec, max_rounds=1, reference=0).stopped == "stopped after 1 rounds"


def test_networks_that_are_aligned_already_stay(generator: torch.Generator) -> None:
    spec = chain()
    base = draw(spec, generator)
    models = [noisy(base, 0.01, generator) for _ in range(3)]
    assert all(element.is_identity for element in match_many(models, spec).elements)


def test_scales_are_taken_out(generator: torch.Generator) -> None:
    spec = chain(symmetry="scale")
    base = {name: tensor.double() for name, tensor in draw(spec, generator).items()}
    models = [act(spec.random(generator), base) for _ in range(3)]
    found = match_many(models, spec, scales=True)
    moved = [act(element, model) for element, model in zip(found.elements, models, strict=True)]
    assert max(float((m[name] - moved[0][name]).abs().max()) for m in moved for name in base) < 1e-9
    assert found.cycle_error == 0


def test_independent_pairs_leave_cycles_open_and_a_shared_space_closes_them(generator: torch.Generator) -> None:
    spec = chain(16)
    models = [draw(spec, generator) for _ in range(4)]
    pairs = match_pairs(models, spec)
    assert list(pairs) == list(itertools.combinations(range(4), 2))
    assert cycle_error({pair: found.element for pair, found in pairs.items()}) > 0.5
    assert match_many(models, spec).cycle_error == 0


def test_the_cycle_error_counts_members() -> None:
    spec = chain(4, depth=1, symmetry="sign")
    still, swap, flip = (spec.element({"h0": given}) for given in ([0, 1, 2, 3], [1, 0, 2, 3], ([0, 1, 2, 3], [1.0, 1.0, 1.0, -1.0])))
    assert cycle_error({(0, 1): swap, (1, 2): swap.inverse(), (0, 2): still}) == 0
    assert cycle_error({(0, 1): swap, (1, 2): still, (0, 2): still}) == 0.5
    assert cycle_error({(0, 1): still, (1, 2): still, (2, 0): flip}) == 0.25
    assert cycle_error({(0, 1): swap}) == 0
    turned = heads().random(torch.Generator().manual_seed(0))
    assert cycle_error({(0, 1): turned, (1, 2): turned.inverse(), (0, 2): heads().identity()}) == 0
    assert cycle_error({(0, 1): turned, (1, 2): turned, (0, 2): heads().identity()}) > 0.9


@pytest.mark.slow
def test_pairs_of_checkpoints_are_the_same_on_several_processes(generator: torch.Generator, tmp_path: Path) -> None:
    spec = chain()
    files = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for file in files:
        ws.save(draw(spec, generator), file)
    models = [ws.open(file) for file in files]
    alone, together = match_pairs(models, spec, [(2, 0), (1, 2)]), match_pairs(models, spec, [(2, 0), (1, 2)], jobs=2)
    assert list(alone) == list(together) == [(2, 0), (1, 2)]
    for pair, found in alone.items():
        assert found.objective == together[pair].objective
        assert (found.element.inverse() @ together[pair].element).is_identity


def test_a_zoo_keeps_the_matches_of_all_its_pairs(generator: torch.Generator, tmp_path: Path) -> None:
    spec = chain()
    models = {name: draw(spec, generator) for name in "abc"}
    zoo = Zoo(tmp_path)
    zoo.add_many([Added(weights, name) for name, weights in models.items()])
    rows = zoo.map_pairs(partial(match_values, spec=spec), measure="match", parameters={"method": "weight"}).to_pylist()
    assert [(row["a"], row["b"]) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    found = match(models["a"], models["c"], spec)
    assert (rows[1]["reduction"], rows[1]["objective"]) == pytest.approx((found.reduction, found.objective[-1]))


def test_mistakes_are_told(generator: torch.Generator) -> None:
    spec = chain()
    x = draw(spec, generator)
    with pytest.raises(UnknownNameError, match=r"no way to match many named 'universal'; did you mean 'universe'\?"):
        match_many([x, x], spec, "universal")
    with pytest.raises(SymmetryError, match="expected two or more networks and a reference among them, found 1 and reference None"):
        match_many([x], spec)
    with pytest.raises(SymmetryError, match="found 2 and reference 2"):
        match_many([Checkpoint.of(x), x], spec, reference=2)


@pytest.mark.slow
def test_twelve_real_networks_jointly(real_checkpoints: Path) -> None:
    spec = tiny10()
    models = [ws.open(file).state_dict() for file in sorted((real_checkpoints / "drfrankenstein").glob("tiny10_*.pt"))]
    pairs = {pair: found.element for pair, found in match_pairs(models, spec).items()}
    reference, universe = match_many(models, spec, "reference"), match_many(models, spec, "universe", reference=0)
    assert len(models) == 12 and cycle_error(pairs) > 0.5
    assert universe.cycle_error == reference.cycle_error == 0
    assert universe.objective[-1] > 1.1 * reference.objective[-1]
