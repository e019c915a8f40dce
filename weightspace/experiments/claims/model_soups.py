"""That averaging networks fine-tuned with other settings gives one that is at least as good as the best of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from weightspace.analysis.merging.soups import greedy_soup
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.merge_seeds import average
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import VARIANTS, Split
from weightspace.experiments.train import train, train_from
from weightspace.task import Task

SHAPE, WIDTH, BEFORE = "mnist1d-mlp", 128, 1000
SETTINGS = ((1e-4, 200), (3e-4, 200), (3e-4, 400), (1e-3, 200), (1e-3, 400), (3e-3, 200))
TARGET = VARIANTS[0]


@claim(
    "model-soups",
    statement="The greedy average of networks fine-tuned from one base with other settings is at least as good as the best of them, at no cost at inference.",
    source="Wortsman et al., Model soups, arXiv:2203.05482, section 3 and table 2",
    topic="merging",
    seeds=5,
    tries=("merge method uniform_soup",),
)
def model_soups(seeds: Sequence[int]) -> Iterator[Finding]:
    """Fine-tune perceptrons on shifted signals of MNIST-1D with six rates and lengths; soups are chosen on training examples that none has seen."""
    examples = mnist1d()
    split = Split.of(examples)
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    learn = replace(examples, train=split.learn[0], train_classes=split.learn[1])
    target = replace(learn, train=TARGET.inputs(learn.train))
    tune, test = (Task.classification(module, TARGET.inputs(x), y, batch_size=5000) for x, y in (split.tune, split.test))
    bases = train(ARCHITECTURES[SHAPE], WIDTH, learn, seeds, BEFORE)
    tuned = [
        train_from(module, bases, target, [100 * at + seed for seed in seeds], steps, rate) for at, (rate, steps) in enumerate(SETTINGS, 1)
    ]
    greedy, uniform, best, mean = [], [], [], []
    for models in zip(*tuned, strict=True):
        chosen = max(models, key=lambda one: tune.evaluate(one)["accuracy"])
        soup = greedy_soup(models, lambda weights: tune.evaluate(weights)["accuracy"]).state_dict
        greedy.append(test.evaluate(soup)["accuracy"])
        uniform.append(test.evaluate(average(models))["accuracy"])
        best.append(test.evaluate(chosen)["accuracy"])
        mean.append(sum(test.evaluate(one)["accuracy"] for one in models) / len(models))
    gains = [one - other for one, other in zip(greedy, best, strict=True)]
    yield at_least("accuracy of the greedy soup less that of the best network", gains, 0.0)
    yield above("accuracy of the greedy soup", greedy, best, "the best network by held-out examples")
    yield above("accuracy of the uniform soup", uniform, mean, "its networks on average")
