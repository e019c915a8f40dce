"""Small networks trained on digits in pairs, and a plain matching to align them."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from weightspace.task import Task
from weightspace.zoo.populations.digits import load_digits

State = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """Two networks trained from different seeds, the second also aligned to the first where there is a matching for it."""

    task: Task
    a: State
    b: State
    aligned: State


def perceptron(width: int = 48) -> nn.Sequential:
    layers = [("fc1", nn.Linear(64, width)), ("relu1", nn.ReLU()), ("fc2", nn.Linear(width, width)), ("relu2", nn.ReLU())]
    return nn.Sequential(OrderedDict([*layers, ("fc3", nn.Linear(width, 10))]))


def convolutional(width: int = 24) -> nn.Sequential:
    """With batch norm behind a convolution without bias, and one behind a ReLU."""
    layers: list[tuple[str, nn.Module]] = [
        ("image", nn.Unflatten(1, (1, 8, 8))),
        ("conv1", nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)),
        ("norm1", nn.BatchNorm2d(width)),
        ("relu1", nn.ReLU(inplace=True)),
        ("conv2", nn.Conv2d(width, width, 3, stride=2, padding=1)),
        ("relu2", nn.ReLU(inplace=True)),
        ("norm2", nn.BatchNorm2d(width)),
        ("flat", nn.Flatten()),
        ("fc", nn.Linear(width * 4, 10)),
    ]
    return nn.Sequential(OrderedDict(layers))


class Transformer(nn.Module):
    """Rows of an image as tokens, through one block with layer norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.head(self.norm(self.block(self.embed(images.view(-1, 8, 8)))).mean(1))
        return made


def trained(module: nn.Module, seed: int, steps: int = 200) -> State:
    generator, digits = torch.Generator().manual_seed(seed), load_digits()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / parameter[0].numel()) ** 0.5)
            elif parameter.std() > 0:  # a bias; norms stay as they are
                parameter.zero_()
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    module.train()
    for _ in range(steps):
        drawn = torch.randint(len(digits.train), (64,), generator=generator)
        loss = nn.functional.cross_entropy(module(digits.train[drawn]), digits.train_classes[drawn])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def task_of(module: nn.Module, batch_size: int = 300) -> Task:
    digits = load_digits()
    return Task.classification(module, digits.train, digits.train_classes, batch_size=batch_size)


def permuted(state: State, first: Tensor, second: Tensor) -> State:
    """A perceptron with the units of both hidden layers in another order."""
    return {
        "fc1.weight": state["fc1.weight"][first],
        "fc1.bias": state["fc1.bias"][first],
        "fc2.weight": state["fc2.weight"][second][:, first],
        "fc2.bias": state["fc2.bias"][second],
        "fc3.weight": state["fc3.weight"][:, second],
        "fc3.bias": state["fc3.bias"],
    }


def align(a: State, b: State) -> State:
    """Coordinate descent over both hidden layers of a perceptron."""
    still = torch.arange(len(a["fc1.bias"]))
    for _ in range(20):
        gain = a["fc1.weight"] @ b["fc1.weight"].T + torch.outer(a["fc1.bias"], b["fc1.bias"]) + a["fc2.weight"].T @ b["fc2.weight"]
        first = torch.tensor(linear_sum_assignment(-gain.double().numpy())[1])
        b = permuted(b, first, still)
        gain = a["fc2.weight"] @ b["fc2.weight"].T + torch.outer(a["fc2.bias"], b["fc2.bias"]) + a["fc3.weight"].T @ b["fc3.weight"]
        second = torch.tensor(linear_sum_assignment(-gain.double().numpy())[1])
        b = permuted(b, still, second)
        if torch.equal(first, still) and torch.equal(second, still):
            break
    return b


def permuted_convolutional(state: State, first: Tensor, second: Tensor) -> State:
    """A convolutional network with the channels of both convolutions in another order."""
    made = {
        name: tensor[first if "1" in name else second] if tensor.ndim and "fc" not in name else tensor for name, tensor in state.items()
    }
    made["conv2.weight"] = made["conv2.weight"][:, first]
    made["fc.weight"] = state["fc.weight"].view(10, -1, 4)[:, second].flatten(1)
    return made


def align_convolutional(a: State, b: State) -> State:
    """Coordinate descent over both convolutions."""
    width = len(a["conv2.bias"])
    still = torch.arange(width)
    for _ in range(20):
        rows = [
            torch.cat([one["conv1.weight"].flatten(1), one["conv2.weight"].transpose(0, 1).flatten(1)], 1).double().numpy()
            for one in (a, b)
        ]
        b = permuted_convolutional(b, torch.tensor(linear_sum_assignment(-rows[0] @ rows[1].T)[1]), still)
        rows = [
            torch.cat([one["conv2.weight"].flatten(1), one["fc.weight"].view(10, width, 4).transpose(0, 1).flatten(1)], 1).double().numpy()
            for one in (a, b)
        ]
        b = permuted_convolutional(b, still, torch.tensor(linear_sum_assignment(-rows[0] @ rows[1].T)[1]))
    return b


@pytest.fixture(scope="session")
def perceptrons() -> Pair:
    module = perceptron()
    a, b = trained(module, 0), trained(module, 1)
    return Pair(task_of(module), a, b, align(a, b))


@pytest.fixture(scope="session")
def with_batch_norm() -> Pair:
    a, module = trained(convolutional(), 0), convolutional()
    b = trained(module, 1)
    return Pair(task_of(module), a, b, align_convolutional(a, b))


@pytest.fixture(scope="session")
def transformers() -> Pair:
    a, module = trained(Transformer(), 0, 120), Transformer()
    b = trained(module, 1, 120)
    return Pair(task_of(module), a, b, b)
