"""D2NWG on pairs of the classes of MNIST-1D, two whole classes held out, beside what embarrasses it.

Results are kept line by line, so that it may be ended and run again; the networks are trained once, and kept beside the results:

    python -m weightspace.experiments.d2nwg --results results.jsonl [--seeds 5] [--share 0/2] [--set steps=2000 ...]
    python -m weightspace.experiments.d2nwg --results results.jsonl --report

A task is to tell two classes apart, the first from the second, so that each pair is two tasks; every network counts for both, its outputs
swapped. What knows nothing of the task is so right half of the time, to the digit. For each seed two classes are held out with all their
tasks, and four pairs of the other eight. A task is described by shots of each class of the training signals, as they are and as a small
convolutional network sees them that has learned the eight classes alone. The settings were chosen on other classes held out (--tune).
Everything is judged on test signals; fine-tuning goes on as the networks were trained.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.alignment import aligned
from weightspace.analysis.generation.generators.d2nwg import D2NWG
from weightspace.analysis.generation.latent.set_encoder import few_shots
from weightspace.analysis.generation.material import stacked
from weightspace.experiments.class_pairs import (
    SEEDS,
    SPLITS,
    Features,
    Networks,
    Pair,
    Rotation,
    fresh,
    judged,
    module,
    rows_of,
    trained,
    zoo,
)
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, perform, share_option, shared
from weightspace.experiments.tables import Cell, Estimate, markdown
from weightspace.metanets import WeightBatch
from weightspace.tracing import trace
from weightspace.zoo.populations.data import Examples, load

SHOTS, DRAWS = 20, 10
FINE_TUNING = (0, 1, 5, 20)
SETTINGS: Mapping[str, Any] = {
    "encoder": "clip",
    "shots": 10,
    "guidance": 1.0,
    "autoencoder_steps": 800,
    "encoder_steps": 400,
    "steps": 1500,
    "batch_size": 32,
    "sampling_steps": 50,
}
NOISE = 0.3  # standard deviation, in those of the zoo's parameters


class Trial:
    """One rotation: the generators fitted, the tasks described."""

    def __init__(self, data: Examples, every: Mapping[Pair, Networks], rotation: Rotation, settings: Mapping[str, Any]) -> None:
        self.data, self.every, self.rotation = data, every, rotation
        self.learned = rotation.pairs["learned"]
        self.features = Features.of(data, rotation.held_out, rotation.seed + 100)
        rows = [row for pair in self.learned for row in rows_of(every[pair])]
        spec = trace(module(), data.train[:2])
        networks = WeightBatch.stack(rows, spec)
        told = torch.stack([self.described(pair, seed) for pair in self.learned for seed in range(SEEDS)])
        material = Material(Target.of_networks(networks), networks, conditions=told)
        self.material = aligned(material, "reference", generator=torch.Generator().manual_seed(0))
        assert self.material.networks is not None
        start = time.process_time()
        self.conditional = fit("d2nwg", self.material, generator=self.chance(), **settings)
        self.fit_seconds = time.process_time() - start
        self.mean = {name: tensor.mean(0, keepdim=True) for name, tensor in self.material.networks.tensors.items()}
        self.spread = {name: tensor.std(0) for name, tensor in self.material.networks.tensors.items()}
        self.prototypes = torch.stack([self.prototype(pair) for pair in self.learned])

    def chance(self) -> torch.Generator:
        """A source of chance of this rotation."""
        return torch.Generator().manual_seed(self.rotation.seed + 100)

    def described(self, pair: Pair, seed: int) -> Tensor:
        """Shots of each class of a task."""
        generator = torch.Generator().manual_seed(10_000 * seed + 100 * pair[0] + pair[1])
        return few_shots(self.data.train, self.data.train_classes, pair, SHOTS, features=self.features, generator=generator)

    def prototype(self, pair: Pair) -> Tensor:
        """The mean features of each class of a task, over all training signals."""
        return torch.stack([self.features(self.data.train[self.data.train_classes == one]).mean(0) for one in pair])

    def unconditional(self) -> Networks:
        """Networks drawn with the condition left out, as it was for a tenth of those learned from."""
        made = self.conditional
        assert isinstance(made, D2NWG)
        with torch.no_grad():
            drawn = made.autoencoder.decode(made.diffusion.sample(DRAWS, generator=self.chance()))
        return made.target.tensors(made.standard.grow(drawn))

    def retrieved(self, drawn: Tensor) -> Networks:
        """For each description a network of the nearest task, by the standardised mean features of its classes."""
        spread = self.prototypes.flatten(0, 1).std(0).clamp(min=1e-6)  # some units of the network see nothing at all
        apart = (self.prototypes[None] - drawn.mean(2)[:, None]) / spread
        nearest = [self.learned[at] for at in apart.flatten(2).norm(dim=2).argmin(1).tolist()]
        return stacked([rows_of(self.every[pair])[at % SEEDS] for at, pair in enumerate(nearest)])

    def noised(self, networks: Networks) -> Networks:
        """Networks with noise."""
        generator = self.chance()
        return {
            name: tensor + NOISE * self.spread[name] * torch.randn(tensor.shape, generator=generator) for name, tensor in networks.items()
        }

    def from_shots(self, pair: Pair) -> Networks:
        """Networks trained on the very signals that describe the task, and on nothing else."""
        inputs = few_shots(self.data.train, self.data.train_classes, pair, SHOTS, generator=self.chance())
        few = replace(self.data, train=inputs.flatten(0, 1), train_classes=torch.tensor(pair).repeat_interleave(SHOTS))
        return trained(few, pair, fresh(SEEDS, 7), [100], 7)[100]

    def methods(self, pair: Pair) -> Iterator[tuple[str, Networks]]:
        """What each method gives for a task."""
        drawn = torch.stack([self.described(pair, 100 + draw) for draw in range(DRAWS)])
        yield "d2nwg", sample(self.conditional, DRAWS, Wish(drawn), generator=self.chance())
        yield "unconditional", self.unconditional()
        yield "nearest task", (nearest := self.retrieved(drawn))
        yield "nearest task + noise", self.noised(nearest)
        yield "mean of the zoo", self.mean
        yield "not trained", stacked(fresh(DRAWS, 5))
        yield f"trained on the {2 * SHOTS} shots alone", self.from_shots(pair)
        yield "trained on the task", self.every[pair]

    def milliseconds(self, together: int) -> float:
        """CPU time of a network that is drawn."""
        wish = Wish(self.described(self.learned[0], 0))
        start = time.process_time()
        sample(self.conditional, together, wish)
        return 1000 * (time.process_time() - start) / together

    def measured(self) -> Iterator[dict[str, Any]]:
        """Mean accuracy by split and method, at once and after some steps."""
        here = {"seed": self.rotation.seed, "held_out": list(self.rotation.held_out)}
        for split in SPLITS:
            found: dict[str, list[list[float]]] = {}
            for pair in self.rotation.pairs[split]:
                for name, networks in self.methods(pair):
                    after = trained(self.data, pair, rows_of(networks), FINE_TUNING, 3)
                    found.setdefault(name, []).append([judged(self.data, pair, after[step]) for step in FINE_TUNING])
            for name, each in found.items():
                means = torch.tensor(each, dtype=torch.float64).mean(0).tolist()
                yield here | {"split": split, "method": name, "accuracy": dict(zip(map(str, FINE_TUNING), means, strict=True))}
        yield here | {"split": "cost", "fit": self.fit_seconds, "alone": self.milliseconds(1), "of 100": self.milliseconds(100)}


def run(options: argparse.Namespace) -> None:
    """Measure the rotations that are not known yet."""
    data, results = load("mnist1d"), options.results
    settings = {**SETTINGS, **{name: json.loads(value) for name, _, value in (one.partition("=") for one in options.set)}}
    every = zoo(data, results.with_suffix(".zoo.pt"))
    for seed in shared([-1, -2] if options.tune else range(options.seeds), options.share):
        if is_known(results, {"seed": seed}):
            continue
        found = list(Trial(data, every, Rotation(seed), settings).measured())
        keep(results, [row | {"settings": settings} for row in found])
        print(f"seed {seed}: {[row['accuracy']['0'] for row in found if row.get('method') == 'd2nwg']}", flush=True)


def report(found: Lines) -> Iterator[str]:
    """Tables: accuracy at once by split, d2nwg less each, then after steps of fine-tuning on tasks of unseen classes."""
    rows, cost = ([row for row in found if (row["split"] == "cost") == wanted] for wanted in (False, True))
    names = list(dict.fromkeys(row["method"] for row in rows))

    def values(split: str, name: str, step: int = 0) -> list[float]:
        return [row["accuracy"][str(step)] for row in rows if (row["split"], row["method"]) == (split, name)]

    def table(cell: Any, columns: Sequence[Any]) -> str:
        lines: list[dict[str, Cell]] = [{"method": name} | {str(column): cell(name, column) for column in columns} for name in names]
        return markdown(lines)

    def ahead(name: str, split: str, step: int = 0) -> Estimate:
        return Estimate.of([a - b for a, b in zip(values(split, "d2nwg", step), values(split, name, step), strict=True)])

    yield f"\n**Test accuracy at once** ({len(cost)} choices of the two classes held out)\n"
    yield table(lambda name, split: Estimate.of(values(split, name)), SPLITS)
    yield "\n**d2nwg less each**\n"
    yield table(ahead, SPLITS)
    yield f"\n**d2nwg less each, both after {FINE_TUNING[-1]} steps of fine-tuning**\n"
    yield table(lambda name, split: ahead(name, split, FINE_TUNING[-1]), SPLITS)
    for split in SPLITS[:3]:
        yield f"\n**After steps of fine-tuning, {split}**\n"
        yield table(lambda name, step, split=split: Estimate.of(values(split, name, step)), FINE_TUNING)
    shown = ", ".join(f"{name} {Estimate.of([row[name] for row in cost])}" for name in ("fit", "alone", "of 100"))
    yield f"\nCPU seconds to fit, milliseconds a network drawn: {shown}"


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    share_option(parser)
    parser.add_argument("--tune", action="store_true", help="hold out other classes than those that are reported")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the generator, name=JSON")
    perform(parser, run, report)


if __name__ == "__main__":
    main()
