"""SANE: networks come back in their shapes, pretraining lowers the loss, and what fills up tokens counts for nothing."""

import math
from dataclasses import replace

import pytest
import torch

from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.errors import MetanetError
from weightspace.metanets import WeightSet, build
from weightspace.metanets.families.sane import Sane, nt_xent


def sane(kind: str, **settings: float) -> Sane:
    torch.manual_seed(0)
    net = build("sane", architecture(kind).spec, width=16, dim=8, layers=1, **settings)
    assert isinstance(net, Sane)
    return net


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_networks_are_reconstructed_in_their_shapes(kind: str) -> None:
    batch = architecture(kind).batch(2, dtype=torch.float32)
    back = sane(kind).reconstruct(batch)
    assert all(back.tensors[name].shape == tensor.shape for name, tensor in batch.tensors.items())
    assert back.flat().isfinite().all()


def test_pretraining_learns_to_restore_networks() -> None:
    net, batch = sane("mlp", gamma=0.05), architecture("mlp").batch(16, dtype=torch.float32)
    net.fit_inputs(WeightSet.grouped([batch]))
    assert float(net.tokens(batch).values[:, net.tokens(batch).is_real].square().mean()) == pytest.approx(1, rel=1e-3)
    optimiser, chance = torch.optim.Adam(net.parameters(), 3e-3), torch.Generator().manual_seed(0)
    lost = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = net.loss(batch, chance)
        torch.autograd.backward(loss)
        optimiser.step()
        lost.append(float(loss.detach()))
    assert sum(lost[-5:]) < 0.6 * sum(lost[:5])
    back = net.reconstruct(batch).flat().detach()
    assert float((back - batch.flat()).square().mean()) < 0.6 * float(batch.flat().square().mean())


def test_what_fills_up_tokens_is_not_restored() -> None:
    net, batch = sane("mlp", token=20, gamma=0.0), architecture("mlp").batch(2, dtype=torch.float32)
    torch.autograd.backward(net.loss(batch, torch.Generator().manual_seed(0)))
    gradient = net.leave.bias.grad
    assert gradient is not None and gradient[:6].abs().min() > 0 and not gradient[6:].any()


def test_the_loss_does_not_change_by_more_filling() -> None:
    # The same decoder but for outputs that nothing real stands in.
    short, long = sane("mlp", gamma=0.0, noise=0.0), sane("mlp", token=20, gamma=0.0, noise=0.0)
    state = short.state_dict()
    wide = {name: torch.zeros_like(tensor) for name, tensor in long.state_dict().items()}
    for name, tensor in state.items():
        wide[name][tuple(slice(size) for size in tensor.shape)] = tensor
    long.load_state_dict(wide)
    batch = architecture("mlp").batch(2, dtype=torch.float32)
    losses = [float(net.loss(batch, torch.Generator().manual_seed(0)).detach()) for net in (short, long)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_tokens_see_their_window_alone_and_no_other_network() -> None:
    net, batch = sane("mlp", window=4).double().eval(), architecture("mlp").batch(3)
    with torch.no_grad():
        latents = net.encode(net.tokens(batch))
        torch.testing.assert_close(net.encode(net.tokens(batch[1:2])), latents[1:2])
        tokens = net.tokens(batch)
        changed = tokens.values.clone()
        changed[:, 5] += 1
        moved = (net.encode(replace(tokens, values=changed)) - latents).abs().amax((0, 2)) > 1e-9
    assert moved.tolist() == [False] * 4 + [True] * 4 + [False] * 3


def test_contrast_is_small_where_views_of_one_network_are_alike() -> None:
    apart = torch.eye(4)
    assert float(nt_xent(apart, apart)) < 1e-3 < 1 < float(nt_xent(apart, apart.roll(1, 0)))
    first, second = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    lost = 0.0
    for at in range(6):
        scores = [math.exp(float(views[at] @ views[other]) / 0.5) for other in range(6)]
        lost -= math.log(scores[(at + 3) % 6] / (sum(scores) - scores[at]))
    assert float(nt_xent(first, second, 0.5)) == pytest.approx(lost / 6)


def test_rows_longer_than_a_token_are_cut() -> None:
    assert sane("mlp").token == 6 and sane("cnn").token == 19 and sane("cnn", token=5).token == 5
    batch = architecture("cnn").batch(1, dtype=torch.float32)
    assert sane("cnn", token=5)(batch).shape == (1, 8)


def test_heads_that_cannot_share_the_width_are_refused() -> None:
    with pytest.raises(MetanetError, match="width 10, which 4 heads cannot share; give a multiple of 4"):
        build("sane", architecture("mlp").spec, width=10)
