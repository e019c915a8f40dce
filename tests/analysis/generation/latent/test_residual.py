"""Residual perceptrons: what they are told comes in before every block."""

from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.latent.residual import Residual, two_layers


def test_what_is_known_is_added_before_each_block() -> None:
    torch.manual_seed(0)
    made: Any = Residual(3, width=4, blocks=2, tell=lambda width: nn.Linear(2, width), is_normed=True)
    vectors, known = torch.randn(5, 3), torch.randn(5, 2)
    hidden, told = made.enter(vectors), made.tell(known)
    for block in made.blocks:
        normalised = nn.functional.layer_norm(hidden + told, (4,))
        hidden = hidden + block[3](nn.functional.silu(block[1](normalised)))
    torch.testing.assert_close(made(vectors, known), made.leave(nn.functional.layer_norm(hidden, (4,))))


def test_the_last_layer_takes_hidden_vectors_as_they_are_where_they_are_not_normed() -> None:
    made = Residual(3, width=4, blocks=0, tell=lambda width: nn.Linear(2, width), is_normed=False)
    vectors: Tensor = torch.randn(5, 3)
    torch.testing.assert_close(made(vectors, torch.randn(5, 2)), made.leave(made.enter(vectors)))


def test_two_layers_lead_to_a_width() -> None:
    assert two_layers(3, 7)(torch.randn(2, 3)).shape == (2, 7)
