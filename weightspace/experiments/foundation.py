"""Sinusoidal networks made for images never seen: whether an encoder's tokens help, frozen or tuned, with masks or deltas.

Hypernetworks learn to make networks that render 8x8 digits; judged by PSNR on images that they were not trained on, as made and after a few
steps of fine-tuning, beside networks that begin at the mean image, at the nearest training image's own network, and from scratch.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.through_tasks import learn_through
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, perform
from weightspace.experiments.tables import with_interval
from weightspace.task import Batch, Task
from weightspace.zoo.populations import sirens
from weightspace.zoo.populations.data import load
from weightspace.zoo.populations.layers import run as side_by_side
from weightspace.zoo.populations.training import Adam, Trainee, squared_error, train, whole

WIDTH, DEPTH, W0 = 32, 2, 10.0
SIDE = 8
RATE = 2e-3
TOGETHER = 16
TUNING = (0, 5, 20, 80)
"""Steps of fine-tuning after which networks are judged."""
OWN_STEPS = 80
"""That a training image's own network is fitted for, as in the population `sirens`."""

States = Mapping[str, Tensor]


def mean_squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    """Of the rendered pixels."""
    return nn.functional.mse_loss(outputs, batch[1])


@dataclass(frozen=True, eq=False)
class Data:
    """Images to learn from and to be judged by, and the module that renders them."""

    seed: int
    train: Tensor
    test: Tensor
    module: nn.Module

    @classmethod
    def of(cls, seed: int, images: int, tests: int) -> "Data":
        """Draw some of the digits."""
        examples, generator = load("digits"), torch.Generator().manual_seed(seed)
        train = examples.train[torch.randperm(len(examples.train), generator=generator)[:images]]
        test = examples.test[torch.randperm(len(examples.test), generator=generator)[:tests]]
        module = sirens.build(
            {"hyperparameters": {"width": WIDTH, "depth": DEPTH}, "rendering": {"w0": W0, "offset": 0.5}, "data": {"shape": [SIDE, SIDE]}}
        )
        sirens._initialise(module, generator, W0)
        return cls(seed, train, test, module)

    @cached_property
    def places(self) -> Tensor:
        """Of the pixels."""
        return sirens.coordinates((SIDE, SIDE))

    @cached_property
    def material(self) -> Material:
        """A task for each training image, which is its condition."""
        tasks = [Task(self.module, [(self.places, one[:, None])], mean_squared_error) for one in self.train]
        return Material(Target.of_module(self.module), tasks=tasks, conditions=self.train.reshape(len(self.train), SIDE, SIDE))

    def fitted(self, starts: States, images: Tensor, steps: Sequence[int]) -> list[States]:
        """Networks after some steps of Adam on all pixels of an image each."""
        rows = [{name: tensor[at] for name, tensor in starts.items()} for at in range(len(images))]
        trainees = [Trainee(row, torch.Generator(), RATE) for row in rows]
        inputs = self.places.expand(len(images), *self.places.shape).contiguous()
        return [made for _, made in train(self.module, trainees, whole(inputs, images[..., None]), squared_error, Adam(), steps)]

    def psnr(self, networks: States, images: Tensor) -> float:
        """Mean decibels."""
        with torch.no_grad():
            rendered = side_by_side(self.module, networks, self.places.expand(len(images), *self.places.shape))
        errors = squared_error(rendered, images[..., None])
        return float((-10 * errors.log10()).mean())


def fresh(data: Data, count: int) -> States:
    """Networks as training begins."""
    generator, rows = torch.Generator().manual_seed(500 + data.seed), []
    for _ in range(count):
        sirens._initialise(data.module, generator, W0)
        rows.append({name: tensor.clone() for name, tensor in data.module.state_dict().items()})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def repeated(one: States, count: int) -> States:
    """One network for all images."""
    return {name: tensor.expand(count, *tensor.shape[1:]).clone() for name, tensor in one.items()}


Starts = Callable[[Data, int], tuple[States, int]]
"""Makes a network for each test image, and tells how many numbers were learned; given the steps of training."""


def from_scratch(data: Data, steps: int) -> tuple[States, int]:
    """Networks that were never trained."""
    return fresh(data, len(data.test)), 0


def mean_image(data: Data, steps: int) -> tuple[States, int]:
    """One network fitted to the mean of the training images."""
    [made] = data.fitted(fresh(data, 1), data.train.mean(0, keepdim=True), [OWN_STEPS])
    return repeated(made, len(data.test)), 0


def nearest_image(data: Data, steps: int) -> tuple[States, int]:
    """The own network of the nearest training image."""
    nearest = data.train[torch.cdist(data.test, data.train).argmin(1)]
    [made] = data.fitted(fresh(data, len(nearest)), nearest, [OWN_STEPS])
    return made, 0


def generated(name: str, flat: bool = False, **settings: Any) -> Starts:
    """A registered generator; `flat` gives it images as rows."""

    def start(data: Data, steps: int) -> tuple[States, int]:
        material, test = data.material, data.test.reshape(len(data.test), SIDE, SIDE)
        if flat:
            material, test = Material(material.target, tasks=material.tasks, conditions=data.train), data.test
        made = fit(name, material, steps=steps, together=TOGETHER, generator=torch.Generator().manual_seed(data.seed), **settings)
        learned = sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad)
        return sample(made, len(test), Wish(test)), learned

    return start


def plain(data: Data, steps: int, *, hidden: int = 88) -> tuple[States, int]:
    """A perceptron from pixels to what is added to the base, which begins as the module: no tokens."""
    target = data.material.target
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(data.seed)
        body = nn.Sequential(nn.Linear(SIDE**2, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, target.numel))
    last = body[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(target.flat(data.module.state_dict()))

    def weights(numbers: Sequence[int]) -> list[dict[str, Tensor]]:
        made = target.tensors(body(data.train[list(numbers)]))
        return [{name: tensor[at] for name, tensor in made.items()} for at in range(len(numbers))]

    learn_through(
        body.parameters(),
        lambda at: weights([at])[0],
        data.material.tasks,
        steps=steps,
        learning_rate=1e-3,
        together=TOGETHER,
        generator=torch.Generator().manual_seed(data.seed),
        many_weights_of=weights,
    )
    with torch.no_grad():
        return target.tensors(body(data.test)), sum(parameter.numel() for parameter in body.parameters())


class Classifier(nn.Module):
    """Features of a small convolutional network that was trained to tell the digits apart: the foundation model of this small world."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of 2x2 pixels each."""
        tokens: Tensor = self.features(images[:, None]).flatten(2).mT
        return tokens


@lru_cache(maxsize=1)
def _trained_classifier() -> Classifier:
    examples, made = load("digits"), Classifier()
    head, generator = nn.Linear(32 * 16, 10), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([*made.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(600):
        at = torch.randint(len(examples.train), (64,), generator=generator)
        logits = head(made(examples.train[at].reshape(len(at), SIDE, SIDE)).flatten(1))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(logits, examples.train_classes[at]))
        optimizer.step()
    return made


def classifier(shape: tuple[int, ...]) -> Classifier:
    """A trained encoder of one's own, as `foundation` takes it."""
    made = Classifier()
    made.load_state_dict(_trained_classifier().state_dict())
    return made


METHODS: Mapping[str, Starts] = {
    "foundation, patches": generated("foundation"),
    "foundation, random features": generated("foundation", encoder="random"),
    "foundation, classifier": generated("foundation", encoder="weightspace.experiments.foundation:classifier"),
    "foundation, classifier, tuned": generated("foundation", encoder="weightspace.experiments.foundation:classifier", tune_encoder=True),
    "foundation, patches, deltas": generated("foundation", form="deltas"),
    "perceptron, no tokens": plain,
    "generator mlp": generated("mlp", flat=True, embedding=SIDE**2, hidden=88),
    "nearest image's network": nearest_image,
    "mean image": mean_image,
    "from scratch": from_scratch,
}


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    for seed in range(options.first, options.first + options.seeds):
        data = Data.of(seed, options.images, options.tests)
        for name, start in METHODS.items():
            here = {"images": options.images, "steps": options.steps, "seed": seed, "method": name}
            if (options.only and name not in options.only) or is_known(options.results, here):
                continue
            states, learned = start(data, options.steps)
            judged = {
                str(steps): data.psnr(tuned, data.test) for steps, tuned in zip(TUNING, data.fitted(states, data.test, TUNING), strict=True)
            }
            row = here | judged | {"learned": learned}
            keep(options.results, [row])
            print(row, flush=True)


def report(everything: Lines) -> Iterator[str]:
    """A markdown table for each number of images: mean decibels over the seeds, half the 95 % interval, paired differences to patches."""
    for images, steps in dict.fromkeys((row["images"], row["steps"]) for row in everything):
        rows = [row for row in everything if row["images"] == images and row["steps"] == steps]
        base = {row["seed"]: row["0"] for row in rows if row["method"] == "foundation, patches"}
        yield f"\n**{images} training images, {steps} steps**\n"
        yield "| method | parameters | " + " | ".join(f"PSNR after {n}" for n in TUNING) + " | as made, minus patches | seeds |"
        yield "|-|-|" + "-|" * (len(TUNING) + 2)
        for name in METHODS:
            mine = [row for row in rows if row["method"] == name]
            if mine:
                cells = [with_interval([row[str(n)] for row in mine], 2) for n in TUNING]
                apart = with_interval([row["0"] - base[row["seed"]] for row in mine if row["seed"] in base], 2)
                yield f"| {name} | {mine[0]['learned'] or ''} | {' | '.join(cells)} | {apart} | {len(mine)} |"


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--tests", type=int, default=60)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--only", nargs="*")
    perform(parser, run, report)


if __name__ == "__main__":
    main()
