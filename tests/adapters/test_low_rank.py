import pytest
import torch
from torch import Tensor

from weightspace.adapters import LowRank


@pytest.fixture
def update(generator: torch.Generator) -> LowRank:
    a, b = torch.randn(3, 12, generator=generator), torch.randn(5, 3, generator=generator)
    return LowRank("conv.weight", a, b, 0.5, (5, 3, 2, 2))


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found.double() - expected.double()).norm()) <= 1e-6 * float(expected.double().norm())


def test_products_equal_those_of_the_matrix(update: LowRank, generator: torch.Generator) -> None:
    vectors, covectors = torch.randn(12, 4, generator=generator), torch.randn(5, generator=generator)
    assert near(update.matrix(), 0.5 * update.b @ update.a)
    assert near(update @ vectors, update.matrix() @ vectors)
    assert near(update.T @ covectors, update.matrix().T @ covectors)
    assert near(update.T.matrix(), update.matrix().T) and near(update.T.T.matrix(), update.matrix())


def test_sizes(update: LowRank) -> None:
    assert (update.rank, update.rows, update.columns, update.shape) == (3, 5, 12, (5, 3, 2, 2))
    assert (update.T.rank, update.T.shape) == (3, (12, 5))


def test_applying_adds_the_matrix_and_leaves_the_weight(update: LowRank, generator: torch.Generator) -> None:
    weight = torch.randn(5, 3, 2, 2, generator=generator)
    before = weight.clone()
    assert near(update.applied_to(weight), weight + update.matrix().reshape(5, 3, 2, 2))
    assert torch.equal(weight, before)
    assert update.applied_to(weight.double()).dtype == torch.float64


@pytest.mark.parametrize("across", [1, 0], ids=["rows", "columns"])
def test_magnitudes_are_the_norms_afterwards(across: int, generator: torch.Generator) -> None:
    a, b, weight = (torch.randn(size, generator=generator) for size in ((2, 6), (4, 2), (4, 6)))
    magnitude = torch.rand(4 if across else 6, generator=generator).unsqueeze(across) + 0.5
    update = LowRank("w", a, b, 1.0, (4, 6), magnitude)
    moved = update.applied_to(weight)
    assert near(moved.norm(dim=across, keepdim=True), magnitude)
    assert near(update.T.applied_to(weight.T), moved.T)
