"""Editing: weights changed by an equivariant metanet's features."""

from dataclasses import replace

import pytest
import torch

import weightspace as ws
from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import Editor, EquivariantMetaNet, WeightBatch, build, metanets


def editor(name: str, kind: str = "tanh mlp") -> Editor:
    torch.manual_seed(0)
    try:
        net = build(name, architecture(kind).spec)
    except MetanetError as error:
        pytest.skip(str(error))
    if not isinstance(net, EquivariantMetaNet):
        pytest.skip(f"'{name}' has no features of single weights")
    return Editor(net, architecture(kind).batch(1), scale=1.0).double()


@pytest.mark.parametrize("name", metanets)
def test_editing_moved_networks_gives_the_edited_ones_moved(name: str) -> None:
    kind = architecture("tanh mlp")
    made, batch = editor(name), kind.batch(2)
    plain = {} if "sign" in metanets[name].honours else {group: {"symmetry": "none"} for group in kind.spec.groups}
    element = kind.spec.with_groups(**plain).random(torch.Generator().manual_seed(1))
    with torch.no_grad():
        moved = WeightBatch(batch.layout, {k: torch.stack([_act(element, batch, at)[k] for at in range(2)]) for k in batch.tensors})
        edited, expected = made(moved), made(batch)
        assert any(not torch.allclose(expected.tensors[k], batch.tensors[k]) for k in batch.tensors)
        for at in range(2):
            for tensor, values in _act(element, expected, at).items():
                assert torch.allclose(edited.tensors[tensor][at], values, atol=1e-8)


def _act(element: ws.Symmetry, batch: WeightBatch, at: int) -> dict[str, torch.Tensor]:
    return dict(ws.act(element, {tensor: values[at] for tensor, values in batch.tensors.items()}))


def test_an_editor_learns_to_halve_one_layer() -> None:
    kind = architecture("mlp")
    made, batch = editor("gmn", "mlp").float(), kind.batch(16, dtype=torch.float32)
    wanted = {tensor: values * (0.5 if tensor == "fc2.weight" else 1) for tensor, values in batch.tensors.items()}
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        edited = made(batch).tensors
        loss = torch.stack([((edited[tensor] - wanted[tensor]) ** 2).mean() for tensor in wanted]).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 5


def test_statistics_stay_and_unknown_kinds_are_refused() -> None:
    cnn = architecture("cnn")
    batch = cnn.batch(2)
    made = Editor(build("gmn", cnn.spec), batch, scale=1.0).double()  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(made(batch).tensors["bn1.running_var"], batch.tensors["bn1.running_var"])
    small = architecture("mlp").batch(1)
    other = Editor(build("gmn", cnn.spec), small).double()  # type: ignore[arg-type]
    with pytest.raises(MetanetError, match="is of a kind that the editor's example did not have"), torch.no_grad():
        other(replace(batch))
