"""The basis of equivariant maps: as many as the theory counts, equivariant, and none missing."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

import weightspace as ws
from weightspace.metanets import Layout
from weightspace.metanets.equivariant import product as passes
from weightspace.metanets.equivariant.basis import Basis, foldable, partitions
from weightspace.metanets.equivariant.linear import EquivariantLinear, Pooling
from weightspace.metanets.equivariant.product import averages, product
from weightspace.spec import SymmetrySpec

TINY = {
    "mlp": SymmetrySpec.parse(
        {"1.weight": "a 2", "1.bias": "a", "2.weight": "b a", "2.bias": "b", "3.weight": "2 b", "3.bias": "2"}, sizes={"a": 3, "b": 3}
    ),
    "cnn flatten": SymmetrySpec.parse(
        {"1.weight": "a 1 2", "1.gain": "a", "2.weight": "b a 2", "fc.weight": "2 (b 2)"}, sizes={"a": 3, "b": 2}
    ),
    "residual": SymmetrySpec.parse(
        {"enter.weight": "m 2", "inner.weight": "f m", "inner.bias": "f", "back.weight": "m f", "leave.weight": "1 m"},
        sizes={"m": 3, "f": 3},
    ),
    "grouped": SymmetrySpec.parse(
        {"1.weight": "(g c) 2", "1.bias": "(g c)", "2.weight": "(g d) c", "fc.weight": "2 (g d)"},
        groups={"g": {"size": 2}, "c": {"size": 2, "per": "g"}, "d": {"size": 2, "per": "g"}},
    ),
    "lstm": SymmetrySpec.parse({"ih": "(2 h) 1", "hh": "(2 h) h", "bias": "(2 h)", "out.weight": "1 h"}, sizes={"h": 4}),
    "attention": SymmetrySpec.parse(
        {"q.weight": "(n k) m", "k.weight": "(n k) m", "v.weight": "(n v) m", "v.bias": "(n v)", "o.weight": "m (n v)"},
        groups={"m": {"size": 2}, "n": {"size": 2}, "k": {"size": 2, "per": "n"}, "v": {"size": 1, "per": "n"}},
    ),
    "grandchildren": SymmetrySpec.parse(
        {"1.weight": "(a b c) 1", "2.weight": "(a b) a"},
        groups={"a": {"size": 2}, "b": {"size": 2, "per": "a"}, "c": {"size": 2, "per": "b"}},
    ),
    "fixed heads": SymmetrySpec.parse(
        {"1.weight": "(n k) 2", "2.weight": "1 (n k)"}, groups={"n": {"size": 2, "kind": "fixed"}, "k": {"size": 3, "per": "n"}}
    ),
}
COMPLETE = [name for name in TINY if name != "fixed heads"]  # members of a fixed parent are told apart by codes, not by maps


def drawn(spec: SymmetrySpec, count: int) -> list[ws.Symmetry]:
    """Elements enough to generate the permutations of so small a spec."""
    generator = torch.Generator().manual_seed(0)
    return [spec.random(generator) for _ in range(count)]


def moves(spec: SymmetrySpec) -> list[Tensor]:
    """Where some group elements take each of all the weights, laid in one row."""
    shapes = {name: spec.shape(name) for name in spec.tensors}
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes.values())])
    state = {
        name: torch.arange(int(ends[k]), int(ends[k + 1]), dtype=torch.float64).reshape(shape)
        for k, (name, shape) in enumerate(shapes.items())
    }
    moved = [ws.act(element, state) for element in drawn(spec, 8)]
    return [torch.cat([one[name].flatten() for name in shapes]).long() for one in moved]


def orbits(spec: SymmetrySpec, *, pairs: bool) -> tuple[int, Tensor]:
    """The orbits of the weights, or of pairs of them: how many, and which one each is of.

    An equivariant matrix is one that is constant on the orbits of pairs, an invariant vector one that is on those of weights.
    """
    found = moves(spec)
    weights = len(found[0])
    ends = [(move[:, None] * weights + move[None, :]).flatten() if pairs else move for move in found]
    start = torch.arange(len(ends[0]))
    edges = torch.cat(ends).numpy(), start.repeat(len(ends)).numpy()
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(len(start), len(start)))
    count, label = connected_components(graph, directed=False)
    return int(count), torch.from_numpy(label)


def layer(spec: SymmetrySpec, pooling: Pooling = "mean") -> tuple[Layout, EquivariantLinear]:
    layout = Layout.of(spec)
    cells = {slot.key: slot.cells for slot in layout.slots}
    return layout, EquivariantLinear(Basis.of(layout, foldable(layout)), cells, cells, pooling=pooling).double()


@cache
def matrices(name: str, which: str) -> Tensor:
    """What each `weight` or `bias` of a layer of one channel does to all weights, the others zero: (maps, weights, weights)."""
    layout, net = layer(TINY[name])
    rows = []
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for key, parameter in net.named_parameters():
            for at in range(parameter.numel() if key.endswith(which) else 0):
                parameter.view(-1)[at] = 1
                rows.append(matrix(layout, net))
                parameter.view(-1)[at] = 0
    return torch.stack(rows)


def matrix(layout: Layout, net: EquivariantLinear) -> Tensor:
    sizes = [int(np.prod(layout.spec.shape(name))) for name in layout.spec.tensors]
    each = torch.split(torch.eye(sum(sizes), dtype=torch.float64), sizes, 1)
    tensors = {name: part.reshape(-1, *layout.spec.shape(name)) for name, part in zip(layout.spec.tensors, each, strict=True)}
    frames = net.basis.frames
    made = net({key: frames[key].fold(values) for key, values in layout.unfold(tensors).items()})
    folded = layout.fold({key: frames[key].unfold(values) for key, values in made.items()})
    return torch.cat([folded[name].flatten(1) for name in layout.spec.tensors], 1).T


@pytest.mark.parametrize(
    ("output", "source", "expected"), [("b a", "b a", 4), ("c b", "b a", 2), ("a", "b", 1), ("a a", "a a", 15), ("a", "a a", 5)]
)
def test_there_are_as_many_maps_as_the_product_of_bell_numbers(output: str, source: str, expected: int) -> None:
    spec = SymmetrySpec.parse({"out": output, "in": source}, sizes=dict.fromkeys({*output.split(), *source.split()}, 4))
    assert Basis.of(Layout.of(spec)).count("out", "in") == expected


@pytest.mark.parametrize("name", COMPLETE)
def test_the_basis_spans_every_equivariant_map(name: str) -> None:
    count, label = orbits(TINY[name], pairs=True)
    found = matrices(name, "weight").flatten(1)
    on_orbits = found[:, [int((label == one).nonzero()[0]) for one in range(count)]]
    assert torch.allclose(on_orbits[:, label], found, atol=1e-12)  # equivariant: constant on every orbit
    assert int(torch.linalg.matrix_rank(on_orbits)) == count


@pytest.mark.parametrize("name", ["mlp", "lstm", "residual", "cnn flatten"])
def test_no_map_of_the_basis_is_a_sum_of_others(name: str) -> None:
    assert len(matrices(name, "weight")) == orbits(TINY[name], pairs=True)[0]


@pytest.mark.parametrize("name", COMPLETE)
def test_biases_reach_every_invariant_value(name: str) -> None:
    found = matrices(name, "bias")[:, :, 0]
    assert int(torch.linalg.matrix_rank(found)) == orbits(TINY[name], pairs=False)[0]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_layer_moves_with_its_input(name: str, pooling: Pooling) -> None:
    layout, net = layer(TINY[name], pooling)
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(layout.spec.shape(key), generator=generator, dtype=torch.float64) for key in layout.spec.tensors}
    with torch.no_grad():
        plain = applied(layout, net, state)
        for element in drawn(TINY[name], 3):
            found, expected = applied(layout, net, ws.act(element, state)), ws.act(element, plain)
            assert all(torch.allclose(found[key], expected[key], atol=1e-12) for key in state)


@pytest.mark.parametrize("rectify", [False, True])
def test_the_pass_in_the_cache_is_the_plain_one(rectify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CACHED", 40)  # several chunks
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3, 4, 2), (6, 2), (5, 3, 1, 6), (5, 1, 4, 6)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def whole(values: Tensor, rows: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        same, *means = averages(values, (1, 2))
        return product(same, rows, parts, rectify=rectify), *means

    assert torch.autograd.gradcheck(whole, drawn)
    fused = whole(*drawn)
    monkeypatch.setattr(passes, "_is_fused", lambda *_: False)
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(fused, whole(*drawn), strict=True))


def applied(layout: Layout, net: EquivariantLinear, state: dict[str, Tensor]) -> dict[str, Tensor]:
    frames = net.basis.frames
    made = net({key: frames[key].fold(values) for key, values in layout.unfold({k: t[None] for k, t in state.items()}).items()})
    return {key: tensor[0] for key, tensor in layout.fold({key: frames[key].unfold(values) for key, values in made.items()}).items()}


def test_an_index_is_shared_only_inside_one_parent() -> None:
    layout = Layout.of(SymmetrySpec.parse({"w": "(g c) (g c)"}, groups={"g": {"size": 2}, "c": {"size": 2, "per": "g"}}))
    found = set(partitions(Basis.of(layout).frames["w"]))
    assert len(found) == 3  # parents apart; parents together with children apart; both together


def test_large_fixed_groups_and_those_with_children_are_not_folded() -> None:
    layout = Layout.of(TINY["fixed heads"])
    assert foldable(layout) == {"layer1.in", "layer2.out"}
    assert foldable(layout, at_most=1) == {"layer2.out"}
