"""The barrier between classifiers of different seeds: before and after each way to align them, mended and calibrated.

Run it with `python -m weightspace.experiments.barriers mnist1d-mlp 64 256 512 --cache DIR --out DIR`.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.analysis.connectivity import Connectivity, barrier
from weightspace.analysis.matching import match
from weightspace.experiments.data import Examples, load
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tables import Row, estimates, report
from weightspace.experiments.train import STEPS, networks
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.task import Task

PAIRS, POINTS = 5, 11
STATISTICS = 5_000  # training examples that activations, REPAIR and batch norms are measured on
Weights = dict[str, Tensor]
ALIGNMENTS: Mapping[str, tuple[str | None, Mapping[str, Any]]] = {
    "none": (None, {}),
    "weight": ("weight", {}),
    "activation": ("activation", {}),
    "activation, inner": ("activation", {"similarity": "inner"}),
    "straight_through": ("straight_through", {}),
}
Mend = Literal["reset", "repair"] | None


@dataclass(frozen=True)
class Bench:
    """One shape of network with its data.

    Attributes:
        module: of the shape.
        spec: its neuron groups, traced.
        train: training examples, for what needs data.
        test: what barriers are measured on.
        masks: zeros for weights of inputs that are zero in every example.
    """

    module: nn.Sequential
    spec: SymmetrySpec
    train: Task
    test: Task
    masks: dict[str, Tensor]

    @classmethod
    def of(cls, name: str, width: int, examples: Examples) -> "Bench":
        """Set up one shape."""
        module = ARCHITECTURES[name](width)
        some = Task.classification(module, examples.train[:STATISTICS], examples.train_classes[:STATISTICS], batch_size=1000)
        test = Task.classification(module, examples.test, examples.test_classes, batch_size=1000)
        masks = {"fc1.weight": examples.used} if isinstance(module[0], nn.Linear) else {}
        return cls(module, ws.trace(module.eval(), examples.test[:4]), some, test, masks)

    def align(self, name: str, a: Weights, b: Weights) -> Weights:
        """Move b onto a in one of the ways of `ALIGNMENTS`."""
        method, options = ALIGNMENTS[name]
        if method is None:
            return b
        if method != "weight":
            options = {**options, "task": self.train}
        if method == "straight_through" and self.has_norms:
            options = {**options, "batch_statistics": True}
        return dict(act(match(self.seen(a), self.seen(b), self.spec, method, **options).element, b))

    def seen(self, weights: Weights) -> Weights:
        """The weights without those of inputs that are zero in every training example: they never learn, and are left out of costs."""
        return {name: tensor * self.masks.get(name, 1) for name, tensor in weights.items()}

    @property
    def has_norms(self) -> bool:
        """Whether there are batch norms."""
        return any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in self.module)

    def mends(self) -> tuple[Mend, ...]:
        """What can be done to a network on the line: batch norms can be measured anew."""
        return (None, "reset", "repair") if self.has_norms else (None, "repair")

    def between(self, a: Weights, b: Weights, mend: Mend) -> Connectivity:
        """Measure the line on the test examples; what mends it is measured on training examples."""
        return barrier(a, b, self.test, POINTS, repair=mend, calibrate=True, statistics=self.train)


def measure(bench: Bench, alignment: str, a: Weights, b: Weights) -> Iterator[tuple[Mend, dict[str, float]]]:
    """Align one pair and measure the line, mended in each way."""
    started = time.process_time()
    aligned = bench.align(alignment, a, b)
    seconds = time.process_time() - started
    for mend in bench.mends():
        curve = bench.between(a, aligned, mend)
        loss, calibrated, accuracy = (curve.barriers[name] for name in ("loss", "calibrated_loss", "accuracy"))
        yield (
            mend,
            {
                "accuracy of ends": (curve.values["accuracy"][0] + curve.values["accuracy"][-1]) / 2,
                "loss": loss.interpolated,
                "loss, worse end": loss.worse,
                "loss, calibrated": calibrated.interpolated,
                "accuracy": accuracy.interpolated,
                "CPU s": seconds,
            },
        )


def main() -> None:
    """Measure one architecture at some widths, aligned in every way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ARCHITECTURES)
    parser.add_argument("widths", type=int, nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for width in arguments.widths:
        bench = Bench.of(arguments.name, width, load(arguments.name.partition("-")[0]))
        found = networks(arguments.cache, arguments.name, width, count=2 * PAIRS, steps=arguments.steps)
        for alignment in ALIGNMENTS:
            measured: dict[Mend, list[dict[str, float]]] = {}
            for a, b in zip(found[::2], found[1::2], strict=True):
                for mend, values in measure(bench, alignment, a, b):
                    measured.setdefault(mend, []).append(values)
            rows += [
                {"width": width, "alignment": alignment, "mended": mend or "", **estimates(values)} for mend, values in measured.items()
            ]
            report(rows, f"barriers-{arguments.name}", arguments.out)


if __name__ == "__main__":
    main()
