"""HuRef's products: unchanged by the symmetries of transformers, equal to the definition, refused where they cannot be formed."""

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.analysis.fingerprints import similarity
from weightspace.analysis.fingerprints.huref import huref
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.symmetry import act

CONFIG = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 12, "model_type": "llama"}


def decoder(generator: torch.Generator, heads: int = 4, shared: int = 2) -> dict[str, Tensor]:
    """Weights by the names of Llama: two blocks, heads of size 3."""
    rows: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (30, 12), "model.norm.weight": (12,), "lm_head.weight": (30, 12)}
    for block in range(2):
        inside = f"model.layers.{block}"
        rows |= {f"{inside}.self_attn.{part}_proj.weight": (3 * heads if part == "q" else 3 * shared, 12) for part in "qkv"}
        rows |= {f"{inside}.self_attn.o_proj.weight": (12, 3 * heads), f"{inside}.mlp.down_proj.weight": (12, 20)}
        rows |= {f"{inside}.mlp.{part}_proj.weight": (20, 12) for part in ("gate", "up")}
        rows |= {f"{inside}.{norm}.weight": (12,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return {name: torch.randn(shape, generator=generator).double() for name, shape in rows.items()}


def test_products_are_the_definition(generator: torch.Generator) -> None:
    x = decoder(generator, shared=4)
    found = huref(Checkpoint.of(x), tokens=[3, 7, 29])
    e = x["model.embed_tokens.weight"][[3, 7, 29]]
    inside = "model.layers.1"
    q, k, v, o = (x[f"{inside}.self_attn.{part}_proj.weight"] for part in "qkvo")
    assert found.shape == (6, 3, 3)
    torch.testing.assert_close(found[3], e @ q.T @ k @ e.T)
    torch.testing.assert_close(found[4], e @ o @ v @ e.T)
    torch.testing.assert_close(found[5], e @ x[f"{inside}.mlp.down_proj.weight"] @ x[f"{inside}.mlp.up_proj.weight"] @ e.T)
    torch.testing.assert_close(huref(Checkpoint.of(x), tokens=[3, 7, 29], blocks=[inside]), found[3:])


def test_shared_heads_are_repeated_and_symmetries_change_nothing(generator: torch.Generator) -> None:
    x = decoder(generator)
    order = torch.randperm(12, generator=generator)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    moved = {}
    for name, tensor in x.items():
        moved[name] = tensor[order] if "o_proj" in name or "down_proj" in name or tensor.ndim == 1 else tensor[:, order]
    for block in range(2):
        for part, matrix in (("q", turned), ("k", turned)):
            name = f"model.layers.{block}.self_attn.{part}_proj.weight"
            moved[name] = (matrix @ moved[name].view(-1, 3, 12)).reshape(moved[name].shape)
        up, down = (f"model.layers.{block}.mlp.{part}_proj.weight" for part in ("up", "down"))
        units = torch.randperm(20, generator=generator)
        moved[up], moved[down] = moved[up][units] * 4, moved[down][:, units] / 4
    one, two = (huref(Checkpoint.of(weights), tokens=8, head_size=3) for weights in (x, moved))
    torch.testing.assert_close(one, two)
    other = huref(Checkpoint.of(decoder(generator)), tokens=8, head_size=3)
    assert abs(similarity(one.flatten(), other.flatten())) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta", "gpt_neox"])
def test_families(family: str, generator: torch.Generator) -> None:
    from tests.families import TINY

    tiny = TINY[family]()
    state = {name: tensor.double() for name, tensor in tiny.module.model.state_dict().items() if tensor.is_floating_point()}  # type: ignore[union-attr]
    moved = act(ws.spec_for(state, tiny.config).random(generator), state)
    size = 16 if family == "gpt_neox" else 8
    one, two = (huref(Checkpoint.of(dict(weights)), head_size=size) for weights in (state, moved))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    assert len(one) == 6


def test_messages(generator: torch.Generator) -> None:
    x = decoder(generator)
    with pytest.raises(AnalysisError, match=r"k_proj.weight' has 6 rows for 12, so heads share keys and values; say the size of a head"):
        huref(Checkpoint.of(x))
    with pytest.raises(UnknownNameError, match=r"no block named 'model.layers.7'; did you mean 'model.layers.1'"):
        huref(Checkpoint.of(x), blocks=["model.layers.7"])
    with pytest.raises(AnalysisError, match="expected tokens from 0 to 29, found 30"):
        huref(Checkpoint.of(x), tokens=[30])
    with pytest.raises(AnalysisError, match="expected a table of embeddings by its name, found none; use fingerprint instead"):
        huref(Checkpoint.of({"fc.weight": torch.ones(3, 2)}))
    with pytest.raises(AnalysisError, match="expected layers of attention or of feed-forward blocks by their names, found none"):
        huref(Checkpoint.of({"embed.weight": torch.ones(5, 2), "fc.weight": torch.ones(3, 2)}))
    with pytest.raises(AnalysisError, match="some weights are not finite"):
        huref(Checkpoint.of({name: tensor * torch.nan for name, tensor in x.items()}), head_size=3)
    fused = {"embed.weight": torch.ones(5, 4), "h.0.attention.query_key_value.weight": torch.ones(12, 4)}
    with pytest.raises(AnalysisError, match="holds queries, keys and values head by head; say the size of a head that divides its 12 rows"):
        huref(Checkpoint.of(fused))
