"""Networks of different seeds averaged: as they are, aligned, mended by REPAIR, many at once; beside the networks themselves and their ensemble.

Run it with `python -m weightspace.experiments.merge_seeds --cache DIR --out DIR`; `--quick` is one small set of three.
Perceptrons on MNIST-1D are trained for it; Tiny10 are twelve networks of CIFAR-10 among the real checkpoints, left out where there are none.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.analysis.connectivity import repair_many
from weightspace.analysis.matching import match, match_many
from weightspace.analysis.merging.method import methods
from weightspace.experiments.data import load, real_checkpoints
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tables import Row, estimates, report
from weightspace.experiments.train import networks
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.task import Task

SHAPE, WIDTH, SETS, SIZE = "mnist1d-mlp", 256, 3, 5
STATISTICS = 5_000  # training examples of MNIST-1D that moments are measured on
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of the pixels, as Tiny10 was trained
Weights = dict[str, Tensor]
Mend = Literal["reset", "repair"] | None


@dataclass(frozen=True)
class Fold:
    """What moments are measured on, and what networks are judged on: never the same examples."""

    statistics: Task
    inputs: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Bench:
    """One shape of network with its data.

    Attributes:
        module: of the shape.
        spec: its neuron groups.
        folds: together they hold each test example once.
        masks: zeros for weights of inputs that are zero in every example.
        mends: what can be done to an average.
    """

    module: nn.Module
    spec: SymmetrySpec
    folds: tuple[Fold, ...]
    masks: Mapping[str, Tensor]
    mends: tuple[Mend, ...]

    @property
    def classes(self) -> Tensor:
        """Of all test examples."""
        return torch.cat([fold.classes for fold in self.folds])

    def logits(self, weights: Sequence[Weights]) -> Tensor:
        """Logits on all test examples, of weights for each fold."""
        found: list[Tensor] = []
        for own, fold in zip(weights, self.folds, strict=True):
            found += Task.classification(self.module, fold.inputs, fold.classes, batch_size=1000).outputs(own)
        return torch.cat(found).double()

    def seen(self, weights: Weights) -> Weights:
        """What matching looks at: weights of inputs that are always zero never learn."""
        return {name: tensor * self.masks.get(name, 1) for name, tensor in weights.items()}


class Tiny10(nn.Module):
    """Eight convolutions without padding, each with a batch norm, and a linear layer on the mean over places.

    Of Csiszárik et al., Similarity and matching of neural network representations (arXiv:2110.14633).
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 16, 32, 32, 32, 64, 64, 64)
        for at, (before, after) in enumerate(itertools.pairwise(widths), 1):
            setattr(self, f"conv{at}", nn.Conv2d(before, after, 1 if at == 8 else 3, 2 if at in (3, 6) else 1))
            setattr(self, f"bn{at}", nn.BatchNorm2d(after))
        self.fc = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Run it."""
        for at in range(1, 9):
            images = getattr(self, f"bn{at}")(getattr(self, f"conv{at}")(images)).relu()
        made: Tensor = self.fc(images.mean((2, 3)))
        return made


def perceptrons(width: int) -> Bench:
    """Perceptrons on MNIST-1D; moments are measured on training examples."""
    examples, module = load(SHAPE.partition("-")[0]), ARCHITECTURES[SHAPE](width)
    statistics = Task.classification(module, examples.train[:STATISTICS], examples.train_classes[:STATISTICS], batch_size=1000)
    spec = ws.trace(module.eval(), examples.test[:4])
    fold = Fold(statistics, examples.test, examples.test_classes)
    return Bench(module, spec, (fold,), {"fc1.weight": examples.used}, (None, "repair"))


def tiny10() -> Bench:
    """Tiny10 on a hundred test images, which are all there are: moments for one half of them are measured on the other half.

    The half that is measured is flipped and shifted as in training: six images of each.
    """
    table = np.loadtxt(real_checkpoints() / "eran-data" / "cifar10_test_first100.csv", delimiter=",")
    pixels = torch.tensor(table[:, 1:], dtype=torch.float32).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2) / 255
    images = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    classes, module = torch.tensor(table[:, 0].astype(np.int64)), Tiny10()
    halves = [(images[:50], classes[:50]), (images[50:], classes[50:])]
    folds = []
    for (inputs, targets), (other, others) in (halves, halves[::-1]):
        varied = torch.cat(list(flipped_and_shifted(other)))
        repeated = others.repeat(len(varied) // len(others))
        order = torch.randperm(len(varied), generator=torch.Generator().manual_seed(0))
        folds.append(Fold(Task.classification(module, varied[order], repeated[order], batch_size=300), inputs, targets))
    return Bench(module, ws.trace(module.eval(), images[:4]), tuple(folds), {}, (None, "reset", "repair"))


def flipped_and_shifted(images: Tensor) -> Iterator[Tensor]:
    """Images flipped and shifted, with zeros beyond the border."""
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    for row, column in ((4, 4), (2, 7), (7, 2)):
        part = padded[:, :, row : row + 32, column : column + 32]
        yield from (part, part.flip(-1))


def aligned(bench: Bench, models: Sequence[Weights], how: str, statistics: Task | None = None) -> list[Weights]:
    """Move networks into one space in one of the ways of `ALIGNMENTS`: onto the first, or into a space of their own."""
    if how == "none":
        return list(models)
    seen = [bench.seen(model) for model in models]
    if how.startswith("many"):
        elements = list(match_many(seen, bench.spec, how.partition(", ")[2], reference=0).elements)
    else:
        options: dict[str, Any] = {"task": statistics, "similarity": "inner"} if how == "activation" else {}
        elements = [bench.spec.identity(), *(match(seen[0], one, bench.spec, how, **options).element for one in seen[1:])]
    return [dict(act(element, model)) for element, model in zip(elements, models, strict=True)]


ALIGNMENTS = ("none", "weight", "activation", "many, merge", "many, universe")
"""Each matched to the first by weights or by activations; MergeMany; all at once into a shared space, from the matches to the first."""


def average(models: Sequence[Weights]) -> Weights:
    """The mean of floats; counts are those of the first."""
    counts = {name: tensor for name, tensor in models[0].items() if not tensor.is_floating_point()}
    return {name: methods["linear"]([one[name] for one in models], weight=1.0) for name in models[0] if name not in counts} | counts


def mended(models: Sequence[Weights], mend: Mend, statistics: Task) -> Weights:
    """The average of aligned networks, perhaps mended."""
    made = average(models)
    return made if mend is None else repair_many(statistics, made, models, mode=mend).state_dict


def judge(logits: Tensor, bench: Bench, ensemble: Tensor, parents: Sequence[Tensor]) -> dict[str, float]:
    """Accuracy, and how far the logits agree with those of the ensemble and of the parents (other than itself)."""
    others = [parent for parent in parents if parent is not logits]
    return {
        "accuracy": (logits.argmax(1) == bench.classes).double().mean().item(),
        "loss": nn.functional.cross_entropy(logits, bench.classes).item(),
        "same class, ensemble": _same(logits, ensemble),
        "same class, parents": sum(_same(logits, parent) for parent in others) / len(others),
        "cosine, ensemble": _cosine(logits, ensemble),
        "cosine, parents": sum(_cosine(logits, parent) for parent in others) / len(others),
    }


def _same(a: Tensor, b: Tensor) -> float:
    return (a.argmax(1) == b.argmax(1)).double().mean().item()


def _cosine(a: Tensor, b: Tensor) -> float:
    """Mean over examples; a constant added to all logits of one says nothing, so their mean is taken away."""
    return nn.functional.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)).mean().item()


def measure(bench: Bench, models: Sequence[Weights]) -> dict[tuple[str, str], dict[str, float]]:
    """Everything the table says of one set of networks, by alignment and mend."""
    parents = [bench.logits([model] * len(bench.folds)) for model in models]
    ensemble = torch.stack(parents).mean(0)
    each = [judge(one, bench, ensemble, parents) for one in parents]
    found = {
        ("*single networks*", ""): {name: sum(one[name] for one in each) / len(each) for name in each[0]},
        ("*ensemble of logits*", ""): judge(ensemble, bench, ensemble, parents),
    }
    for how in ALIGNMENTS:
        if how.startswith("many") and len(models) == 2:
            continue
        if how == "activation":
            moved = [aligned(bench, models, how, fold.statistics) for fold in bench.folds]
        else:
            moved = [aligned(bench, models, how)] * len(bench.folds)
        for mend in bench.mends:
            weights = [mended(own, mend, fold.statistics) for own, fold in zip(moved, bench.folds, strict=True)]
            found[how, mend or ""] = judge(bench.logits(weights), bench, ensemble, parents)
    return found


def table(bench: Bench, sets: Sequence[Sequence[Weights]]) -> list[Row]:
    """Estimates over sets of networks, one row for each alignment and mend."""
    found = [measure(bench, models) for models in sets]
    size = len(sets[0])
    return [{"networks": size, "alignment": how, "mended": mend, **estimates([one[how, mend] for one in found])} for how, mend in found[0]]


def main() -> None:
    """Print the table of perceptrons, and that of Tiny10."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--seeds", type=int, default=SETS, help="sets of five networks, all of other seeds")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="one set of three perceptrons of width 64")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        cache = arguments.cache or Path(scratch)
        rows = of_perceptrons(64, 1, 3, cache) if arguments.quick else of_perceptrons(arguments.width, arguments.seeds, SIZE, cache)
    report(rows, f"merge-seeds-{SHAPE}", arguments.out)
    if (real_checkpoints() / "drfrankenstein").is_dir() and not arguments.quick:
        report(of_tiny10(), "merge-seeds-tiny10", arguments.out)
    print(f"\n{time.perf_counter() - started:.0f} s")


def of_perceptrons(width: int, sets: int, size: int, cache: Path) -> list[Row]:
    """Pairs of perceptrons that share no network, and larger sets that share none."""
    bench, found = perceptrons(width), networks(cache, SHAPE, width, count=sets * size)
    pairs, groups = ([found[at : at + many] for at in range(0, len(found) - many + 1, many)] for many in (2, size))
    return [*table(bench, pairs), *table(bench, groups)]


def of_tiny10() -> list[Row]:
    """Six pairs that share no network, and all twelve."""
    bench = tiny10()
    files = sorted((real_checkpoints() / "drfrankenstein").glob("tiny10_*.pt"))
    models = [dict(ws.open(file).state_dict()) for file in files]
    return [*table(bench, [models[at : at + 2] for at in range(0, len(models), 2)]), *table(bench, [models])]


if __name__ == "__main__":
    main()
