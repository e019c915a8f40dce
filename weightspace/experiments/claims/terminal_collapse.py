"""That features collapse to one point a class, and these to a simplex, when training goes on after no training error is left."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.functional import neural_collapse
from weightspace.experiments.claim import Finding, at_least, at_most, below, claim
from weightspace.experiments.data import Examples
from weightspace.experiments.networks import mlp
from weightspace.experiments.train import train, train_from
from weightspace.task import Task

INPUTS, WIDTH, UNTIL, BEYOND = 64, 128, 1200, 4000
MEASURES = {
    "nc1": "within-class over between-class scatter",
    "equiangular": "spread of the cosines of class means",
    "nc3": "classifier against class means",
}


@claim(
    "terminal-collapse",
    statement="Trained on after zero training error, features fall onto their class means, these onto a simplex, and the classifier onto them (neural collapse).",
    source="Papyan, Han and Donoho, Prevalence of neural collapse, arXiv:2008.08186, figures 2 to 7",
    topic="weights",
    tries=("measure neural_collapse",),
)
def terminal_collapse(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train perceptrons on 1,500 handwritten digits, and measure where training error vanishes and long after."""
    examples = digits()
    first = train(lambda width: mlp(INPUTS, width), WIDTH, examples, seeds, UNTIL)
    module = mlp(INPUTS, WIDTH).eval()
    last = train_from(module, first, examples, [100 + seed for seed in seeds], BEYOND)
    task = Task.classification(module, examples.train, examples.train_classes, batch_size=2000)
    before, after = ([neural_collapse(task, one).values() for one in networks] for networks in (first, last))
    accuracies = [task.evaluate(one)["accuracy"] for one in first]
    yield at_least("training accuracy where the terminal phase begins", accuracies, 0.999)
    for name, what in MEASURES.items():
        yield below(f"{name}: {what}", [one[name] for one in after], [one[name] for one in before], "at the beginning")
    wrong = [one["nc4"] for one in after]
    yield at_most(
        "share of examples whose nearest class mean is another class",
        wrong,
        0.001,
        baseline=[one["nc4"] for one in before],
        against="at the beginning",
    )


def digits() -> Examples:
    """The handwritten digits of scikit-learn, 1,500 to learn from and 297 to test on."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    inputs, classes = torch.tensor(found.data / 16, dtype=torch.float32)[order], torch.tensor(found.target)[order].long()
    return Examples(inputs[:1500], classes[:1500], inputs[1500:], classes[1500:])
