"""Probing: every symmetry of the function, inputs of any shape, positions averaged, and clear words where sizes differ."""

from dataclasses import replace

import pytest
import torch

from tests.laws.test_metanet_laws import difference, moved
from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import WeightSet, build
from weightspace.metanets.families.probegen import EVERY, Probing

KINDS = {"cnn": (2, 5, 5), "grouped": (2, 4), "transformer": (4, 3), "lstm": (4, 3), "residual": (3,)}


@pytest.mark.parametrize("name", ["probegen", "probe_noise"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_preserves_the_function_preserves_the_vectors(name: str, kind: str) -> None:
    torch.manual_seed(0)
    one = architecture(kind)
    net, batch = build(name, one.spec, inputs=KINDS[kind], outputs=2, probes=5).double().eval(), one.batch(2)
    with torch.no_grad():
        expected = net(batch)
        assert difference(expected[:1], expected[1:]) > 1e-3
        for seed in range(2):
            assert difference(net(moved(one, batch, frozenset(EVERY), seed)), expected) < 1e-5


def test_probes_are_learned_by_the_one_and_not_by_the_other() -> None:
    mlp = architecture("mlp")
    learned, fixed = build("probegen", mlp.spec), build("probe_noise", mlp.spec)
    learned(mlp.batch(2, dtype=torch.float32)).sum().backward()
    gradients = {name: one.grad for name, one in learned.named_parameters() if name.startswith("probes")}
    assert len(gradients) == 5 and all(one is not None and one.abs().sum() > 0 for one in gradients.values())
    assert not [name for name, _ in fixed.named_parameters() if name.startswith("probes")]


def test_outputs_are_standardised_over_the_networks_trained_on() -> None:
    torch.manual_seed(0)
    mlp = architecture("mlp")
    net, batch = build("probe_noise", mlp.spec), mlp.batch(20, dtype=torch.float32)
    assert isinstance(net, Probing)
    scaled = replace(batch, tensors={**batch.tensors, "fc3.weight": batch.tensors["fc3.weight"] * 1e4})
    net.fit_inputs(WeightSet.grouped([scaled]))
    made = net.standardise(net.answers(scaled).flatten(0, 1))
    torch.testing.assert_close(made.std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)


def test_positions_of_a_sequence_are_averaged() -> None:
    one = architecture("transformer")
    net, batch = build("probegen", one.spec, inputs=[4, 3], probes=5).double(), one.batch(2)
    assert isinstance(net, Probing) and net.answers(batch).shape == (2, 5, 2)


def test_networks_of_other_sizes_are_refused() -> None:
    mlp, siren = architecture("mlp"), architecture("siren")
    net = build("probegen", mlp.spec)
    with pytest.raises(MetanetError, match="cannot be run on inputs"):
        net(siren.batch(1, dtype=torch.float32))
    net = build("probegen", mlp.spec, outputs=5)
    with pytest.raises(MetanetError, match=r"returned \[64, 2\] for 64 probes, expected 5 outputs"):
        net(mlp.batch(1, dtype=torch.float32))
