"""That the kurtosis of weights rises in pre-training and falls in fine-tuning, so that it tells parents from children."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from weightspace.experiments.claim import Finding, at_least, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import VARIANTS
from weightspace.experiments.train import train, train_from

SHAPE, WIDTH, STAGE, TUNING = "mnist1d-mlp", 128, 500, 200
SQUARE = ("fc2.weight", "fc3.weight")
MOSTLY = 0.9


@claim(
    "weight-kurtosis",
    statement="Weights get more outliers while a network is pre-trained and fewer while it is fine-tuned, so kurtosis gives the direction from parent to child.",
    source="Horwitz et al., Unsupervised model tree heritage recovery (MoTHer), arXiv:2405.18432, section 4",
    topic="weights",
    seeds=5,
)
def weight_kurtosis(seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare the sum over square matrices between stages of pre-training, and between each base and six networks tuned from it; chance is one half."""
    examples = mnist1d()
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    early = train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, STAGE)
    bases = train_from(module, early, examples, [100 + seed for seed in seeds], 2 * STAGE)
    rises = [float(_kurtosis(base) > _kurtosis(one)) for one, base in zip(early, bases, strict=True)]
    falls: list[list[float]] = [[] for _ in seeds]
    for at, variant in enumerate(VARIANTS[:6], 2):
        target = replace(examples, train=variant.inputs(examples.train), train_classes=variant.classes(examples.train_classes))
        tuned = train_from(module, bases, target, [100 * at + seed for seed in seeds], TUNING, 3e-4)
        for own, base, one in zip(falls, bases, tuned, strict=True):
            own.append(float(_kurtosis(one) < _kurtosis(base)))
    half = [0.5] * len(seeds)
    yield at_least("share of bases with a larger kurtosis than earlier in pre-training", rises, MOSTLY, baseline=half, against="by chance")
    shares = [sum(own) / len(own) for own in falls]
    yield at_least("share of tuned networks with a smaller kurtosis than their base", shares, MOSTLY, baseline=half, against="by chance")


def _kurtosis(weights: Mapping[str, Tensor]) -> float:
    centred = (weights[name].double() - weights[name].double().mean() for name in SQUARE)
    return sum(float(one.pow(4).mean() / one.square().mean() ** 2) for one in centred)
