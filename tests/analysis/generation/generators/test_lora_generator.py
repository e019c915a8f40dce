"""Adapters under a condition: spaces that no matrix between factors changes, and what is drawn in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from weightspace.analysis.generation import Material, Target, Wish, fit, generate, sample
from weightspace.analysis.generation.adapters.factors import aligned, balanced, closed, mean_product, opened, pairs_in, sums_of_products
from weightspace.analysis.generation.adapters.spaces import SPACES, adapter_space
from weightspace.analysis.generation.fitting import make
from weightspace.errors import GenerationError, UnknownNameError
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.metanets import WeightBatch
from weightspace.metanets.low_rank import adapter_spec
from weightspace.symmetry import act

A, B, ALPHA = "model.fc.lora_A.weight", "model.fc.lora_B.weight", "model.fc.alpha"
RANK, ROWS, COLUMNS = 2, 6, 5
INVARIANT = [space for space in SPACES if space != "raw"]

Rows = list[dict[str, Tensor]]


def adapters(conditions: Tensor, seed: int = 0, alpha: float | None = None) -> Rows:
    """Updates of a rank that turn with the condition, each with an arbitrary matrix between its factors."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(9)
    left, right = torch.randn(ROWS, 2, RANK, generator=fixed), torch.randn(2, RANK, COLUMNS, generator=fixed)
    made = []
    for condition in conditions:
        turn = torch.stack([condition.cos(), condition.sin()]).flatten()
        b = torch.einsum("rtk,t->rk", left, turn)
        plain = {A: right[0] + 0.01 * torch.randn(RANK, COLUMNS, generator=generator), B: b}
        more = {} if alpha is None else {ALPHA: torch.tensor(alpha)}
        made.append(act(adapter_spec(plain).random(generator), plain) | more)
    return made


def material(conditions: Tensor, seed: int = 0, alpha: float | None = None) -> Material:
    rows = adapters(conditions, seed, alpha)
    networks = WeightBatch.stack(rows, adapter_spec(rows[0]))
    return Material(Target.of_networks(networks), networks, conditions=conditions, parents=tuple(f"{k:064x}" for k in range(len(rows))))


def networks_of(given: Material) -> WeightBatch:
    assert given.networks is not None
    return given.networks


def turns(count: int) -> Tensor:
    return torch.linspace(0, 1.5, count)[:, None]


def products(tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors[B] @ tensors[A]


def moved(networks: WeightBatch, seed: int) -> dict[str, Tensor]:
    """Other factors of the same products."""
    generator = torch.Generator().manual_seed(seed)
    rows = [{name: tensor[at] for name, tensor in networks.tensors.items()} for at in range(len(networks))]
    made = [act(adapter_spec(row).random(generator), row) for row in rows]
    return {name: torch.stack([row[name] for row in made]) for name in rows[0]}


@pytest.mark.parametrize("space", INVARIANT)
def test_no_matrix_between_the_factors_changes_what_is_learned(space: str) -> None:
    networks = networks_of(material(turns(12)))
    spaces = [adapter_space(space, Target.of_networks(networks), 4) for _ in range(2)]
    one, two = (each.learn(tensors) for each, tensors in zip(spaces, (networks.tensors, moved(networks, 3)), strict=True))
    torch.testing.assert_close(torch.cdist(one, one), torch.cdist(two, two), rtol=1e-3, atol=1e-3)
    found = [products(each.grow(rows)) for each, rows in zip(spaces, (one, two), strict=True)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_raw_factors_do_depend_on_it() -> None:
    networks = networks_of(material(turns(12)))
    spaces = [adapter_space("raw", Target.of_networks(networks), 4) for _ in range(2)]
    one, two = (each.learn(tensors) for each, tensors in zip(spaces, (networks.tensors, moved(networks, 3)), strict=True))
    assert not torch.allclose(torch.cdist(one, one), torch.cdist(two, two), rtol=0.1)


@pytest.mark.parametrize("space", SPACES)
def test_all_components_say_all_of_an_adapter(space: str) -> None:
    networks = networks_of(material(turns(6)))
    made = adapter_space(space, Target.of_networks(networks), 20)
    coordinates = made.learn(networks.tensors)
    assert coordinates.shape == (6, 20)
    torch.testing.assert_close(products(made.grow(coordinates)), products(networks.tensors), rtol=1e-3, atol=1e-3)


def test_components_of_products_are_those_of_the_products_written_out() -> None:
    networks = networks_of(material(turns(8)))
    made = adapter_space("products", Target.of_networks(networks), 3)
    coordinates = made.learn(networks.tensors)
    flat = products(networks.tensors).flatten(1)
    u, s, _ = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    torch.testing.assert_close(coordinates.abs(), (u * s)[:, :3].abs(), rtol=1e-3, atol=1e-3)


def test_balanced_factors_share_the_singular_values() -> None:
    networks = networks_of(material(turns(4)))
    [(b, a)] = opened(networks.tensors, pairs_in(Target.of_networks(networks)))
    left, right = balanced((b, a))
    torch.testing.assert_close(left @ right, b @ a)
    values = torch.linalg.svdvals(b @ a)[:, :RANK]
    torch.testing.assert_close(left.mT @ left, torch.diag_embed(values))
    torch.testing.assert_close(right @ right.mT, torch.diag_embed(values))
    assert (left.gather(1, left.abs().argmax(1, keepdim=True)) > 0).all()


def test_alignment_keeps_factors_together_where_singular_values_cross() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, RANK, generator=generator).double()).Q for size in (ROWS, COLUMNS))
    rising = torch.linspace(0, 1, 10).double()
    values = torch.stack([1 + rising, 2 - rising], 1)
    found = left * values[:, None], right.T.expand(10, -1, -1)
    spread = []
    for frame in (balanced, aligned):
        b, a = frame(found)
        torch.testing.assert_close(b @ a, found[0] @ found[1])
        torch.testing.assert_close(b.mT @ b, a @ a.mT)
        wide = torch.cat([b, a.mT], 1)
        spread.append((wide - wide.mean(0)).square().sum())
    assert spread[1] < 0.1 * spread[0]


def test_a_mean_of_products_is_the_truncated_mean() -> None:
    networks = networks_of(material(turns(5)))
    [(b, a)] = opened(networks.tensors, pairs_in(Target.of_networks(networks)))
    left, right = mean_product((b, a))
    u, s, v = torch.linalg.svd((b @ a).mean(0))
    torch.testing.assert_close((left @ right)[0], u[:, :RANK] * s[:RANK] @ v[:RANK])
    shares = torch.tensor([[1.0, 0, 0, 0, -2.0]]).double()
    left, right = sums_of_products((b, a), shares, 1)
    u, s, v = torch.linalg.svd((b @ a)[0] - 2 * (b @ a)[4])
    torch.testing.assert_close((left @ right)[0], s[0] * u[:, :1] @ v[:1])


def test_an_update_of_zero_stays_zero() -> None:
    b, a = torch.zeros(3, ROWS, RANK).double(), torch.randn(3, RANK, COLUMNS).double()
    for frame in (balanced, aligned):
        left, right = frame((b, a))
        assert not (left @ right).any() and left.isfinite().all()


def test_kernels_of_convolutions_come_back_in_their_shapes() -> None:
    tensors = {"c.lora_A.weight": torch.randn(4, 2, 3, 3, 3), "c.lora_B.weight": torch.randn(4, 5, 2, 1, 1)}
    target = Target({name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()})
    pairs = pairs_in(target)
    made = closed(opened(tensors, pairs), pairs, target)
    assert all(torch.equal(made[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("space", ["products", "aligned"])
def test_a_condition_between_those_seen_gives_its_adapter(space: str) -> None:
    fitted = fit("lora", material(turns(40)), space=space, latent=4, width=64, steps=400, noise_steps=30, learning_rate=3e-3)
    asked = torch.tensor([[0.3], [0.85], [1.2]])
    wanted = products({name: torch.stack([row[name] for row in adapters(asked, 5)]) for name in (A, B)})
    made = sample(fitted, 3, Wish(asked), generator=torch.Generator().manual_seed(1))
    known = products(networks_of(material(turns(40))).tensors)
    factors = networks_of(material(turns(40))).tensors
    raw = factors[B].mean(0) @ factors[A].mean(0)
    error = (products(made) - wanted).square().mean()
    assert error < 0.3 * (known.mean(0) - wanted).square().mean()
    assert error < 0.3 * (raw - wanted).square().mean()


def test_what_is_no_factor_is_learned_as_it_is(tmp_path: Path) -> None:
    for space in SPACES:
        fitted = fit("lora", material(turns(6), alpha=8.0), space=space, latent=3, width=8, steps=2, noise_steps=3)
        made = sample(fitted, 4, Wish(torch.tensor([0.5])))
        torch.testing.assert_close(made[ALPHA], torch.full((4,), 8.0))
        assert list(made) == list(fitted.target.shapes)


def test_what_is_drawn_opens_as_an_adapter(tmp_path: Path) -> None:
    fitted = fit("lora", material(turns(6)), latent=3, width=8, steps=2, noise_steps=3)
    [made] = generate(fitted, 1, Wish(torch.tensor([0.5])))
    assert made.recipe is not None and made.recipe["condition"] == [0.5]
    opened_again = open_checkpoint(save(made, tmp_path / "adapter_model.safetensors", {}))
    assert opened_again.kind == "adapter"
    assert {name: tuple(one.shape) for name, one in opened_again.info.items()} == dict(fitted.target.shapes)


def test_adapters_without_conditions_are_drawn_without() -> None:
    given = material(turns(6))
    fitted = fit("lora", Material(given.target, given.networks), latent=3, width=8, steps=2, noise_steps=3)
    assert sample(fitted, 2)[A].shape == (2, RANK, COLUMNS)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"latent": 0}, GenerationError, "setting 'latent' of generator 'lora' is 0; expected a whole number from 1 to"),
        ({"space": "product"}, UnknownNameError, "no space of adapters named 'product'; did you mean 'products'"),
    ],
)
def test_settings_that_cannot_be_are_said(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make("lora", material(turns(3)).target, None, settings)


def test_networks_that_are_no_adapters_are_refused() -> None:
    for shapes, why in [
        ({"fc.weight": (3, 4)}, "no tensor is a factor of a low-rank update"),
        ({A: (2, 4)}, f"'{A}' is one factor of two"),
    ]:
        with pytest.raises(GenerationError, match=f"generator 'lora' makes adapters, and was given networks that are none: .*{why}"):
            make("lora", Target(shapes), None, {})
