"""The hypernetwork that reads images in an encoder's tokens: what it makes, what stays frozen, what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Material, Target, Wish, fit, load_generator, sample, save_generator
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.hypernetworks.encoders import Convolutions, Patches, encoder_for
from weightspace.analysis.generation.through_tasks import losses
from weightspace.errors import GenerationError, TaskError, UnknownNameError
from weightspace.task import Batch, Task

SIDE = 4
TINY: dict[str, Any] = {"dim": 16, "layers": 1, "groups": 4, "heads": 2}


class OwnEncoder(nn.Module):
    """An encoder as a user writes it: rows of the image as tokens."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.map = nn.Linear(shape[-1], 6)
        self.norm = nn.BatchNorm1d(shape[-2])

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.map(images))
        return tokens


def says_nothing(shape):  # type: ignore[no-untyped-def]  # the annotation missing is what is tested
    return OwnEncoder(shape)


def says_otherwise(shape: tuple[int, ...]) -> nn.Module:
    return None  # type: ignore[return-value]


def flat_encoder(shape: tuple[int, ...]) -> nn.Linear:
    return nn.Linear(shape[-1], 6)


def squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(outputs, batch[1])


def representation() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1))


def images(count: int, seed: int) -> Tensor:
    """Slopes, each of a direction and steepness."""
    down, right = 2 * torch.rand(2, count, 1, 1, generator=torch.Generator().manual_seed(seed)) - 1
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    slopes: Tensor = down * rows + right * columns
    return slopes


def places() -> Tensor:
    return torch.stack(torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij"), -1).flatten(0, 1)


def tasks_of(module: nn.Module, pictures: Tensor) -> list[Task]:
    return [Task(module, [(places(), one.flatten()[:, None])], squared_error) for one in pictures]


def material(count: int = 8, seed: int = 0) -> Material:
    module, pictures = representation(), images(count, seed)
    return Material(Target.of_module(module), tasks=tasks_of(module, pictures), conditions=pictures)


@pytest.mark.parametrize("form", ["masks", "deltas"])
def test_images_never_seen_are_rendered_better_than_by_the_mean_image(form: str) -> None:
    known, new = material(100), material(40, seed=1)
    fitted = fit("foundation", known, steps=100, together=16, learning_rate=5e-3, form=form, **TINY)
    made = sample(fitted, 40, Wish(new.conditions))
    rows = [{name: tensor[at] for name, tensor in made.items()} for at in range(40)]
    error = losses(new.tasks, rows, [next(iter(task.batches)) for task in new.tasks]).mean()
    assert new.conditions is not None and known.conditions is not None
    mean = (new.conditions - known.conditions.mean(0)).square().mean()
    assert error < 0.1 * mean


def test_masked_rows_have_the_norms_of_their_base() -> None:
    fitted: Any = fit("foundation", material(), steps=20, **TINY)
    made = sample(fitted, 3, Wish(images(3, 2)))
    for base, (name, tensor) in zip(fitted.base, made.items(), strict=True):
        if tensor.ndim == 3 and tensor.shape[1] > 1:
            torch.testing.assert_close(tensor.norm(dim=-1), base.norm(dim=-1).expand(3, -1))
            assert not torch.allclose(tensor[0], tensor[1]), name


def test_what_is_made_is_the_base_masked_by_what_the_heads_say() -> None:
    """One head computed by hand."""
    fitted: Any = fit("foundation", material(), steps=5, **TINY)
    image = images(1, 3)
    tokens = fitted.read(fitted.encoder(image)) + fitted.positions
    found = fitted.norm(fitted.transformer(torch.cat([tokens[0], fitted.tokens]))[len(tokens[0]) :])
    mask = 1 + torch.cat([fitted.heads[0](found[k]).view(3, 2) for k in range(4)])  # 12 units in 4 groups
    masked = fitted.base[0] * mask
    expected = masked / masked.norm(dim=1, keepdim=True) * fitted.base[0].norm(dim=1, keepdim=True)
    torch.testing.assert_close(fitted.weights(image[0])["0.weight"], expected)


def test_every_network_begins_as_the_module_of_the_first_task() -> None:
    given = material()
    fitted = fit("foundation", given, steps=0, **TINY)
    for name, tensor in sample(fitted, 2, Wish(images(2, 1))).items():
        torch.testing.assert_close(tensor[1], given.tasks[0].module.state_dict()[name])


def test_an_encoder_is_frozen_unless_it_is_to_be_tuned() -> None:
    own = f"{__name__}:OwnEncoder"
    for tuned in (False, True):
        begun: Any = make("foundation", material().target, (SIDE, SIDE), {"encoder": own, **TINY})
        fitted: Any = fit("foundation", material(), steps=3, encoder=own, tune_encoder=tuned, **TINY)
        fitted.train()
        assert not fitted.encoder.training
        assert torch.equal(fitted.encoder.norm.running_mean, begun.encoder.norm.running_mean)
        assert all(parameter.requires_grad == tuned for parameter in fitted.encoder.parameters())
        again: Any = fit("foundation", material(), steps=0, encoder=own, tune_encoder=tuned, **TINY)
        assert torch.equal(again.encoder.map.weight, fitted.encoder.map.weight) != tuned


def test_an_encoder_of_ones_own_is_saved_with_the_generator(tmp_path: Path) -> None:
    fitted = fit("foundation", material(), steps=2, encoder=f"{__name__}:OwnEncoder", **TINY)
    loaded = load_generator(save_generator(fitted, tmp_path / "generator.safetensors"), allow=[f"{__name__}:OwnEncoder"])
    one, two = (sample(each, 1, Wish(images(1, 5)[0])) for each in (fitted, loaded))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_conditions_that_are_tokens_need_no_encoder() -> None:
    encoder, tokens, size = encoder_for("torch.nn:Identity", (5, 7), patch=2, dim=8)
    assert (tokens, size) == (5, 7) and isinstance(encoder, nn.Identity)


@pytest.mark.parametrize(("shape", "tokens"), [((6,), 3), ((7,), 4), ((4, 6), 6), ((3, 4, 6), 6), ((1, 5, 5), 9)])
@pytest.mark.parametrize("name", ["patches", "random"])
def test_signals_and_images_become_tokens(name: str, shape: tuple[int, ...], tokens: int) -> None:
    encoder, count, size = encoder_for(name, shape, patch=2, dim=10)
    assert size == 10 and (count == tokens if name == "patches" else count >= tokens)
    inputs = torch.rand(3, *shape)
    torch.testing.assert_close(torch.func.vmap(lambda one: encoder(one[None])[0])(inputs), encoder(inputs))


def test_a_patch_is_mapped_by_itself() -> None:
    patches = Patches((2, 4, 6), 2, 5)
    image = torch.rand(1, 2, 4, 6)
    torch.testing.assert_close(
        patches(image)[0, 4], patches.embed(image[0, :, 2:4, 2:4].permute(1, 2, 0).flatten().view(2, 2, 2).permute(2, 0, 1).flatten())
    )
    changed = image.clone()
    changed[0, :, 0, 0] += 1
    assert (patches(changed) != patches(image)).any(-1)[0].tolist() == [True, False, False, False, False, False]


def test_random_features_see_their_neighbourhood_alone() -> None:
    encoder = Convolutions((8,), 2, 6)
    signal = torch.rand(1, 8)
    changed = signal.clone()
    changed[0, 0] += 1
    moved = (encoder(changed) != encoder(signal)).any(-1)[0]
    assert moved[0] and not moved[2:].any()


@pytest.mark.parametrize(
    ("shape", "settings", "error", "message"),
    [
        (None, {}, GenerationError, "reads an image or signal as its condition; give one with each task"),
        ((4, 4), {"form": "mask"}, UnknownNameError, "no form of generated weights named 'mask'; did you mean 'masks'"),
        ((4, 4), {"encoder": "patch"}, UnknownNameError, "no encoder named 'patch'; did you mean 'patches'"),
        ((4, 4), {"encoder": "no_such_module:encoder"}, TaskError, "no module 'no_such_module'"),
        ((4, 4), {"encoder": f"{__name__}:says_nothing"}, GenerationError, "does not say that it returns a torch.nn.Module"),
        ((4, 4), {"encoder": f"{__name__}:says_otherwise"}, GenerationError, "returned a NoneType, expected the torch.nn.Module"),
        ((4, 4), {"encoder": "os:getcwd"}, GenerationError, "does not say that it returns a torch.nn.Module"),
        ((4,), {"encoder": f"{__name__}:flat_encoder"}, GenerationError, r"made an output of shape \[1, 6\].*expected floats of shape"),
        ((4, 4), {"encoder": "torch.nn:GRU"}, GenerationError, "cannot"),
        ((1, 1, 4, 4), {}, GenerationError, r"conditions of shape \[1, 1, 4, 4\] are no signals or images"),
        ((4, 4), {"heads": 3}, GenerationError, "tokens of 64 numbers cannot have 3 heads"),
    ],
)
def test_what_cannot_be_built_is_said(
    shape: tuple[int, ...] | None, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make("foundation", material().target, shape, settings)


def test_tasks_and_conditions_have_to_be_as_many() -> None:
    given = material(4)
    uneven = Material(given.target, tasks=given.tasks[:1], conditions=given.conditions)
    assert fit("foundation", uneven, steps=1, **TINY).condition_shape == (SIDE, SIDE)  # one task for all
    object.__setattr__(uneven, "tasks", given.tasks[:3])
    with pytest.raises(GenerationError, match="4 conditions for 3 tasks; give one condition with each task"):
        fit("foundation", uneven, steps=1, **TINY)
