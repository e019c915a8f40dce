"""Soft merging of experts: brute force for each example, gradients, and a training that learns to route."""

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.merging.experts import SoftMergedExperts, merged_experts
from weightspace.errors import MergeError


def expert(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).eval()


def mixture() -> SoftMergedExperts:
    torch.manual_seed(9)
    return SoftMergedExperts([expert(seed) for seed in range(3)], nn.Linear(4, 3)).eval()


class Fixed(nn.Module):
    """A router that says the same of every input."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits.expand(len(inputs), -1)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_equals_brute_force_for_each_example() -> None:
    module, inputs = mixture(), draw(5, 4)
    made = module(inputs)
    for at, example in enumerate(inputs):
        shares = module.probabilities(inputs)[at]
        average = expert(0)
        states = [one.state_dict() for one in module.experts]
        average.load_state_dict(
            {
                name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
                for name in states[0]
                if "tracked" not in name
            },
            strict=False,
        )
        torch.testing.assert_close(made[at], average(example[None])[0])


def test_one_hot_routing_is_that_expert() -> None:
    experts = [expert(seed) for seed in range(3)]
    inputs = draw(5, 4)
    for at, one in enumerate(experts):
        logits = torch.full((3,), -1e9)
        logits[at] = 0
        torch.testing.assert_close(SoftMergedExperts(experts, Fixed(logits))(inputs), one(inputs))


def test_every_expert_and_the_router_get_gradients() -> None:
    module = mixture()
    module(draw(5, 4)).square().sum().backward()
    for name, one in module.named_parameters():
        assert one.grad is not None and bool(one.grad.abs().sum() > 0), name


def test_gradients_are_right() -> None:
    first, second = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    logits = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)

    def merged(first: Tensor, second: Tensor, logits: Tensor) -> Tensor:
        return merged_experts([{"w": first}, {"w": second}], logits.softmax(0))["w"]

    assert torch.autograd.gradcheck(merged, (first.detach().requires_grad_(), second.detach().requires_grad_(), logits))


def test_probabilities_of_examples_give_every_tensor_a_leading_axis() -> None:
    states = [{"w": torch.zeros(2, 3), "n": torch.tensor(4)}, {"w": torch.ones(2, 3), "n": torch.tensor(5)}]
    made = merged_experts(states, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert made["w"].shape == (2, 2, 3) and made["w"][:, 0, 0].tolist() == [0.0, 0.5] and made["n"] == 4


def test_says_what_is_wrong() -> None:
    states = [{"w": torch.zeros(2)}, {"w": torch.ones(3)}]
    with pytest.raises(MergeError, match="3 probabilities for 2 experts; give one for each"):
        merged_experts(states, torch.ones(3) / 3)
    with pytest.raises(MergeError, match="tensor 'w' is missing or of another shape in expert 1; give experts of one architecture"):
        merged_experts(states, torch.ones(2) / 2)
    with pytest.raises(MergeError, match="soft merging needs at least one expert, found none; give some"):
        SoftMergedExperts([], nn.Linear(2, 1))


def test_learns_to_route_where_one_average_cannot_serve() -> None:
    """Two kinds of inputs, told apart by one feature, want opposite maps: trained alike, an average for all gets neither."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 4, generator=generator)
    inputs[:, 0] = torch.where(torch.arange(256) % 2 == 0, 1.0, -1.0)
    targets = inputs[:, 1:] * inputs[:, :1]
    losses = []
    for router in (nn.Linear(4, 2), Fixed(torch.zeros(2))):
        torch.manual_seed(0)
        module = SoftMergedExperts([nn.Linear(4, 3), nn.Linear(4, 3)], router)
        optimizer = torch.optim.Adam(module.parameters(), 0.1)
        for _ in range(60):
            optimizer.zero_grad()
            loss = (module(inputs[:128]) - targets[:128]).square().mean()
            loss.backward()
            optimizer.step()
        losses.append((module(inputs[128:]) - targets[128:]).square().mean().item())
    routed, averaged = losses
    assert averaged > 0.8 and routed < 0.1 * averaged
