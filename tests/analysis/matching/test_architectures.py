"""Weight matching on the architectures people have: planted elements come back, real pairs are matched as well as published."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.analysis.matching.reference import objective, published_coordinate_descent
from tests.families import TINY, Tiny, Tiny10
from weightspace.analysis.matching import match
from weightspace.axes import leaves
from weightspace.proof import function_change
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

FAMILIES = ("gpt2", "llama", "bert_classifier", "vit", "t5", "clip", "convnext", "resnet_transformers")
REAL = ("tiny10_cifar10_seed00.pt", "resnet20_cifar10_seed0.pt")


@cache
def traced(name: str) -> tuple[Tiny, SymmetrySpec]:
    """A small network of a family, and its spec as derived."""
    tiny = TINY[name]()
    return tiny, ws.trace(tiny.module, *tiny.inputs, prove=False)


def redrawn(module: torch.nn.Module, spec: SymmetrySpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights with norms that are not trivial; tied tensors stay tied."""
    drawn = {name: torch.randn(spec.shape(name), generator=generator) for name in spec.tensors}
    drawn = {name: tensor.abs() + 0.5 if name.endswith("running_var") else tensor for name, tensor in drawn.items()}
    return {
        name: drawn[spec.aliases.get(name, name)] if spec.aliases.get(name, name) in drawn else t for name, t in module.state_dict().items()
    }


def noisy(weights: Mapping[str, Tensor], spec: SymmetrySpec, share: float, generator: torch.Generator) -> dict[str, Tensor]:
    """The weights with noise of a share of each tensor's own deviation, statistics and integers left alone; ties kept."""
    made: dict[int, Tensor] = {}
    for name, tensor in weights.items():
        still = name in spec.statistics or not tensor.is_floating_point() or tensor.numel() < 2
        made.setdefault(id(tensor), tensor if still else tensor + share * tensor.std() * torch.randn(tensor.shape, generator=generator))
    return {name: made[id(tensor)] for name, tensor in weights.items()}


def recovered(a: Mapping[str, Tensor], spec: SymmetrySpec, share: float, seed: int) -> bool:
    """Whether an element planted in a noisy copy is found, but for members that are reported to be exchangeable."""
    generator = torch.Generator().manual_seed(seed)
    planted = spec.random(generator, discrete=True)
    found = match(a, noisy(act(planted, a), spec, share, generator), spec)
    both = found.element @ planted
    wrong = {g: int((x.index != torch.arange(x.index.shape[-1])).sum()) for g, x in both.actions.items()}
    return all(count <= found.ties.get(group, 0) for group, count in wrong.items()) and (bool(found.ties) or both.is_identity)


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 10), marks=pytest.mark.slow)], ids=["one", "more"])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", FAMILIES)
def test_planted_elements_come_back(name: str, share: float, seeds: range) -> None:
    tiny, spec = traced(name)
    for seed in seeds:
        a = redrawn(tiny.module, spec, torch.Generator().manual_seed(100 + seed))
        assert recovered(a, spec, share, seed), f"seed {seed}"


def test_a_turned_stream_comes_back_once_gains_are_folded() -> None:
    """The residual stream of a Llama, turned by an orthogonal matrix, with permutations inside the blocks."""
    tiny, spec = traced("llama")
    generator = torch.Generator().manual_seed(0)
    a = ws.fold(redrawn(tiny.module, spec, generator), spec)
    (stream,) = {leaf.group for gain in spec.gains for axis in spec.axes(gain) for leaf in leaves(axis)}
    turn = torch.linalg.qr(torch.randn(48, 48, generator=generator, dtype=torch.float64))[0]
    planted = spec.folded.element({stream: turn}) @ spec.folded.random(generator, discrete=True)
    b = act(planted, a)
    assert function_change(tiny.module, a, b, *tiny.inputs) < 1e-5
    found, permuted = match(a, b, spec.folded, matrices=True), match(a, b, spec.folded)
    assert found.l2_after < 1e-4 * found.l2_before
    assert permuted.l2_after > 0.5 * permuted.l2_before


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", REAL)
def test_planted_elements_come_back_on_real_networks(real_checkpoints: Path, name: str, share: float) -> None:
    checkpoint = ws.open(real_checkpoints / "drfrankenstein" / name)
    spec, weights = ws.spec_for(checkpoint), checkpoint.state_dict()
    for seed in range(10):
        assert recovered(weights, spec, share, seed), f"seed {seed}"


def pair(folder: Path, kind: str, i: int, j: int) -> tuple[dict[str, Tensor], dict[str, Tensor], SymmetrySpec]:
    digits = 2 if kind == "tiny10" else 1
    a, b = (ws.open(folder / "drfrankenstein" / f"{kind}_cifar10_seed{k:0{digits}}.pt") for k in (i, j))
    return a.state_dict(), b.state_dict(), ws.spec_for(a)


SEEDS = range(3)
PAIRS = [("tiny10", i, j) for i in range(12) for j in range(i)] + [("resnet20", 0, 1)]


@pytest.mark.parametrize(("kind", "i", "j"), [pytest.param(*one, marks=[] if one[1:] == (3, 2) else pytest.mark.slow) for one in PAIRS])
def test_real_pairs_are_matched_as_well_as_by_the_published_descent(real_checkpoints: Path, kind: str, i: int, j: int) -> None:
    a, b, spec = pair(real_checkpoints, kind, i, j)
    ours = median(objective(a, act(match(a, b, spec, generator=torch.Generator().manual_seed(s)).element, b), spec) for s in SEEDS)
    published = median(published_coordinate_descent(a, b, spec, torch.Generator().manual_seed(s))[1] for s in SEEDS)
    assert ours >= published


def test_aligned_batch_norm_networks_compute_what_they_did(real_checkpoints: Path) -> None:
    """Where peers leave running statistics behind, the outputs change by a quarter of their size."""
    a, b, spec = pair(real_checkpoints, "tiny10", 0, 1)
    found = match(a, b, spec)
    network = Tiny10([a[f"conv{at}.weight"].shape[0] for at in range(1, 9)], len(a["fc.bias"]))
    network.load_state_dict(a)
    assert function_change(network, b, act(found.element, b), torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))) < 1e-9
