"""Families of stitched networks: three anchors of other widths and depths, what lies between them, and what training them together costs.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.stitching_family --results results.jsonl [--seeds 5] [--data mnist1d mnist] [--variants ...]
    python -m weightspace.experiments.stitching_family --results results.jsonl --report

Anchors are trained alone, stitches fitted by least squares on training examples, then all routes trained together. Everything is judged on test examples.
`--tune` judges on a fifth of the training examples instead, which then nothing learns from; settings were chosen so, on seeds from 100 on.
Beside the family stand controls without training (from the raw input, from a front with random weights, random stitches), anchors that learn alone
for as many steps again, and small networks of a stitch's FLOPs that are distilled from the largest anchor.
"""

import argparse
import bisect
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching import Chain, Patchwork, Piece, Route, fit_stitches, stitched
from weightspace.analysis.stitching.family import SHARES, family
from weightspace.analysis.stitching.pareto import Report, report
from weightspace.analysis.stitching.training import distillation, train
from weightspace.experiments import data
from weightspace.experiments.resumable import command_line, keep, known, perform
from weightspace.experiments.stitching_family_tables import tables
from weightspace.task import Task

BATCH, CLASSES = 64, 10
FIT = 1000  # examples that stitches are fitted on
ANCHOR_RATE = 2e-3

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "random stitches": {"kind": "random"},
    "joint sharing": {"share": "joint"},
    "averaged sharing": {"share": "averaged"},
    "all routes alike": {"anchor_share": None},
    "anchor share .5": {"anchor_share": 0.5},
    "frozen anchors": {"anchor_rate": 0.0},
    "anchors' rate x .1": {"anchor_rate": 0.1},
    "rate x .3": {"learning_rate": 0.3},
    "rate x 3": {"learning_rate": 3.0},
    "soft distillation": {"distil": "soft"},
    "no distillation": {"distil": "none"},
}
OF_FAMILY = ("kind", "share")


class Block(nn.Module):
    """A residual block of two linear layers behind a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Add to what comes in."""
        made: Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return made


class ConvBlock(nn.Module):
    """A residual block of two convolutions of signals, each behind a norm; the first of a stage halves the places."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(before, width, 3, stride, 1, bias=False)
        self.second = nn.Conv1d(width, width, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm1d(width), nn.BatchNorm1d(width)])
        self.skip = nn.Conv1d(before, width, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add to what comes in, or to a map of it."""
        inner = self.norms[0](self.first(x)).relu()
        made: Tensor = (self.norms[1](self.second(inner)) + self.skip(x)).relu()
        return made


@dataclass(frozen=True)
class Family:
    """Anchors of one kind on one data set.

    Attributes:
        data: their examples.
        build: makes a network of a width and depth.
        sizes: widths and depths, smallest first.
        steps: of training an anchor.
        joint: of training all together.
        rate: of that, at its start.
        anchor_share: of that, the steps that run an anchor; None draws all routes alike.
    """

    data: str
    build: Callable[[int, int], nn.Module]
    sizes: tuple[tuple[int, int], ...]
    steps: int
    joint: int
    rate: float
    anchor_share: float | None = None


def perceptron(inputs: int) -> Callable[[int, int], nn.Module]:
    """Residual networks of linear layers."""
    return lambda width, depth: nn.Sequential(
        nn.Linear(inputs, width), *[Block(width) for _ in range(depth)], nn.LayerNorm(width), nn.Linear(width, CLASSES)
    )


def convolutional(width: int, depth: int) -> nn.Module:
    """A residual network of signals with three stages of `depth` blocks."""
    blocks = [ConvBlock(width, width, 2 if at == 0 and stage else 1) for stage in range(3) for at in range(depth)]
    stem = [nn.Unflatten(1, (1, 40)), nn.Conv1d(1, width, 3, 1, 1, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, CLASSES))


FAMILIES: Mapping[str, Family] = {
    "mnist1d": Family("mnist1d", perceptron(40), ((12, 3), (32, 4), (80, 6)), 1000, 800, 1e-3, 0.5),
    "mnist": Family("mnist", perceptron(784), ((6, 3), (16, 4), (48, 6)), 800, 800, 1e-3),
    "mnist1d-even": Family("mnist1d", perceptron(40), ((12, 4), (32, 4), (80, 4)), 800, 800, 1e-3, 0.5),
    "mnist1d-cnn": Family("mnist1d", convolutional, ((6, 1), (10, 2), (16, 3)), 600, 600, 1e-3),
}


@dataclass(frozen=True)
class Material:
    """Examples to learn from and to be judged by."""

    train: Tensor
    train_classes: Tensor
    test: Tensor
    test_classes: Tensor

    @classmethod
    def of(cls, name: str, *, tune: bool) -> "Material":
        """Load them; for tuning, a fifth of those to learn from stands in for the test."""
        found = data.load(name)
        if not tune:
            return cls(found.train, found.train_classes, found.test, found.test_classes)
        kept = len(found.train) * 4 // 5
        return cls(found.train[:kept], found.train_classes[:kept], found.train[kept:], found.train_classes[kept:])

    def tasks(self, module: nn.Module) -> dict[str, Task]:
        """To fit stitches on, to learn from and to be judged by."""
        parts = {
            "fit": (self.train[:FIT], self.train_classes[:FIT], 500),
            "train": (self.train, self.train_classes, BATCH),
            "test": (self.test, self.test_classes, 1000),
        }
        return {name: Task.classification(module, x, y, batch_size=size) for name, (x, y, size) in parts.items()}


def learn(module: nn.Module, material: Material, steps: int, generator: torch.Generator, teacher: nn.Module | None = None) -> nn.Module:
    """Train a network alone: AdamW, its rate falling as a cosine; with a teacher, half the loss is cross entropy to its best class."""
    optimizer = torch.optim.AdamW(module.parameters(), ANCHOR_RATE, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(steps):
        drawn = torch.randint(len(material.train), (BATCH,), generator=generator)
        inputs = material.train[drawn]
        logits = module(inputs)
        loss = nn.functional.cross_entropy(logits, material.train_classes[drawn])
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(inputs)
            loss = 0.5 * loss + 0.5 * distillation(logits, wanted)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return module.eval()


def built(one: Family, size: tuple[int, int], seed: int) -> nn.Module:
    """A network with weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return one.build(*size)


def anchors(one: Family, material: Material, seed: int) -> dict[str, Chain]:
    """The three anchors, trained, in parts."""
    found = {}
    for at, size in enumerate(one.sizes):
        generator = torch.Generator().manual_seed(1000 * seed + at)
        module = learn(built(one, size, 1000 * seed + at), material, one.steps, generator)
        found[f"w{size[0]}d{size[1]}"] = Chain.of(module, material.train[:4])
    return found


def variant(one: Family, chains: Mapping[str, Chain], material: Material, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make a family, judge it, train it and judge it again."""
    tasks = material.tasks(next(iter(chains.values())))
    chosen = {name: value for name, value in settings.items() if name in OF_FAMILY}
    others = {"anchor_share": one.anchor_share} | {name: value for name, value in settings.items() if name not in OF_FAMILY}
    rate = one.rate * others.pop("learning_rate", 1.0)
    made = family(chains, tasks["fit"], generator=torch.Generator().manual_seed(seed), **chosen)
    before = report(made, tasks["test"], repeats=0)
    generator = torch.Generator().manual_seed(seed)
    started = time.process_time()
    trained, _ = train(made, tasks["train"], steps=one.joint, learning_rate=rate, generator=generator, **others)
    seconds = time.process_time() - started
    after = report(trained, tasks["test"], before=before)
    return {
        **summary(before, "zero-shot "),
        **summary(after),
        "layers": len(made.stitches),
        "routes": len(made.routes),
        "joint s": seconds,
    } | {
        "rows": [
            [row.route, row.name, row.is_anchor, row.flops, row.score_before, row.score, row.on_front, row.beats_both] for row in after.rows
        ]
    }


def summary(found: Report, prefix: str = "") -> dict[str, Any]:
    """What is said of a family at once."""
    known = {row.name: row.score for row in found.anchors}
    ratios = [row.score / known[row.name.partition(":")[0]] for row in found.stitches]
    made = {
        "stitches": statistics.mean(row.score for row in found.stitches),
        "ratio": statistics.mean(ratios),
        "least ratio": min(ratios),
        "spearman": found.spearman,
        "above line": statistics.mean(row.above_line for row in found.stitches),
        "beat both": sum(row.beats_both for row in found.stitches),
        "beat both on front": sum(row.beats_both and row.on_front for row in found.stitches),
    }
    made |= {f"anchor {at}": row.score for at, row in enumerate(found.anchors)}
    return {f"{prefix}{name}": value for name, value in made.items()}


def controls(one: Family, chains: Mapping[str, Chain], material: Material, seed: int) -> dict[str, Any]:
    """Without training: the same ends behind the raw input, behind fronts with random weights, and behind those that were trained."""
    tasks = material.tasks(next(iter(chains.values())))
    made = family(chains, tasks["fit"])
    drawn = [Chain.of(built(one, size, 7000 + 1000 * seed + at).eval(), material.train[:4]) for at, size in enumerate(one.sizes)]
    scores: dict[str, list[float]] = {"raw input": [], "random front": []}
    for front, end in ((0, 1), (1, 2)):
        pairs = [
            (route.pieces[0].stop or 0, route.pieces[1].start)
            for route in made.routes
            if not route.is_anchor and route.pieces[0].chain == front
        ]
        target = made.chain(end)
        for name, source, found in (("raw input", made.chain(front), [(-1, b) for _, b in pairs]), ("random front", drawn[front], pairs)):
            for pair, stitch in fit_stitches(source, target, tasks["fit"], dict.fromkeys(found)).items():
                scores[name] += [accuracy(stitched(source, target, stitch, pair), material)] * found.count(pair)
    zero = report(made, tasks["test"], repeats=0)
    return {name: statistics.mean(values) for name, values in scores.items()} | {
        "least squares": statistics.mean(row.score for row in zero.stitches),
        "smaller anchors": statistics.mean(row.score for row in zero.anchors[:2]),
    }


def sharing(one: Family, chains: Mapping[str, Chain], material: Material, seed: int) -> dict[str, Any]:
    """Without training: layers of their own, shared by the sum of normal equations, and shared as means of maps."""
    tasks = material.tasks(next(iter(chains.values())))
    out: dict[str, Any] = {}
    for share in SHARES:
        made = family(chains, tasks["fit"], share=share)
        found = report(made, tasks["test"], repeats=0)
        out |= {share: statistics.mean(row.score for row in found.stitches), f"{share} layers": len(made.stitches)}
    return out


def alone(one: Family, chains: Mapping[str, Chain], material: Material, seed: int) -> dict[str, Any]:
    """Anchors that learn alone for as many steps each as the family together, by the same loss and rate."""
    tasks = material.tasks(next(iter(chains.values())))
    routes = [Route((Piece(at),)) for at in range(len(chains))]
    apart = Patchwork(list(chains.values()), [], routes, names=list(chains))
    before = report(apart, tasks["test"], repeats=0)
    generator = torch.Generator().manual_seed(seed)
    made, _ = train(apart, tasks["train"], steps=len(chains) * one.joint, learning_rate=one.rate, generator=generator)
    after = report(made, tasks["test"], before=before)
    return {f"anchor {at}": row.score for at, row in enumerate(after.anchors)} | {
        f"zero-shot anchor {at}": row.score for at, row in enumerate(before.anchors)
    }


def distilled(one: Family, chains: Mapping[str, Chain], material: Material, seed: int) -> dict[str, Any]:
    """For each two neighbours a network as large as the stitch of median FLOPs, which the largest anchor teaches from scratch for as many steps."""
    tasks = material.tasks(next(iter(chains.values())))
    rows = report(family(chains, tasks["fit"]), tasks["test"], repeats=0).stitches
    names = list(chains)
    out: dict[str, Any] = {}
    for at, depth in enumerate((one.sizes[1][1], one.sizes[2][1])):
        ours = [row for row in rows if row.name.startswith(f"{names[at]}:")]
        row = sorted(ours, key=lambda each: each.flops)[len(ours) // 2]
        widths = range(2, one.sizes[at + 1][0] + 1)
        within = bisect.bisect_right(widths, row.flops, key=lambda width, depth=depth: flops(one, (width, depth), material))  # type: ignore[misc]
        size = (widths[max(within - 1, 0)], depth)
        generator = torch.Generator().manual_seed(9000 + 1000 * seed + at)
        small = built(one, size, 9000 + 1000 * seed + at)
        learn(small, material, one.steps + one.joint, generator, chains[names[-1]])
        out |= {f"distilled {at}": accuracy(small, material), f"route {at}": row.route}
        out |= {f"stitch {at} flops": row.flops, f"distilled {at} flops": flops(one, size, material), f"distilled {at} size": list(size)}
    return out


def flops(one: Family, size: tuple[int, int], material: Material) -> float:
    """Of a network of a size, one example."""
    from weightspace.analysis.stitching.costs import flops_of

    return flops_of(built(one, size, 0).eval(), (material.train[:2], material.train_classes[:2]))


def accuracy(module: nn.Module, material: Material) -> float:
    """On the examples to be judged by."""
    with torch.no_grad():
        return float((module(material.test).argmax(-1) == material.test_classes).double().mean())


OTHERS: Mapping[str, Callable[[Family, Mapping[str, Chain], Material, int], dict[str, Any]]] = {
    "controls": controls,
    "sharing": sharing,
    "alone": alone,
    "distilled": distilled,
}


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    for name in options.data:
        one = FAMILIES[name]
        material = Material.of(one.data, tune=options.tune)
        for seed in range(options.first, options.first + options.seeds):
            done = {row["variant"] for row in known(options.results) if (row["data"], row["seed"]) == (name, seed)}
            missing = [each for each in options.variants if each not in done]
            if not missing:
                continue
            chains = anchors(one, material, seed)
            for each in missing:
                started = time.process_time()
                found = (
                    OTHERS[each](one, chains, material, seed) if each in OTHERS else variant(one, chains, material, seed, VARIANTS[each])
                )
                row = {"data": name, "seed": seed, "variant": each, **found, "cpu": time.process_time() - started}
                keep(options.results, [row])
                print({key: value for key, value in row.items() if key != "rows"}, flush=True)


def main() -> None:
    """Read the options and run."""
    parser = command_line(str(__doc__))
    parser.add_argument("--data", nargs="*", choices=list(FAMILIES), default=["mnist1d", "mnist"])
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--variants", nargs="*", choices=[*VARIANTS, *OTHERS], default=[*VARIANTS, *OTHERS])
    parser.add_argument("--tune", action="store_true", help="judge on training examples that are held out")
    perform(parser, run, tables)


if __name__ == "__main__":
    main()
