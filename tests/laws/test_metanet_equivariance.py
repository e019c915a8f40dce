"""Law of every metanet with features of weights: they move as the weights do."""

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.laws.test_metanet_laws import TOLERANCE, built, difference
from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.metanets import EquivariantMetaNet, Slot, WeightBatch, metanets
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import Symmetry

SOME = 4
"""Channels that are compared; all are made alike."""


def some(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: values[..., :SOME] for key, values in features.items()}


def drawn(spec: SymmetrySpec, symmetries: frozenset[str], seed: int) -> Symmetry:
    """An element of those symmetries alone; of signs and scales, where they are among them."""
    kept = {name: group.symmetry if group.symmetry in symmetries & {"sign", "scale"} else "none" for name, group in spec.groups.items()}
    spec = spec.with_groups(**{name: {"symmetry": symmetry} for name, symmetry in kept.items()})
    if "permutation" not in symmetries:
        spec = spec.with_groups(**{name: {"kind": "fixed"} for name in spec.groups})
    return spec.random(torch.Generator().manual_seed(seed))


def acted(element: Symmetry, batch: WeightBatch) -> WeightBatch:
    """The networks after an element."""
    states = [{name: tensor[at] for name, tensor in batch.tensors.items()} for at in range(len(batch))]
    return WeightBatch.stack([ws.act(element, state) for state in states], batch.spec, module=batch.module, dtype=torch.float64)


def moved_as_weights(element: Symmetry, batch: WeightBatch, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Features after an element, a channel at a time: each is laid into tensors as if it were a weight, and acted upon as one."""
    layout = batch.layout
    made: dict[str, list[Tensor]] = {key: [] for key in features}
    for channel in range(next(iter(features.values())).shape[-1]):
        values = {slot.key: _in_every_cell(slot, features[slot.key][..., channel]) for slot in layout.slots}
        tensors = layout.fold(values)
        states = [ws.act(element, {name: tensor[at] for name, tensor in tensors.items()}) for at in range(len(batch))]
        unfolded = layout.unfold({name: torch.stack([state[name] for state in states]) for name in tensors})
        for key in features:
            made[key].append(unfolded[key][..., 0])
    return {key: torch.stack(one, -1) for key, one in made.items()}


def _in_every_cell(slot: Slot, values: Tensor) -> Tensor:
    return values[..., None].expand(*values.shape, slot.cells)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", metanets)
def test_features_move_as_the_weights_do(name: str, kind: str) -> None:
    one = architecture(kind)
    net, batch = built(name, one), one.batch(2)
    if not isinstance(net, EquivariantMetaNet):
        pytest.skip(f"metanet '{name}' has vectors of networks alone")
    with torch.no_grad():
        plain = some(net.features(batch))
        for slot in batch.layout.slots:
            assert plain[slot.key].shape == (2, *batch.layout.shape(slot)[:-1], min(SOME, net.channels))
        for seed in range(2):
            element = drawn(one.spec, metanets[name].honours, seed)
            found, expected = some(net.features(acted(element, batch))), moved_as_weights(element, batch, plain)
            for key in plain:
                assert difference(found[key], expected[key]) < TOLERANCE, key
