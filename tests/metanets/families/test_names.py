"""Names alone: one vector for all networks of an architecture, others for other sizes, depths and activations."""

import torch

from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.metanets import Layout, WeightSet, build
from weightspace.metanets.families.names import sizes


def test_weights_make_no_difference_and_architectures_do() -> None:
    torch.manual_seed(0)
    batches = [architecture(kind).batch(2) for kind in ARCHITECTURES]
    net = build("names", [batch.spec for batch in batches]).double()
    net.fit_inputs(WeightSet.grouped(batches))
    with torch.no_grad():
        vectors = torch.stack([net(batch) for batch in batches])
    torch.testing.assert_close(vectors[:, 0], vectors[:, 1])
    distances = torch.cdist(vectors[:, 0], vectors[:, 0]) + 1e3 * torch.eye(len(batches))
    assert float(distances.min()) > 1e-3


def test_widths_stand_along_the_depth() -> None:
    profile = (sizes(Layout.of(architecture("mlp").spec))[-16:].exp() - 1).round().tolist()
    assert profile[:2] == [3, 5] and profile[-2:] == [4, 2] and set(profile) == {2, 3, 4, 5}
