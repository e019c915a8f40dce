"""Tasks of telling two classes of MNIST-1D apart: their networks, which of them are held out, and what describes them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from weightspace.zoo.populations import training
from weightspace.zoo.populations.data import Examples

CLASSES, SEEDS, HIDDEN = 10, 5, 16
STEPS, RATE, BATCH = 400, 1e-2, 32
SPLITS = ("both classes unseen", "one class unseen", "pair unseen", "pair seen")
Pair = tuple[int, int]
Networks = dict[str, Tensor]


def module() -> nn.Module:
    """The network of every task."""
    return nn.Sequential(nn.Linear(40, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))


def fresh(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Networks that were not trained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return [module().state_dict() for _ in range(count)]


def of_pair(inputs: Tensor, classes: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
    """The signals of a task, and which of the two classes each is of."""
    own = (classes == pair[0]) | (classes == pair[1])
    return inputs[own], (classes[own] == pair[1]).long()


def trained(data: Examples, pair: Pair, states: Sequence[Mapping[str, Tensor]], steps: Sequence[int], seed: int) -> dict[int, Networks]:
    """Networks after some steps on a task; each sees the same batches whichever it is."""
    inputs, targets = of_pair(data.train, data.train_classes, pair)
    networks = [training.Trainee(dict(state), torch.Generator().manual_seed(1000 * seed + at), RATE) for at, state in enumerate(states)]
    batches = training.drawn(inputs, targets, networks, BATCH)
    return dict(training.train(module(), networks, batches, training.cross_entropy, training.Adam(), steps))


def judged(data: Examples, pair: Pair, networks: Networks) -> float:
    """Mean test accuracy of networks on a task."""
    found = training.judged(module(), networks, *of_pair(data.test, data.test_classes, pair))
    return sum(one["accuracy"] for one in found) / len(found)


def swapped(networks: Networks) -> Networks:
    """Networks of the same pair the other way round."""
    return {name: tensor.flip(1) if name.startswith("2.") else tensor for name, tensor in networks.items()}


def rows_of(networks: Networks) -> list[dict[str, Tensor]]:
    """Stacked networks one by one."""
    return [{name: tensor[at] for name, tensor in networks.items()} for at in range(len(next(iter(networks.values()))))]


def zoo(data: Examples, path: Path) -> dict[Pair, Networks]:
    """The networks of every task."""
    if not path.exists():
        made = {}
        for at, pair in enumerate(itertools.combinations(range(CLASSES), 2)):
            made[pair] = trained(data, pair, fresh(SEEDS, at), [STEPS], at)[STEPS]
        torch.save(made, path)
    read: dict[Pair, Networks] = torch.load(path)
    return read | {(b, a): swapped(networks) for (a, b), networks in read.items()}


@dataclass(frozen=True)
class Rotation:
    """Which tasks are seen, and which are not."""

    seed: int

    @cached_property
    def held_out(self) -> Pair:
        """Two classes: those of the five seeds share none; negative seeds, to tune on, hold out others."""
        if self.seed < 0:
            return [(3, 7), (1, 8)][-self.seed - 1]
        a = 2 * self.seed % CLASSES
        return a, (a + 1 + 2 * (self.seed // 5)) % CLASSES

    @cached_property
    def pairs(self) -> dict[str, list[Pair]]:
        """The tasks that each split is judged on, and those learned from."""
        generator = torch.Generator().manual_seed(self.seed + 100)
        known = [one for one in range(CLASSES) if one not in self.held_out]
        order = [known[at] for at in torch.randperm(8, generator=generator).tolist()]
        unseen = [tuple(sorted(order[at : at + 2])) for at in range(0, 8, 2)]  # every class is in one of these
        seen = [pair for pair in itertools.combinations(known, 2) if pair not in unseen]
        some = [seen[at] for at in torch.randperm(len(seen), generator=generator)[:2].tolist()]
        half = [tuple(sorted((one, self.held_out[at % 2]))) for at, one in enumerate(order[:4])]
        both = dict(zip(SPLITS, ([self.held_out], half, unseen, some), strict=True)) | {"learned": seen}
        return {name: [one for a, b in pairs for one in ((a, b), (b, a))] for name, pairs in both.items()}


class Features(nn.Module):
    """Signals as they are, and as a convolutional network sees them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = itertools.pairwise([1, 16, 32, 32])
        self.convolutions = nn.Sequential(*(part for a, b in sizes for part in (nn.Conv1d(a, b, 5, 2, 2), nn.ReLU())))
        self.head = nn.Linear(32, CLASSES)

    def seen(self, inputs: Tensor) -> Tensor:
        """What the network sees: the mean over places."""
        made: Tensor = self.convolutions(inputs[:, None]).mean(2)
        return made

    def forward(self, inputs: Tensor) -> Tensor:
        """Both side by side."""
        return torch.cat([inputs, self.seen(inputs)], 1)

    @classmethod
    def of(cls, data: Examples, held_out: Pair, seed: int) -> "Features":
        """Learn to tell the classes apart that are not held out."""
        known = (data.train_classes != held_out[0]) & (data.train_classes != held_out[1])
        inputs, classes = data.train[known], data.train_classes[known]
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            made = cls()
        optimizer = torch.optim.Adam(made.parameters(), 3e-3)
        for _ in range(600):
            at = torch.randint(len(inputs), (64,), generator=generator)
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(made.head(made.seen(inputs[at])), classes[at]))
            optimizer.step()
        return made.eval().requires_grad_(False)
