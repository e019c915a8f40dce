"""ScaleGMN: vectors that signs and scales leave alone, features that move with the weights, and real networks of one orbit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import EquivariantMetaNet, WeightBatch, build
from weightspace.metanets.graphs.gauge import measure
from weightspace.spec import SymmetrySpec

SIREN = SymmetrySpec.parse(
    {
        "seq.0.weight": "h0 in",
        "seq.0.bias": "h0",
        "seq.1.weight": "h1 h0'",
        "seq.1.bias": "h1",
        "seq.2.weight": "out h1'",
        "seq.2.bias": "out",
    },
    groups={
        "h0": {"size": 32, "symmetry": "sign"},
        "h1": {"size": 32, "symmetry": "sign"},
        "in": {"size": 2, "kind": "fixed"},
        "out": {"size": 1, "kind": "fixed"},
    },
)
"""Of the networks in `inr_orbit`; the sine of a sum that is flipped is flipped."""

ODD = {
    "powers of scales": SymmetrySpec.parse(
        {"c.weight": "h in 3", "n.weight": "h^0", "n.bias": "h", "n.running_mean": "h", "n.running_var": "h^2", "out.weight": "2 h'"},
        groups={"h": {"size": 4, "symmetry": "scale"}, "in": {"size": 2, "kind": "fixed"}},
    ),
    "powers of signs": SymmetrySpec.parse(
        {"a.weight": "h 3", "a.gain": "h^0", "a.running_var": "h^2", "b.weight": "g h'^2", "b.bias": "g", "c.weight": "2 g'"},
        groups={"h": {"size": 4, "symmetry": "sign"}, "g": {"size": 3, "symmetry": "scale"}},
    ),
    "signs of parents": SymmetrySpec.parse(
        {"v.weight": "(head d) in", "v.bias": "(head d)", "o.weight": "out (head' d')", "s.scale": "head"},
        groups={
            "head": {"size": 2, "symmetry": "sign"},
            "d": {"size": 3, "symmetry": "sign", "per": "head"},
            "in": {"size": 2, "kind": "fixed"},
            "out": {"size": 2, "kind": "fixed"},
        },
    ),
    "scales of parents": SymmetrySpec.parse(
        {"v.weight": "(head d) in", "v.bias": "(head d)", "o.weight": "out (head' d')", "s.scale": "head"},
        groups={
            "head": {"size": 2, "symmetry": "scale"},
            "d": {"size": 3, "symmetry": "scale", "per": "head"},
            "in": {"size": 2, "kind": "fixed"},
            "out": {"size": 2, "kind": "fixed"},
        },
    ),
    "pairs": SymmetrySpec.parse(
        {"a.weight": "h 3", "b.weight": "g 3", "t.weight": "2 h' g'", "t.bias": "2", "t.scale": ""},
        groups={"h": {"size": 4, "symmetry": "sign"}, "g": {"size": 3, "symmetry": "scale"}},
    ),
}


def net_of(spec: SymmetrySpec, dtype: torch.dtype = torch.float64) -> EquivariantMetaNet:
    torch.manual_seed(0)
    net = build("scalegmn", spec).to(dtype).eval()
    assert isinstance(net, EquivariantMetaNet)
    return net


def drawn(spec: SymmetrySpec, count: int) -> WeightBatch:
    generator = torch.Generator().manual_seed(0)
    states = [
        {name: torch.randn(spec.shape(name), generator=generator, dtype=torch.float64) for name in spec.tensors} for _ in range(count)
    ]
    return WeightBatch.stack(states, spec, dtype=torch.float64)


def moved(spec: SymmetrySpec, batch: WeightBatch, seed: int = 0) -> WeightBatch:
    """The networks after a permutation, and after signs and scales where the metanet honours them."""
    honoured = {
        name: {"symmetry": group.symmetry if group.symmetry in ("sign", "scale") else "none"} for name, group in spec.groups.items()
    }
    element = spec.with_groups(**honoured).random(torch.Generator().manual_seed(seed))
    states = [ws.act(element, {name: tensor[at] for name, tensor in batch.tensors.items()}) for at in range(len(batch))]
    return WeightBatch.stack(states, spec, dtype=torch.float64)


def as_weights(batch: WeightBatch, features: dict[str, Tensor], channel: int) -> WeightBatch:
    """One channel of the features, put where the weights were."""
    slots = {key: features[key][..., channel, None].expand_as(values) for key, values in batch.slots.items()}
    return WeightBatch(batch.layout, batch.layout.fold(slots))


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("kind", ["mlp", "tanh mlp", "siren", "cnn", "grouped", "residual", "lstm", "transformer"])
def test_features_move_with_the_weights(kind: str) -> None:
    one = architecture(kind)
    net, batch = net_of(one.spec), one.batch(2)
    with torch.no_grad():
        before, after = net.features(batch), net.features(moved(one.spec, batch))
    for channel in (0, 5):
        expected = moved(one.spec, as_weights(batch, before, channel))
        for key, values in expected.slots.items():
            assert gap(after[key][..., channel], values[..., 0]) < 1e-9, key


@pytest.mark.parametrize("name", ODD)
def test_other_powers_parents_and_pairs(name: str) -> None:
    spec = ODD[name]
    net, batch = net_of(spec), drawn(spec, 3)
    with torch.no_grad():
        expected, features = net(batch), net.features(batch)
        for seed in range(3):
            other = moved(spec, batch, seed)
            assert gap(net(other), expected) < 1e-9
            found = net.features(other)
            for key, values in moved(spec, as_weights(batch, features, 3), seed).slots.items():
                assert gap(found[key][..., 3], values[..., 0]) < 1e-9, key
    assert gap(expected[:1], expected[1:2]) > 1e-3


def test_a_silent_neuron_has_no_singularity() -> None:
    one = architecture("mlp")
    state = one.networks(1)[0]
    state["fc1.weight"][1], state["fc1.bias"][1] = 0.0, 0.0
    batch = WeightBatch.stack([state], one.spec, dtype=torch.float64)
    net = net_of(one.spec)
    expected = net(batch)
    expected.square().sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())
    assert gap(net(moved(one.spec, batch)), expected) < 1e-9


def test_scales_are_norms_of_what_makes_a_neuron() -> None:
    one = architecture("wide mlp")
    batch = one.batch(2)
    expected = (batch.tensors["fc1.weight"].square().sum(2) + batch.tensors["fc1.bias"].square()).sqrt()
    assert torch.allclose(measure(batch.layout, batch.slots)["fc1"], expected)


def test_scales_in_a_circle_are_refused() -> None:
    groups = {"g": {"size": 2, "symmetry": "scale"}, "h": {"size": 3, "symmetry": "scale"}}
    spec = SymmetrySpec.parse({"a.weight": "h g'", "b.weight": "g h'"}, groups=groups)
    with pytest.raises(MetanetError, match="neuron groups 'g', 'h' scale each other in a circle, so their scales cannot be measured; give"):
        build("scalegmn", spec)


WHOLE = (256, torch.float32), (256, torch.float64)


@pytest.mark.parametrize(("count", "dtype"), [(32, torch.float32), *(pytest.param(*one, marks=pytest.mark.slow) for one in WHOLE)])
def test_a_real_orbit_has_one_embedding(real_checkpoints: Path, count: int, dtype: torch.dtype) -> None:
    batch, net = orbit(real_checkpoints, dtype, count), net_of(SIREN, dtype)
    assert len(batch) == count
    with torch.no_grad():
        found = net(batch)
    assert float((found - found[0]).norm(dim=1).max() / found[0].norm()) < 1e-4


@pytest.mark.parametrize("name", ["neural_graph", "neural_graph_transformer"])
def test_a_real_orbit_has_many_embeddings_where_signs_are_not_honoured(real_checkpoints: Path, name: str) -> None:
    torch.manual_seed(0)
    net = build(name, SIREN).eval()
    with torch.no_grad():
        found = net(orbit(real_checkpoints, torch.float32, 8))
    assert float((found - found[0]).norm(dim=1)[1:].min() / found[0].norm()) > 1e-3


def orbit(folder: Path, dtype: torch.dtype, count: int) -> WeightBatch:
    files = sorted((folder / "inr_orbit").glob("orbit_*.pth"))[:count]
    return WeightBatch.stack([ws.open(file).state_dict() for file in files], SIREN, dtype=dtype)
