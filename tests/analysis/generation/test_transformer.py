"""The transformer of generators: attention as torch has it, biased or not, and under torch.func."""

from typing import Any

import pytest
import torch
from torch import nn

from weightspace.analysis.generation.transformer import Transformer


@pytest.mark.parametrize("is_biased", [False, True])
def test_attention_is_torchs(is_biased: bool) -> None:
    torch.manual_seed(0)
    attention: Any = Transformer(8, layers=1, heads=2).attention[0]
    tokens = torch.randn(3, 5, 8)
    bias = torch.randn(3, 2, 5, 5).masked_fill(torch.rand(3, 2, 5, 5) < 0.2, -torch.inf) if is_biased else None
    query, key, value = attention.asked(attention.norm(tokens)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    torch.testing.assert_close(attention(tokens, bias), attention.made(expected.transpose(1, 2).flatten(-2)))


def test_a_bias_of_minus_infinity_hides_a_token_in_all_layers() -> None:
    torch.manual_seed(0)
    made, tokens = Transformer(8, layers=3, heads=2), torch.randn(1, 4, 8)
    bias = torch.zeros(1, 1, 4, 4)
    bias[..., 3] = -torch.inf
    torch.testing.assert_close(made(tokens, bias)[:, :3], made(tokens[:, :3]))


def test_it_can_be_mapped_over_biases() -> None:
    made, tokens, bias = Transformer(8, layers=1, heads=2), torch.randn(3, 4, 8), torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(torch.func.vmap(made)(tokens, bias), made(tokens, bias))


def test_tokens_in_any_order_give_the_same() -> None:
    transformer = Transformer(8, layers=2, heads=2)
    tokens, order = torch.randn(2, 5, 8), torch.randperm(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(transformer(tokens[:, order]), transformer(tokens)[:, order])
