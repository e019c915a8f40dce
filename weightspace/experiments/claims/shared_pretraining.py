"""That networks fine-tuned from one base lie in one basin, and networks trained from scratch do not."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.claim import Finding, at_least, at_most, below, claim
from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.merge_seeds import Weights, average
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import VARIANTS
from weightspace.experiments.train import train, train_from
from weightspace.task import Task

SHAPE, WIDTH, BEFORE, AFTER = "mnist1d-mlp", 128, 1500, 500
TARGET = VARIANTS[0]
NONE = 0.01
"""Of accuracy: as good as no barrier."""


@claim(
    "shared-pretraining",
    statement="Two networks fine-tuned from one pre-trained base have no barrier between them, and their average is as good; two trained from scratch have one.",
    source="Neyshabur et al., What is being transferred in transfer learning?, arXiv:2008.11687, section 3.4",
    topic="connectivity",
    seeds=5,
)
def shared_pretraining(seeds: Sequence[int]) -> Iterator[Finding]:
    """Learn shifted signals of MNIST-1D, in two orders of the batches: from a base that knows the signals as they are, and from scratch."""
    examples = mnist1d()
    target = replace(examples, train=TARGET.inputs(examples.train), test=TARGET.inputs(examples.test))
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    task = Task.classification(module, target.test, target.test_classes)
    bases = train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, BEFORE)
    tuned = [train_from(module, bases, target, [100 * copy + seed for seed in seeds], AFTER) for copy in (1, 2)]
    scratch = _from_scratch(target, seeds)
    barriers = {
        name: [barrier(a, b, task, 11).barriers["accuracy"].interpolated for a, b in zip(*pairs, strict=True)]
        for name, pairs in (("tuned", tuned), ("scratch", scratch))
    }
    yield at_most("accuracy barrier of fine-tuned pairs", barriers["tuned"], NONE, baseline=barriers["scratch"], against="from scratch")
    yield below("the same", barriers["tuned"], barriers["scratch"], "from scratch")
    averages = [task.evaluate(average(pair))["accuracy"] for pair in zip(*tuned, strict=True)]
    alone = [sum(task.evaluate(one)["accuracy"] for one in pair) / 2 for pair in zip(*tuned, strict=True)]
    gains = [both - one for both, one in zip(averages, alone, strict=True)]
    yield at_least("accuracy of the average of two fine-tuned networks less that of one", gains, 0.0)


def _from_scratch(target: Examples, seeds: Sequence[int]) -> list[list[Weights]]:
    made = train(ARCHITECTURES[SHAPE], WIDTH, target, [1000 + 2 * seed + one for seed in seeds for one in (0, 1)], BEFORE + AFTER)
    return [made[::2], made[1::2]]
