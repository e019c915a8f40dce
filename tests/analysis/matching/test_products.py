"""Products of activations: the same however the samples are cut, and what numpy says they are."""

import pytest
import torch

from weightspace.analysis.matching.products import Gathering, Products


def gathered(x: torch.Tensor, y: torch.Tensor, sizes: list[int], *, centred: bool = True) -> torch.Tensor:
    total = Products((x.shape[-1],))
    place = Gathering(total, centred=centred)
    for left, right in zip(torch.split(x, sizes), torch.split(y, sizes), strict=True):
        place.add(left, right)
    return total.similarity(normalised=centred)


@pytest.mark.parametrize("sizes", [[50], [1, 49], [20, 5, 25], [1] * 50])
def test_correlations_are_those_of_all_samples_at_once(sizes: list[int], generator: torch.Generator) -> None:
    x, y = (1e4 + torch.randn(50, 1, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = torch.corrcoef(torch.cat([x[:, 0], y[:, 0]], 1).T)[:4, 4:]
    torch.testing.assert_close(gathered(x, y, sizes), expected, rtol=0, atol=1e-9)


def test_raw_products_are_not_centred(generator: torch.Generator) -> None:
    x, y = (1 + torch.randn(30, 1, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(gathered(x, y, [10, 20], centred=False), x[:, 0].T @ y[:, 0])


def test_cells_have_means_of_their_own_and_share_deviations(generator: torch.Generator) -> None:
    x = torch.randn(40, 3, 2, generator=generator, dtype=torch.float64) + torch.tensor([[0.0], [10.0], [-5.0]], dtype=torch.float64)
    flat = (x - x.mean(0)).flatten(0, 1)
    torch.testing.assert_close(gathered(x, x, [15, 25]), torch.corrcoef(flat.T))


def test_places_add_up(generator: torch.Generator) -> None:
    x, y = (torch.randn(20, 1, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    total = Products((3,))
    for values in (x, y):
        Gathering(total, centred=False).add(values, values)
    torch.testing.assert_close(total.similarity(normalised=False), x[:, 0].T @ x[:, 0] + y[:, 0].T @ y[:, 0])


def test_what_never_varies_is_like_nothing(generator: torch.Generator) -> None:
    x = torch.randn(20, 1, 3, generator=generator, dtype=torch.float64)
    x[..., 1] = 0.3
    alike = gathered(x, x, [7, 13])
    assert alike[1].abs().max() == 0 and alike[:, 1].abs().max() == 0
    torch.testing.assert_close(alike.diagonal()[[0, 2]], torch.ones(2, dtype=torch.float64))
