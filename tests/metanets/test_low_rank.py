"""Low-rank pairs: found under any library's names, with a symmetry on their rank, and decomposed without the product."""

import pytest
import torch

import weightspace as ws
from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import Layout, WeightBatch
from weightspace.metanets.low_rank import SPECTRUM, adapter_spec, factors, pairs_of, singular, spectrum

NAMES = {
    "peft": ("base_model.model.layers.0.q.lora_A.weight", "base_model.model.layers.0.q.lora_B.weight"),
    "peft embedding": ("base_model.model.wte.lora_embedding_A", "base_model.model.wte.lora_embedding_B"),
    "kohya": ("lora_unet_down_blocks_0.lora_down.weight", "lora_unet_down_blocks_0.lora_up.weight"),
    "numbered": ("unet:0:down", "unet:0:up"),
}


@pytest.mark.parametrize("library", NAMES)
def test_any_matrix_may_stand_between_two_factors(library: str) -> None:
    a, b = NAMES[library]
    state = {a: torch.randn(3, 5).double(), b: torch.randn(4, 3).double(), "bias": torch.zeros(4)}
    spec = adapter_spec(state)
    assert [(group.size, group.symmetry) for group in spec.groups.values()] == [(3, "linear")]
    moved = ws.act(spec.random(torch.Generator().manual_seed(0)), state)
    assert not torch.allclose(moved[a], state[a])
    torch.testing.assert_close(moved[b] @ moved[a], state[b] @ state[a])


def test_factors_of_kernels_are_laid_out_as_matrices_with_their_scale() -> None:
    state = {"c.lora_down.weight": torch.randn(2, 3, 3, 3), "c.lora_up.weight": torch.randn(5, 2, 1, 1), "c.alpha": torch.tensor(4.0)}
    batch = WeightBatch.stack([state], adapter_spec(state))
    (pair,) = pairs_of([batch.layout], "test")
    assert (pair.rows, pair.columns, pair.rank) == (5, 27, 2)
    b, a = factors(batch, pair)
    expected = torch.einsum("or,rikl->oikl", state["c.lora_up.weight"][..., 0, 0], state["c.lora_down.weight"]) * 2
    torch.testing.assert_close((b @ a)[0].float(), expected.flatten(1))


@pytest.mark.parametrize("shape", [(7, 3, 5), (4, 4, 4), (2, 3, 9), (6, 1, 6)])
def test_singular_values_are_those_of_the_product(shape: tuple[int, int, int]) -> None:
    rows, rank, columns = shape
    b, a = torch.randn(2, rows, rank).double(), torch.randn(2, rank, columns).double()
    found = singular(b, a)
    torch.testing.assert_close(found.u * found.s[:, None] @ found.v.mT, b @ a)
    expected = torch.linalg.svdvals(b @ a)[:, : found.s.shape[1]]
    torch.testing.assert_close(found.s, expected)


def test_rounding_adds_nothing_to_the_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(1, 40, 4, generator=generator), torch.randn(1, 4, 30, generator=generator)
    b[..., 3] = b[..., 0] + b[..., 1]
    mixing = torch.randn(4, 4, generator=generator)
    found = singular((b @ mixing).double(), (mixing.inverse() @ a).double())  # rounded to float32 on the way
    assert [int((found.s > 0).sum()), int((singular(b.double(), a.double()).s > 0).sum())] == [3, 3]


def test_a_spectrum_is_defined_for_zero_and_the_same_at_any_rank() -> None:
    assert spectrum(torch.zeros(1, 2), 4).isfinite().all()
    short, long = torch.tensor([[2.0, 1.0]]), torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(spectrum(short, 4), spectrum(long, 4)) and spectrum(short, 4).shape == (1, SPECTRUM + 4)
    flat = spectrum(torch.full((1, 3), 0.5), 3)
    assert float(flat[0, 2]) == pytest.approx(3) and float(flat[0, 3]) == 3 and not flat[0, SPECTRUM:].any()


def test_what_is_no_adapter_is_refused() -> None:
    a, b = torch.zeros(2, 5), torch.zeros(3, 2)
    with pytest.raises(MetanetError, match="no tensor is a factor of a low-rank update; give the state dict of an adapter"):
        adapter_spec({"fc.weight": a})
    with pytest.raises(MetanetError, match=r"'q.lora_A.weight' is one factor of two, the other is not there"):
        adapter_spec({"q.lora_A.weight": a})
    with pytest.raises(MetanetError, match=r"of shape \[2, 5\] and 'q.lora_B.weight' of shape \[3, 4\] have no rank in common"):
        adapter_spec({"q.lora_A.weight": a, "q.lora_B.weight": torch.zeros(3, 4)})
    mlp, lora = (Layout.of(architecture(kind).spec) for kind in ("mlp", "lora"))
    with pytest.raises(MetanetError, match="metanet 'x' reads adapters: no tensor is a factor"):
        pairs_of([mlp], "x")
    other = Layout.of(adapter_spec({"q.lora_A.weight": a, "q.lora_B.weight": b}))
    with pytest.raises(MetanetError, match="'x' reads adapters of one base, found some that differ in 'q'"):
        pairs_of([lora, other], "x")
