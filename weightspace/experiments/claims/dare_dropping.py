"""That nine tenths of what fine-tuning changed can be dropped by chance, if the rest is made larger for it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from weightspace.analysis.merging.method import methods
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.task_merging import merged
from weightspace.experiments.tasks import VARIANTS
from weightspace.experiments.train import train, train_from
from weightspace.task import Task

SHAPE, WIDTH, BEFORE, AFTER, KEPT = "mnist1d-mlp", 256, 600, 200, 0.1
TARGET = VARIANTS[0]


@claim(
    "dare-dropping",
    statement="Of a fine-tuned network's changes 90 percent can be dropped at random without loss, if those that stay are multiplied by ten.",
    source="Yu et al., Language models are super Mario, arXiv:2311.03099, abstract and figure 1",
    topic="merging",
    tries=("merge method dare_linear",),
)
def dare_dropping(seeds: Sequence[int]) -> Iterator[Finding]:
    """Fine-tune MNIST-1D perceptrons on shifted signals, and drop with and without making the rest larger."""
    examples = mnist1d()
    target = replace(examples, train=TARGET.inputs(examples.train), test=TARGET.inputs(examples.test))
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    task = Task.classification(module, target.test, target.test_classes)
    bases = train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, BEFORE)
    tuned = train_from(module, bases, target, [100 + seed for seed in seeds], AFTER)
    kept: dict[str, list[float]] = {"dropped": [], "not rescaled": [], "base": []}
    for base, one in zip(bases, tuned, strict=True):
        own = task.evaluate(one)["accuracy"]
        for name, weights in {
            "dropped": merged(methods["dare_linear"], [one], base, {"weight": 1.0, "density": KEPT, "rescale_by": "density"}),
            "not rescaled": merged(methods["dare_linear"], [one], base, {"weight": 1.0, "density": KEPT, "rescale": False}),
            "base": base,
        }.items():
            kept[name].append(task.evaluate(weights)["accuracy"] / own)
    yield at_least("share of the accuracy that is left", kept["dropped"], 0.99, baseline=kept["base"], against="the base")
    yield above("the same", kept["dropped"], kept["not rescaled"], "not rescaled")
