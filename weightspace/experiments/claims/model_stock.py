"""That networks fine-tuned from one base lie on a thin shell, at one angle to each other, and that two of them show the way to its centre."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from weightspace.analysis.merging.method import methods
from weightspace.experiments.claim import Finding, above, at_most, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.merge_seeds import average
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.task_merging import merged
from weightspace.experiments.tasks import VARIANTS
from weightspace.experiments.train import train, train_from
from weightspace.task import Task

SHAPE, WIDTH, BEFORE, AFTER, COPIES = "mnist1d-mlp", 128, 1000, 300, 6
TARGET = VARIANTS[0]
THIN = 0.05


@claim(
    "model-stock",
    statement="Networks fine-tuned from one base with other seeds have task vectors of one length and one angle; Model Stock uses it to do better with two than their average.",
    source="Jang et al., Model Stock: all we need is just a few fine-tuned models, arXiv:2403.19522, sections 3 and 4",
    topic="merging",
    seeds=5,
    tries=("merge method model_stock",),
)
def model_stock(seeds: Sequence[int]) -> Iterator[Finding]:
    """Fine-tune six copies of MNIST-1D perceptrons on shifted signals, and measure task vectors as a whole."""
    examples = mnist1d()
    target = replace(examples, train=TARGET.inputs(examples.train), test=TARGET.inputs(examples.test))
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    task = Task.classification(module, target.test, target.test_classes, batch_size=5000)
    bases = train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, BEFORE)
    copies = [train_from(module, bases, target, [100 * copy + seed for seed in seeds], AFTER) for copy in range(1, COPIES + 1)]
    lengths, angles, stock, plain = [], [], [], []
    for base, *models in zip(bases, *copies, strict=True):
        vectors = torch.stack([_vector(model, base) for model in models])
        norms = vectors.norm(dim=1)
        cosines = torch.stack([torch.cosine_similarity(vectors[i], vectors[j], dim=0) for i, j in combinations(range(COPIES), 2)])
        lengths.append(float(norms.std() / norms.mean()))
        angles.append(float(cosines.arccos().std() / cosines.arccos().mean()))
        stock.append(task.evaluate(merged(methods["model_stock"], models[:2], base, {}))["accuracy"])
        plain.append(task.evaluate(average(models[:2]))["accuracy"])
    yield at_most("spread of the lengths of task vectors over their mean", lengths, THIN)
    yield at_most("spread of the angles between them over their mean", angles, THIN)
    yield above("accuracy of Model Stock of two", stock, plain, "the average of two")


def _vector(model: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([(model[name] - base[name]).flatten() for name in base])
