"""That the weights between a network and what was fine-tuned from it keep the robustness of the one and the accuracy of the other."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import VARIANTS
from weightspace.experiments.train import train, train_from
from weightspace.task import Task

SHAPE, WIDTH, BEFORE, AFTER = "mnist1d-mlp", 128, 1500, 300
TARGET = VARIANTS[0]


@claim(
    "wise-tuning",
    statement="Halfway between a pre-trained network and its fine-tuned copy, most of what tuning had lost on other data is back, and little of what it gained is gone.",
    source="Wortsman et al., Robust fine-tuning of zero-shot models, arXiv:2109.01903, section 4",
    topic="merging",
    seeds=5,
)
def wise_tuning(seeds: Sequence[int]) -> Iterator[Finding]:
    """Pre-train on signals of MNIST-1D and their shifts, tune on one shift, and measure that and the signals as they were."""
    examples = mnist1d()
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    both = replace(
        examples,
        train=torch.cat([examples.train, TARGET.inputs(examples.train[:1000])]),
        train_classes=torch.cat([examples.train_classes, examples.train_classes[:1000]]),
    )
    tuning = replace(examples, train=TARGET.inputs(examples.train))
    bases = train(ARCHITECTURES[SHAPE], WIDTH, both, seeds, BEFORE)
    tuned = train_from(module, bases, tuning, [100 + seed for seed in seeds], AFTER)
    old = Task.classification(module, examples.test, examples.test_classes, batch_size=5000)
    new = Task.classification(module, TARGET.inputs(examples.test), examples.test_classes, batch_size=5000)
    lines = [[barrier(base, one, task, 3).values["accuracy"] for task in (old, new)] for base, one in zip(bases, tuned, strict=True)]
    back = [(on_old[1] - on_old[2]) / (on_old[0] - on_old[2]) for on_old, _ in lines]
    held = [(on_new[1] - on_new[0]) / (on_new[2] - on_new[0]) for _, on_new in lines]
    yield at_least("share of the loss on the data before that is undone half-way", back, 0.5)
    yield at_least("share of the gain on the data tuned for that is kept half-way", held, 0.5)
    sums = [[x + y for x, y in zip(on_old, on_new, strict=True)] for on_old, on_new in lines]
    yield above(
        "sum of both accuracies half-way", [line[1] for line in sums], [max(line[0], line[2]) for line in sums], "at the better end"
    )
