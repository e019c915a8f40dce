"""Small architectures of every kind with their specs, on which the laws of metanets are tried."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.metanets import WeightBatch
from weightspace.metanets.low_rank import adapter_spec
from weightspace.spec import SymmetrySpec


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * x)


class Residual(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.enter, self.inner, self.back, self.leave = nn.Linear(3, width), nn.Linear(width, 7), nn.Linear(7, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        made: Tensor = self.leave(x + self.back(self.inner(x).relu()))
        return made


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.lstm(x)[0])
        return made


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.leave(self.block(self.enter(x)))
        return made


class LowRankLinear(nn.Module):
    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x.sum(-1, keepdim=True) + self.lora_B(self.lora_A(x))
        return made


class Adapter(nn.Module):
    """Two low-rank updates of bases that stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.v = LowRankLinear(3, 2, 6), LowRankLinear(6, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.v(torch.tanh(self.q(x)))
        return made


def _mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = []
    for at in range(len(sizes) - 1):
        layers += [(f"fc{at + 1}", nn.Linear(sizes[at], sizes[at + 1])), (f"act{at + 1}", activation())]
    return nn.Sequential(OrderedDict(layers[:-1]))


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 4, 3),
            bn1=nn.BatchNorm2d(4),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(4, 3, 2),
            relu2=nn.ReLU(),
            flat=nn.Flatten(),
            fc=nn.Linear(3 * 4, 2),
        )
    )


def _grouped() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv1d(2, 4, 2),
            relu=nn.ReLU(),
            conv2=nn.Conv1d(4, 6, 2, groups=2),
            tanh=nn.Tanh(),
            flat=nn.Flatten(),
            fc=nn.Linear(12, 2),
        )
    )


@dataclass(frozen=True)
class Architecture:
    """A module, an input, and the spec traced from them, or for an adapter that of its factors."""

    module: nn.Module
    spec: SymmetrySpec
    inputs: Tensor

    def networks(self, count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[dict[str, Tensor]]:
        """State dicts of networks drawn at random, every tensor of its own, positive where the module's is a variance."""
        generator = torch.Generator().manual_seed(seed)
        made = []
        for _ in range(count):
            state = {name: tensor for name, tensor in self.module.state_dict().items()}
            drawn = {
                name: torch.rand(tensor.shape, generator=generator, dtype=dtype) + 0.5
                if name.endswith("running_var")
                else torch.randn(tensor.shape, generator=generator, dtype=dtype) / max(1, tensor[0].numel()) ** 0.5
                for name, tensor in state.items()
                if tensor.is_floating_point()
            }
            made.append(state | drawn)
        return made

    def batch(self, count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> WeightBatch:
        """The same, stacked."""
        return WeightBatch.stack(self.networks(count, seed, dtype), self.spec, module=self.module, dtype=dtype)


_MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: _mlp(3, 5, 4, 2), (2, 3)),
    "wide mlp": (lambda: _mlp(3, 6, 2), (2, 3)),
    "tanh mlp": (lambda: _mlp(3, 5, 5, 4, 2, activation=nn.Tanh), (2, 3)),
    "siren": (lambda: _mlp(2, 6, 5, 1, activation=Sine), (2, 2)),
    "cnn": (_cnn, (2, 2, 5, 5)),
    "grouped": (_grouped, (2, 2, 4)),
    "residual": (Residual, (2, 3)),
    "lstm": (Recurrent, (2, 4, 3)),
    "transformer": (Transformer, (2, 4, 3)),
    "lora": (Adapter, (2, 3)),
}

ARCHITECTURES = tuple(_MODULES)


@cache
def architecture(name: str) -> Architecture:
    """One of `ARCHITECTURES`."""
    build, shape = _MODULES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, inputs = build().eval(), torch.randn(shape)
    return Architecture(module, adapter_spec(module.state_dict()) if name == "lora" else ws.trace(module, inputs), inputs)
