"""The source of chance: the default, one of another kind, and one on another device."""

from typing import Any

import pytest
import torch

from weightspace.analysis.generation.chance import chance


def test_the_default_starts_from_seed_0_and_one_on_the_cpu_is_taken_as_it_is() -> None:
    assert chance(None).initial_seed() == 0
    given = torch.Generator().manual_seed(4)
    assert chance(given) is given


class Elsewhere(torch.Generator):
    """A source of chance that says it is on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Not here."""
        return torch.device("cuda:1")


def test_one_on_another_device_gives_a_seed_and_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given, asked = Elsewhere(), []

    def randint(most: int, shape: tuple[int, ...], *, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        asked.append((generator, device))
        return torch.tensor(most - len(asked))

    monkeypatch.setattr(torch, "randint", randint)
    first, second = chance(given), chance(given)
    assert [one.device.type for one in (first, second)] == ["cpu", "cpu"]
    assert (first.initial_seed(), second.initial_seed()) == (2**62 - 1, 2**62 - 2)
    assert asked == [(given, torch.device("cuda:1"))] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_on_a_gpu_gives_the_same_again() -> None:
    def draws() -> list[Any]:
        given = torch.Generator("cuda").manual_seed(3)
        return [torch.rand(2, generator=chance(given)).tolist() for _ in range(2)]

    assert draws() == draws() and draws()[0] != draws()[1]
