"""The magnitude-invariant hypernetwork beside the default one and each half of it alone: loss at equal steps, under Adam.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.mip --results results.jsonl [--seeds 5] [--learning-rate 1e-3] [--steps 400]
    python -m weightspace.experiments.mip --results results.jsonl --report

A condition g from 0 to 1 changes what is asked of the network: how much is dropped out, what counts in a trade-off, how far the input is
turned or shifted. All variants see the same batches. Without the residual form generated matrices start with ordinary variances, at the
mean condition, and not with the tiny ones of fan-out; biases start at 0, so that without the encoding weights are zero at g = 0. Reported are the mean over seven conditions
(some never learned) of the loss on the training examples, which is what the parametrisation is to make smaller, and beside it of loss and
accuracy on the test examples.
"""

import argparse
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, perform
from weightspace.experiments.tables import Estimate, Row, markdown
from weightspace.task import Batch, Task
from weightspace.zoo.populations import data

VARIANTS = {
    "default": {"encoding": False, "residual": False},
    "encoding only": {"encoding": True, "residual": False},
    "residual only": {"encoding": False, "residual": True},
    "MIP": {"encoding": True, "residual": True},
}
LEARNED = torch.linspace(0, 1, 33)
JUDGED = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
BATCH, TOGETHER, MOST_DROPPED = 64, 4, 0.5
Asked = Callable[[nn.Module, Batch], Tensor]
"""What a network answers to (inputs, condition, classes)."""


@dataclass(frozen=True)
class Question:
    """What is asked of a network under a condition.

    Attributes:
        name: in the table.
        examples: name of the data.
        module: makes the network.
        forward: what it is run by.
        loss: of what that returns.
        judged: what it is run by where it is judged, where that is not the same: nothing is dropped out then.
    """

    name: str
    examples: str
    module: Callable[[], nn.Module]
    forward: Asked
    loss: Callable[[Tensor, Batch], Tensor]
    judged: Asked | None = None


def perceptron(outputs: int) -> nn.Module:
    """For signals."""
    layers = [
        ("fc1", nn.Linear(40, 64)),
        ("relu1", nn.ReLU()),
        ("fc2", nn.Linear(64, 64)),
        ("relu2", nn.ReLU()),
        ("fc3", nn.Linear(64, outputs)),
    ]
    return nn.Sequential(OrderedDict(layers))


def convolutional() -> nn.Module:
    """For digits: 1-8-16 channels and one linear layer."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            flat=nn.Flatten(),
            fc=nn.Linear(256, 10),
        )
    )


def dropped(module: nn.Module, batch: Batch) -> Tensor:
    """Run it with outputs of each hidden layer dropped, the more the larger g."""
    hidden: Tensor = batch[0]
    keep = 1 - MOST_DROPPED * batch[1]
    for layer in module.children():
        hidden = layer(hidden)
        if isinstance(layer, nn.ReLU):
            hidden = hidden * (torch.rand_like(hidden) < keep) / keep
    return hidden


def turned(module: nn.Module, batch: Batch) -> Tensor:
    """Run it on images turned by g times 180 degrees."""
    images, angle = batch[0], math.pi * batch[1]
    rows = [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    at = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1] * 2 - 1  # centres of pixels; an image reaches from -1 to 1
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1) @ torch.stack(rows).T
    grid = grid.expand(len(images), *grid.shape)
    made: Tensor = module(F.grid_sample(images, grid, align_corners=False))
    return made


def shifted(module: nn.Module, batch: Batch) -> Tensor:
    """Run it on signals shifted by g times their length, round the end."""
    signals = batch[0]
    at = torch.fft.rfftfreq(signals.shape[-1], 1 / signals.shape[-1])
    turn = -2 * math.pi * at * batch[1]
    made: Tensor = module(torch.fft.irfft(torch.fft.rfft(signals) * torch.complex(turn.cos(), turn.sin()), n=signals.shape[-1]))
    return made


def plainly(module: nn.Module, batch: Batch) -> Tensor:
    """Run it as it is."""
    made: Tensor = module(batch[0])
    return made


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Against the classes."""
    found: Tensor = F.cross_entropy(outputs, batch[2])
    return found


def trade_off(outputs: Tensor, batch: Batch) -> Tensor:
    """(1 - g) times the cross entropy of ten outputs, g times the squared error of the others as a reconstruction."""
    found: Tensor = (1 - batch[1]) * F.cross_entropy(outputs[:, :10], batch[2]) + batch[1] * F.mse_loss(outputs[:, 10:], batch[0])
    return found


QUESTIONS = (
    Question("class or reconstruction, MLP on signals", "mnist1d", partial(perceptron, 50), plainly, trade_off),
    Question("rotation, CNN on digits", "digits", convolutional, turned, cross_entropy),
    Question("shift, MLP on signals", "mnist1d", partial(perceptron, 10), shifted, cross_entropy),
    Question("dropout, CNN on digits", "digits", convolutional, dropped, cross_entropy, plainly),
    Question("dropout, MLP on signals", "mnist1d", partial(perceptron, 10), dropped, cross_entropy, plainly),
)


@cache
def examples(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Examples to learn from and to judge by; images as images."""
    found = data.load(name)
    shape = (-1, 1, 8, 8) if name == "digits" else (-1, 40)
    return found.train.reshape(shape), found.train_classes, found.test.reshape(shape), found.test_classes


def one_task(question: Question, module: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], g: Tensor, *, judged: bool = False) -> Task:
    """What is asked under one condition; parts are batches."""
    forward = question.judged or question.forward if judged else question.forward
    return Task(module, [(inputs, g, classes) for inputs, classes in parts], question.loss, {}, forward)


def measure(question: Question, variant: str, seed: int, steps: int, learning_rate: float) -> dict[str, float]:
    """Fit one variant and judge it."""
    inputs, classes, test_inputs, test_classes = examples(question.examples)
    torch.manual_seed(seed)  # the module's own weights do not matter, masks of dropout do
    module = question.module()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    batches = [(inputs[at], classes[at]) for at in torch.split(order, BATCH) if len(at) == BATCH]
    tasks = [one_task(question, module, batches, g) for g in LEARNED]
    material = Material(Target.of_module(module), tasks=tasks, conditions=LEARNED[:, None])
    settings: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "together": TOGETHER, **VARIANTS[variant]}
    fitted = fit("mip", material, generator=torch.Generator().manual_seed(seed), **settings)
    made = sample(fitted, len(JUDGED), Wish(condition=JUDGED[:, None]))
    found: dict[str, list[float]] = {"loss": [], "test loss": [], "test accuracy": []}
    for at, g in enumerate(JUDGED):
        state = {name: tensor[at] for name, tensor in made.items()}
        found["loss"].append(one_task(question, module, [(inputs, classes)], g, judged=True).evaluate(state)["loss"])
        test = one_task(question, module, [(test_inputs, test_classes)], g, judged=True)
        found["test loss"].append(test.evaluate(state)["loss"])
        found["test accuracy"].append(float((next(iter(test.outputs(state)))[:, :10].argmax(1) == test_classes).double().mean()))
    return {name: sum(values) / len(values) for name, values in found.items()} | {"parameters": sum(map(torch.numel, fitted.parameters()))}


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    for question in [one for one in QUESTIONS if options.only in one.name]:
        for seed in range(options.seeds):
            for variant in options.variants:
                here = {"question": question.name, "variant": variant, "seed": seed, "steps": options.steps, "rate": options.learning_rate}
                if is_known(options.results, here):
                    continue
                start = time.process_time()
                row = here | measure(question, variant, seed, options.steps, options.learning_rate)
                row["cpu"] = time.process_time() - start
                keep(options.results, [row])
                print(row, flush=True)


def report(rows: Lines) -> Iterator[str]:
    """A table for each learning rate: mean over the seeds with its 95 % interval, and the ratio of losses to the default's, seed by seed."""
    for steps, rate in sorted({(row["steps"], row["rate"]) for row in rows}):
        lines: list[Row] = []
        for question in QUESTIONS:
            for variant in VARIANTS:
                own, default = (
                    {
                        row["seed"]: row
                        for row in rows
                        if (row["question"], row["variant"], row["steps"], row["rate"]) == (question.name, name, steps, rate)
                    }
                    for name in (variant, "default")
                )
                if own:
                    estimated = {name: Estimate.of([row[name] for row in own.values()]) for name in ("loss", "test loss", "test accuracy")}
                    ratio = Estimate.of([row["loss"] / default[seed]["loss"] for seed, row in own.items() if seed in default])
                    lines.append({"task": question.name, "variant": variant, **estimated, "loss / default": ratio, "seeds": len(own)})
        yield f"\n**{steps} steps of Adam, learning rate {rate:g}**\n\n{markdown(lines)}"


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--only", default="", help="part of the names of the tasks to measure")
    perform(parser, run, report)


if __name__ == "__main__":
    main()
