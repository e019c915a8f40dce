import math

import pytest
import torch
from torch import nn

from weightspace.analysis.measure import measures
from weightspace.analysis.spectra.lipschitz import chain_bound, module_bound
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError


class Block(nn.Module):
    """A residual block with a batch norm whose statistics are its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.second(torch.relu(self.norm(self.first(x))))
        branch += x
        return nn.functional.relu(branch)


def residual() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.MaxPool2d(3, 2, 1), Block(8), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    )
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            nn.init.uniform_(one.weight, 0.5, 2)
            nn.init.uniform_(one.running_var, 0.2, 2)  # type: ignore[arg-type]
    return module.eval()


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3))


def steepest(module: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> float:
    """The largest norm of the Jacobian at some inputs."""
    found = 0.0
    for _ in range(8):
        x = torch.randn(1, *shape, generator=generator)
        jacobian = torch.func.jacrev(module)(x).detach().flatten(0, 1).flatten(1)
        found = max(found, float(torch.linalg.matrix_norm(jacobian, 2)))
    return found


@pytest.mark.parametrize(("module", "shape"), [(residual(), (3, 16, 16)), (mlp(), (6,))], ids=["residual", "mlp"])
def test_bounds_what_is_measured(module: nn.Module, shape: tuple[int, ...], generator: torch.Generator) -> None:
    bound = module_bound(module, shape)
    assert steepest(module, shape, generator) <= bound < 1000
    x, y = (torch.randn(200, *shape, generator=generator) for _ in range(2))
    with torch.no_grad():
        moved = (module(x) - module(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert float(moved.max()) <= bound


def test_is_reached_where_there_is_one_layer() -> None:
    layer = nn.Linear(5, 4)
    assert module_bound(layer, (5,)) == pytest.approx(float(torch.linalg.matrix_norm(layer.weight.data, 2)), rel=1e-6)
    twice = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    twice.load_state_dict({f"{at}.weight": factor * torch.eye(3) for at, factor in enumerate((2.0, 5.0))}, strict=False)
    assert module_bound(twice, (3,)) == pytest.approx(10)


def test_a_residual_block_is_one_plus_its_branch() -> None:
    class Plus(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            moved: torch.Tensor = x + self.branch(x)
            return moved

    module = Plus()
    module.branch.weight.data = 2 * torch.eye(3)
    assert module_bound(module, (3,)) == pytest.approx(3)


def test_what_is_summed_or_given_out_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = x + x
            y = torch.cat([x, x], 1)
            before = y
            y.add_(y)
            return before, 4 * x

    assert module_bound(Twice(), (3,)) == pytest.approx(math.hypot(2 * 2 * 2**0.5, 8))


def test_batch_norm_is_its_largest_gain() -> None:
    norm = nn.BatchNorm1d(2, eps=0.0)
    norm.weight.data, norm.running_var = torch.tensor([1.0, -3.0]), torch.tensor([0.25, 4.0])
    assert module_bound(norm, (2,)) == pytest.approx(2.0)


def test_overlapping_pools_count_an_input_more_than_once() -> None:
    assert module_bound(nn.MaxPool2d(3, 1), (1, 6, 6)) == 3
    assert module_bound(nn.AvgPool2d(2), (1, 6, 6)) == 0.5
    assert module_bound(nn.AdaptiveAvgPool2d(1), (1, 4, 4)) == 0.25


def test_pools_that_are_called_as_functions() -> None:
    class Pools(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
            return 3 * nn.functional.avg_pool2d(nn.functional.max_pool2d(x, 2, 1), x.size()[3] - 1).flatten(1) / 2

    assert module_bound(Pools(), (1, 8, 8)) == pytest.approx(2 / 3 * 1.5)


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        (nn.Sequential(nn.LayerNorm(3)), (3,), r"no bound can be stated for module '0' \(LayerNorm\)"),
        (nn.BatchNorm1d(3, track_running_stats=False), (3,), r"no bound can be stated for module '0' \(BatchNorm1d\)"),
        (nn.MaxPool2d(2, 2, dilation=2), (1, 8, 8), "no bound can be stated for"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), (1, 8, 8), "no bound can be stated for"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), (1, 8, 8), r"no bound can be stated for module '0' \(Conv2d\)"),
        (nn.Linear(3, 2), (4,), r"Linear does not run on an input of shape \[4\]"),
    ],
)
def test_where_no_bound_can_be_stated_it_says_so(module: nn.Module, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        module_bound(module, shape)


def test_products_of_moving_values_and_branches_are_refused() -> None:
    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x

    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(AnalysisError, match="no bound can be stated for step 'mul'"):
        module_bound(Square(), (3,))
    with pytest.raises(AnalysisError, match="Branch cannot be traced"):
        module_bound(Branch(), (3,))


def test_the_module_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    module_bound(module, (3,))
    assert module.training and module[1].training


class TestMeasure:
    def test_a_plain_chain_needs_no_module(self) -> None:
        module = mlp()
        found = measures["lipschitz"](Checkpoint.of(module.state_dict()))[""]
        assert found == pytest.approx(math.prod(float(torch.linalg.matrix_norm(module[at].weight.data, 2)) for at in (0, 2, 4)), rel=1e-5)
        assert found == pytest.approx(chain_bound([module[at].weight.data for at in (0, 2, 4)]))  # type: ignore[misc]

    def test_a_module_is_built_where_it_is_named(self) -> None:
        state = Checkpoint.of(residual().state_dict())
        where = f"{__name__}:residual"
        found = measures["lipschitz"](state, build=where, shape=(3, 16, 16))[""]
        assert found == pytest.approx(module_bound(residual(), (3, 16, 16)))
        with pytest.raises(AnalysisError, match=r"expected the shape of one input and found none; set shape, as in \[3, 32, 32\]"):
            measures["lipschitz"](state, build=where)

    @pytest.mark.parametrize("state", [residual().state_dict(), {"a.weight": torch.ones(3, 4), "b.weight": torch.ones(2, 5)}, {}])
    def test_anything_else_is_refused(self, state: dict[str, torch.Tensor]) -> None:
        with pytest.raises(AnalysisError, match="is no plain chain of dense layers, so no bound can be stated from its weights alone"):
            measures["lipschitz"](Checkpoint.of(state))
