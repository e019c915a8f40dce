import math
import re
from collections.abc import Callable
from typing import Any

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


class Of(nn.Module):
    """A function of one input, with layers that it may use."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, **dict(self.named_children()))


def attend(x: torch.Tensor, attention: nn.Module) -> torch.Tensor:
    moved: torch.Tensor = x + attention(x, x, x)[0]
    return moved


def gated(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return a * torch.sigmoid(b)


def hooked() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda module, given, made: 100 * made)
    return layer


def over_a_view(x: torch.Tensor) -> torch.Tensor:
    x = 2 * x
    part = x[:, :2]
    part.add_(part)
    return x


def over_a_part(x: torch.Tensor) -> torch.Tensor:
    a, _ = (2 * x).chunk(2, -1)
    whole = torch.cat([a, a], -1)
    b, c = whole.chunk(2, -1)
    b.add_(b)
    return torch.cat([b, c, whole], -1)


def into_a_buffer(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    norm.running_mean.view(-1).add_(x[0])  # type: ignore[operator]
    return x + 3 * norm.running_mean  # type: ignore[operator]


@pytest.mark.parametrize(
    ("module", "shape", "words"),
    [
        (Of(attend, attention=nn.MultiheadAttention(4, 1, batch_first=True)), (3, 4), r"module 'attention' \(MultiheadAttention\)"),
        (Of(lambda x, lstm: lstm(x)[0], lstm=nn.LSTM(4, 3)), (3, 4), r"module 'lstm' \(LSTM\)"),
        (Of(gated), (4,), "step 'mul'"),
        (Of(lambda x: x.sort(-1)[0]), (4,), "step 'sort'"),
        (Of(lambda x: torch.topk(x, 2)[0]), (4,), "step 'topk'"),
        (Of(lambda x: x.max(-1)[0]), (4,), "step 'max"),
        (Of(lambda x: x * x.mean().item()), (4,), "step 'item'"),
        (Of(lambda x: x.data), (4,), "step 'getattr"),
        (Of(lambda x: torch.add(x, x, alpha=9)), (4,), "step 'add'"),
        (Of(lambda x: x.sub(x, alpha=-9)), (4,), "step 'sub'"),
        (Of(lambda x: x + x[:, :1]), (4,), "step 'add'"),
        (Of(lambda x: torch.div(x, 2, rounding_mode="floor")), (4,), "step 'div'"),
        (Of(lambda x: x.div(2, rounding_mode="trunc")), (4,), "step 'div'"),
        (Of(lambda x: x / 0), (4,), "step 'truediv'"),
        (Of(lambda x: 1 / x), (4,), "step 'truediv'"),
        (Of(lambda x: x.view(torch.int32)), (4,), "step 'view'"),
        (nn.Softplus(threshold=0), (4,), r"module '0' \(Softplus\)"),
        (hooked(), (3,), r"module '0' \(Linear\)"),
        (Of(over_a_view), (4,), "step 'add_'"),
        (Of(over_a_part), (4,), "step 'add_'"),
        (Of(into_a_buffer, norm=nn.BatchNorm1d(4).eval()), (4,), "step 'add_'"),
    ],
)
def test_a_step_that_is_not_wholly_known_is_refused(module: nn.Module, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(AnalysisError, match=f"no bound can be stated for {words}.*; give a module of [a-z, ]* and sums$"):
        module_bound(module, shape)


def halved(x: torch.Tensor) -> torch.Tensor:
    a, b = torch.tensor_split(x, 2, -1)
    return 3 * a - b


def in_place_elsewhere(x: torch.Tensor) -> torch.Tensor:
    x = 2 * x
    made: torch.Tensor = x + nn.functional.silu(x, inplace=True)
    return made


@pytest.mark.parametrize(
    ("function", "bound"),
    [
        (lambda x: torch.add(x, other=100 * x), 101),
        (lambda x: torch.add(input=x, other=5 * x), 6),
        (lambda x: torch.sub(x, other=-9 * x), 10),
        (lambda x: x.add(other=50 * x), 51),
        (lambda x: torch.mul(x, other=4), 4),
        (lambda x: torch.cat(tensors=[x, x, x], dim=1), 3**0.5),
        (lambda x: torch.cat(x.chunk(2, -1)[::-1], -1), 1),
        (lambda x: (x, x), 2**0.5),
        (lambda x: {"a": x, "b": [x, x.unbind(-1)]}, 3**0.5),
        (halved, 4),
        (in_place_elsewhere, 4.39936),
        (lambda x: x.mean(0), 1),
        (lambda x: x.transpose(0, 1).mean(1), 1),
    ],
)
def test_everything_that_a_step_takes_is_counted(function: Callable[..., Any], bound: float) -> None:
    assert module_bound(Of(function), (4,)) == pytest.approx(bound)


def test_in_place_activations_leave_no_lower_bound_behind(generator: torch.Generator) -> None:
    module, steep = Of(in_place_elsewhere), torch.full((1, 4), 1.2)  # of slope 1.1 at 2 * 1.2
    x = steep + 1e-3 * torch.randn(1, 4, generator=generator)
    with torch.no_grad():
        assert float((module(x) - module(steep)).norm() / (x - steep).norm()) == pytest.approx(module_bound(module, (4,)), rel=1e-2)


def test_usual_networks_that_work_in_place_are_bounded() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.SiLU(inplace=True), nn.Linear(8, 2)
    for layer in (layers[0], layers[4]):
        nn.utils.parametrizations.weight_norm(layer)
    alone = module_bound(layers[0], (1, 4, 4)) * module_bound(layers[4], (8,))
    assert module_bound(nn.Sequential(*layers), (1, 4, 4)) == pytest.approx(1.09984 * alone)


def test_weights_that_are_not_finite_are_refused() -> None:
    layer = nn.Conv2d(1, 1, 1)
    nn.init.constant_(layer.weight, math.nan)
    with pytest.raises(AnalysisError, match="Conv2d has weights that are NaN or infinite, expected finite ones; repair them"):
        module_bound(layer, (1, 4, 4))


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

    def test_the_slope_of_activations_counts_between_layers(self) -> None:
        state = Checkpoint.of(mlp().state_dict())
        assert measures["lipschitz"](state, slope=1.13)[""] == pytest.approx(1.13**2 * measures["lipschitz"](state)[""])  # type: ignore[operator]
        with pytest.raises(AnalysisError, match="expected a finite slope above 0, found 0; give the largest of the activations"):
            measures["lipschitz"](state, slope=0.0)

    @pytest.mark.parametrize(
        ("sizes", "reason"),
        [
            ({f"attn.{part}": (4, 4) for part in "qkvo"}, "'attn.q.weight' has the name of a layer of role 'q', which branches"),
            ({"in_proj": (12, 4), "out_proj": (4, 12)}, "'in_proj.weight' has the name of a layer of role 'qkv'"),
            ({"b1.fc": (4, 5), "b2.fc": (3, 4)}, "'b1.fc.weight' stands in a block, across which something may be added"),
            ({"fc1": (4, 5), "skip": (3, 4)}, "tensor 'skip.weight' has the name of a shortcut"),
            ({"embed": (4, 5), "fc": (3, 5)}, "'embed.weight' is an embedding"),
            ({"a": (3, 4), "b": (2, 5)}, "tensor 'b.weight' reads 5 values where the layer before makes 3"),
            ({"a": (3, 4), "norm": (3,)}, "'norm.weight' is neither the weight nor the bias of a dense layer"),
            ({"conv": (3, 4, 2, 2)}, "'conv.weight' is a convolution"),
            ({}, "there is no layer with a weight matrix or kernel"),
        ],
    )
    def test_what_may_be_no_chain_is_refused(self, sizes: dict[str, tuple[int, ...]], reason: str) -> None:
        state = {f"{name}.weight": torch.ones(size) for name, size in sizes.items()}
        with pytest.raises(AnalysisError, match=re.escape("is no plain chain of dense layers (")) as caught:
            measures["lipschitz"](Checkpoint.of(state))
        assert reason in str(caught.value) and str(caught.value).endswith("name what builds its module with the setting 'build'")
