"""Neural graphs: what both readers tell apart, what they take from messages, and settings that cannot be."""

import pytest
import torch

from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import EquivariantMetaNet, WeightBatch, build
from weightspace.metanets.families.neural_graph_transformer import NeuralGraphTransformer
from weightspace.metanets.graphs.aggregation import AGGREGATES, aggregate, degrees
from weightspace.metanets.graphs.paths import DenseGraphs
from weightspace.spec import SymmetrySpec

NAMES = ("neural_graph", "neural_graph_transformer")


def net_of(name: str, spec: SymmetrySpec, **settings: object) -> EquivariantMetaNet:
    torch.manual_seed(0)
    net = build(name, spec, **settings).double().eval()
    assert isinstance(net, EquivariantMetaNet)
    return net


@pytest.mark.parametrize("name", NAMES)
def test_features_move_with_the_weights(name: str) -> None:
    one = architecture("mlp")
    net, batch = net_of(name, one.spec), one.batch(2)
    order = torch.tensor([2, 0, 4, 1, 3])
    moved = {
        key: values[:, order] if key in ("fc1.weight", "fc1.bias") else values[:, :, order] if key == "fc2.weight" else values
        for key, values in batch.slots.items()
    }
    with torch.no_grad():
        before, after = net.features(batch), net.features(WeightBatch(batch.layout, batch.layout.fold(moved)))
    assert torch.allclose(after["fc1.weight"], before["fc1.weight"][:, order])
    assert torch.allclose(after["fc2.weight"], before["fc2.weight"][:, :, order])
    assert torch.allclose(after["fc3.weight"], before["fc3.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_a_bias_of_zero_is_not_an_absent_one(name: str) -> None:
    weight, bias = {"a.weight": "h 3", "b.weight": "2 h'"}, {"a.bias": "h"}
    bare, biased = (SymmetrySpec.parse(given, sizes={"h": 4}) for given in (weight, {**weight, **bias}))
    state = {"a.weight": torch.ones(4, 3), "b.weight": torch.ones(2, 4), "a.bias": torch.zeros(4)}
    net = net_of(name, bare)
    with torch.no_grad():
        found = [net(WeightBatch.stack([{key: state[key] for key in spec.tensors}], spec, dtype=torch.float64)) for spec in (bare, biased)]
    assert all(vector.isfinite().all() for vector in found)
    assert float((found[0] - found[1]).norm() / found[0].norm()) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_outputs_are_told_apart(name: str) -> None:
    one = architecture("mlp")
    net, batch = net_of(name, one.spec), one.batch(2)
    for key, dim in (("fc1.weight", 2), ("fc3.weight", 1)):
        swapped = {**batch.slots, key: batch.slots[key].flip(dim)}
        with torch.no_grad():
            found, expected = net(WeightBatch(batch.layout, batch.layout.fold(swapped))), net(batch)
        assert float((found - expected).norm() / expected.norm()) > 1e-5


def test_gathered_messages_are_mean_extremes_and_deviation_with_the_derivatives_of_torch() -> None:
    graphs = DenseGraphs(architecture("lstm").batch(2))
    generator = torch.Generator().manual_seed(0)
    messages = [torch.randn((*values.shape[:-1], 3), generator=generator, dtype=torch.float64) for values in graphs.values]
    factor = torch.randn(3 * AGGREGATES, generator=generator, dtype=torch.float64)
    for back in (False, True):
        gather, degree = (graphs.to_sources if back else graphs.to_targets), degrees(graphs, back=back)
        given = [message.clone().requires_grad_() for message in messages]
        found = aggregate(graphs, given, degree, back=back)
        (found @ factor).sum().backward()  # type: ignore[no-untyped-call]
        again = [message.clone().requires_grad_() for message in messages]
        mean, count = gather(again, "mean"), degree.clamp_min(1)
        variance = gather([message.square() for message in again], "sum") / count - (gather(again, "sum") / count).square()
        plain = torch.cat([mean, gather(again, "min"), gather(again, "max"), (variance.clamp_min(0) + 1e-5).sqrt()], -1)
        expected = torch.cat([plain, plain * degree.log1p()], -1)
        (expected @ factor).sum().backward()  # type: ignore[no-untyped-call]
        assert torch.allclose(found, expected)
        for one, other in zip(given, again, strict=True):
            assert one.grad is not None and other.grad is not None and torch.allclose(one.grad, other.grad)


def test_messages_that_tie_share_the_derivative_of_the_largest() -> None:
    graphs = DenseGraphs(architecture("lstm").batch(2))
    messages = [torch.ones((*values.shape[:-1], 3), dtype=torch.float64, requires_grad=True) for values in graphs.values]
    degree = degrees(graphs)
    aggregate(graphs, messages, degree)[..., 6:9].sum().backward()  # type: ignore[no-untyped-call]
    for message, count in zip(messages, graphs.from_targets(degree), strict=True):
        assert message.grad is not None and torch.allclose(message.grad, (1 / count).expand_as(message))


def test_attention_goes_along_weights_only() -> None:
    """A change of one output's weights does not reach the other output in one round."""
    spec = SymmetrySpec.parse({"a.weight": "2 3"})
    generator = torch.Generator().manual_seed(0)
    state = {"a.weight": torch.randn(2, 3, generator=generator)}
    other = {"a.weight": state["a.weight"].clone()}
    other["a.weight"][1] = other["a.weight"][1].roll(1)  # keeps the root mean square of the slot
    net = net_of("neural_graph_transformer", spec, layers=1)
    assert isinstance(net, NeuralGraphTransformer)
    with torch.no_grad():
        nodes = [net._read(DenseGraphs(WeightBatch.stack([one], spec, dtype=torch.float64)))[0][0] for one in (state, other)]
    changed = (nodes[0] - nodes[1]).abs().amax(1) > 1e-9
    assert sorted(changed[:5].tolist()) == [False, True, True, True, True]  # the first output alone hears nothing of it


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(MetanetError, match="expected heads that divide the channels, found heads=3 and channels=64; change one"):
        build("neural_graph_transformer", architecture("mlp").spec, heads=3)
