"""Generators that learn a distribution of weights, beside what embarrasses them, at equal novelty.

Perceptrons on MNIST-1D: 200 checkpoints of one run; 150 networks of one run each, as they are; the same aligned to one of them; the same, and
permuted copies. Every generator is drawn from at many settings of what makes its networks more or less unlike the zoo's. How unlike a
network is, is told by the examples it gets wrong: the largest intersection over union with what a network of the zoo gets wrong.
Each half of the test signals is used once: settings are chosen on one, and judged on the other.

    python -m weightspace.experiments.distribution --results results.jsonl [--seeds 5]
    python -m weightspace.experiments.distribution --results results.jsonl --report
"""

import argparse
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Material, Target, WeightGenerator, fit, sample
from weightspace.analysis.generation.alignment import aligned, augmented
from weightspace.analysis.generation.card.novelty import logits, nearest_distance, nearest_iou, wrong
from weightspace.experiments.resumable import Lines, command_line, keep, known, perform, share_option, shared
from weightspace.experiments.tables import with_interval
from weightspace.metanets import WeightBatch
from weightspace.spec import SymmetrySpec
from weightspace.task import Task
from weightspace.zoo.populations import training
from weightspace.zoo.populations.classifiers import initialise
from weightspace.zoo.populations.data import load

HIDDEN, RATE, BATCH = 16, 1e-2, 64
SEEDS, SEED_STEPS = 150, 1000
CHECKPOINTS, RUN_STEPS, APART = 200, 2000, 5
DRAWN, NEAR = 100, 6
TOGETHER = (5, 20)
ARMS = ("one run", "seeds", "seeds, aligned", "seeds, augmented")
SPEC = {"fc1.weight": "h 40", "fc1.bias": "h", "fc2.weight": "10 h'", "fc2.bias": "10"}

Draw = Callable[[int, torch.Generator], Mapping[str, Tensor]]
"""So many networks, stacked."""


@dataclass(frozen=True)
class Method:
    """A way to new weights.

    Attributes:
        make: from a zoo and a seed, how to draw at each setting, by the setting's name; a generator is fitted here.
        is_learned: whether a generator is fitted, not a baseline.
    """

    make: Callable[[Material, int], Iterator[tuple[str, Draw]]]
    is_learned: bool = False


def module() -> nn.Module:
    """The architecture of all networks."""
    return nn.Sequential(OrderedDict(fc1=nn.Linear(40, HIDDEN), relu=nn.ReLU(), fc2=nn.Linear(HIDDEN, 10)))


def trained(seed: int, count: int, steps: Sequence[int]) -> dict[str, Tensor]:
    """Networks after each of the steps, run by run within them."""
    data, net, found = load("mnist1d"), module(), []
    for start in range(0, count, training.TOGETHER):
        trainees = []
        for at in range(start, min(count, start + training.TOGETHER)):
            generator = torch.Generator().manual_seed(10_000 * seed + at)
            initialise(net, generator, 1.0)
            trainees.append(training.Trainee({name: one.clone() for name, one in net.state_dict().items()}, generator, RATE))
        batches = training.drawn(data.train, data.train_classes, trainees, BATCH)
        found += [w for _, w in training.train(net, trainees, batches, training.cross_entropy, training.Adam(), steps)]
    return {name: torch.cat([weights[name] for weights in found]) for name in found[0]}


def material(tensors: Mapping[str, Tensor]) -> Material:
    """Networks with the training signals."""
    data = load("mnist1d")
    rows = [{name: one[at] for name, one in tensors.items()} for at in range(len(tensors["fc1.bias"]))]
    networks = WeightBatch.stack(rows, SymmetrySpec.parse(SPEC, sizes={"h": HIDDEN}))
    return Material(Target.of_networks(networks), networks, [Task.classification(module(), data.train, data.train_classes)])


@cache
def seeds_of(seed: int) -> Material:
    """Networks of one run each."""
    return material(trained(seed, SEEDS, [SEED_STEPS]))


@cache
def zoo(arm: str, seed: int) -> Material:
    """The networks of an arm."""
    if arm == "one run":
        return material(trained(1000 + seed, 1, range(RUN_STEPS + APART, RUN_STEPS + APART * CHECKPOINTS + 1, APART)))
    if arm == "seeds":
        return seeds_of(seed)
    generator = torch.Generator().manual_seed(seed)
    if arm == "seeds, aligned":
        return aligned(seeds_of(seed), "reference", generator=generator)
    return augmented(seeds_of(seed), 3, generator=generator)


def generator_at(fitted: WeightGenerator, **changes: Any) -> Draw:
    """Draw after changing attributes, named by paths with `__` for dots; tensors are multiplied."""

    def draw(count: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        before = {}
        for path, value in changes.items():
            *parts, last = path.split("__")
            owner: Any = fitted.get_submodule(".".join(parts))
            before[path] = getattr(owner, last)
            setattr(owner, last, before[path] * value if isinstance(before[path], Tensor) else value)
        try:
            return sample(fitted, count, generator=generator)
        finally:
            for path, value in before.items():
                *parts, last = path.split("__")
                setattr(fitted.get_submodule(".".join(parts)), last, value)

    return draw


def at_settings(name: str, grid: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], given: Material, seed: int) -> Any:
    """One fit of a generator, and its settings when networks are drawn."""
    fitted = fit(name, given, generator=torch.Generator().manual_seed(seed), **settings)
    for changes in grid:
        yield " ".join(f"{key.rpartition('__')[2]}={value}" for key, value in changes.items()), generator_at(fitted, **changes)


def between(given: Material, seed: int, *, mean: bool) -> Iterator[tuple[str, Draw]]:
    """Networks on the way from one of the zoo to another, or to the mean of all."""
    flat = given.flat()

    def draw(share: float, count: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        one, other = (flat[torch.randint(len(flat), (count,), generator=generator)] for _ in range(2))
        return given.target.tensors((1 - share) * one + share * (flat.mean(0) if mean else other))

    for share in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, *((0.7, 0.9, 1.0) if mean else ())):
        yield f"share={share}", partial(draw, share)


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """All combinations."""
    return [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]


FLOW = {"hidden": 128, "blocks": 2, "components": 50, "steps": 1500, "solver_steps": 10}
PDIFF = {"hidden": 128, "autoencoder_steps": 1000, "steps": 1500, "timesteps": 100, "last_noise": 0.1}
HYPERREP = {"latent": 16, "hidden": 32, "layers": 1, "steps": 350, "batch_size": 16, "best": 1.0}
WARM = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)

METHODS: Mapping[str, Method] = {
    "noise": Method(partial(at_settings, "noise", grid(sigma=[0.0, 0.01, 0.02, 0.035, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5]), {})),
    "relative noise": Method(
        partial(at_settings, "noise", grid(sigma=[0.0, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8]), {"relative": True})
    ),
    "mean of k": Method(partial(at_settings, "mean", grid(of=[1, 2, 3, 4, 8, 16, 0]), {})),
    "interpolation of two": Method(partial(between, mean=False)),
    "network towards the mean": Method(partial(between, mean=True)),
    "mean plus Gaussian": Method(partial(at_settings, "gaussian", grid(spread=[0.0, 0.1, 0.2, 0.35, 0.5, 0.7]), {})),
    "Gaussian": Method(partial(at_settings, "gaussian", grid(spread=[1.0]), {})),
    "flow": Method(partial(at_settings, "flow", grid(temperature=WARM), FLOW), is_learned=True),
    "pdiff": Method(partial(at_settings, "pdiff", grid(diffusion__spread=WARM), PDIFF), is_learned=True),
    "hyperrep": Method(
        partial(at_settings, "hyperrep", grid(centre=["dimension", "token", "network"], bandwidth=[0.0, 0.25, 0.5, 1.0]), HYPERREP),
        is_learned=True,
    ),
}


@dataclass(frozen=True)
class Judge:
    """One half of the test signals, with what the zoo gets wrong on it.

    Attributes:
        task: of that half.
        classes: of its signals.
        errors: (networks, signals) of the zoo.
    """

    task: Task
    classes: Tensor
    errors: Tensor

    @classmethod
    def of(cls, half: int, given: Material) -> "Judge":
        """Judge the zoo."""
        data = load("mnist1d")
        classes = data.test_classes[half::2]
        task = Task.classification(module(), data.test[half::2], classes)
        assert given.networks is not None
        return cls(task, classes, wrong(logits(task, given.networks.tensors, given.target), classes))

    def __call__(self, made: Mapping[str, Tensor], target: Target) -> dict[str, float]:
        """Accuracy, novelty and accuracies together of drawn networks."""
        told = logits(self.task, made, target)
        errors = wrong(told, self.classes)
        found = {"accuracy": 1 - float(errors.double().mean()), "best": 1 - float(errors.double().mean(1).min())}
        found["iou"] = float(nearest_iou(errors, self.errors).mean())
        return found | {f"together {many}": self._together(told, many) for many in TOGETHER}

    def zoo(self, told: Tensor) -> dict[str, float]:
        """The same of the zoo itself, each network beside all others."""
        found = {"accuracy": 1 - float(self.errors.double().mean()), "best": 1 - float(self.errors.double().mean(1).min())}
        found["iou"] = float(nearest_iou(self.errors, self.errors, leave_one_out=True).mean())
        return found | {f"together {many}": self._together(told, many) for many in TOGETHER}

    def _together(self, told: Tensor, many: int) -> float:
        """Mean accuracy of ensembles of so many, by their mean probabilities."""
        groups = told.softmax(-1)[: len(told) // many * many].reshape(-1, many, *told.shape[1:]).mean(1)
        return float((groups.argmax(-1) == self.classes).double().mean())


def near(made: Mapping[str, Tensor], given: Material, leave_one_out: bool = False) -> float:
    """Median distance of the first networks to the nearest of the zoo, modulo permutations."""
    assert given.networks is not None
    some = {name: tensor[:NEAR] for name, tensor in made.items()}
    found = nearest_distance(some, given.networks.tensors, given.target.spec, leave_one_out=leave_one_out, candidates=1)
    return float(found.median())


def measure(arm: str, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each setting of a method."""
    given = zoo(arm, seed)
    judges = [Judge.of(half, given) for half in range(2)]
    assert given.networks is not None
    if name == "zoo":
        order = torch.randperm(len(given.networks), generator=torch.Generator().manual_seed(seed))
        told = [logits(judge.task, given.networks[order].tensors, given.target) for judge in judges]
        halves = [judge.zoo(one) for judge, one in zip(judges, told, strict=True)]
        yield {"setting": "", "halves": halves, "near": near(given.networks.tensors, given, leave_one_out=True)}
        return
    start = time.process_time()
    for setting, draw in METHODS[name].make(given, seed):
        fitting, start = time.process_time() - start, time.process_time()
        made = draw(DRAWN, torch.Generator().manual_seed(seed))
        row = {"setting": setting, "fit": fitting, "ms": 1000 * (time.process_time() - start) / DRAWN}
        if METHODS[name].is_learned:
            row["near"] = near(made, given)
        yield row | {"halves": [judge(made, given.target) for judge in judges]}
        start = time.process_time()


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    done = {(row["seed"], row["arm"], row["method"]) for row in known(options.results)}
    for seed in shared(range(options.seeds), options.share):
        for arm, name in itertools.product(options.arms, ["zoo", *METHODS]):
            if (seed, arm, name) in done:
                continue
            lines = [{"seed": seed, "arm": arm, "method": name, **row} for row in measure(arm, name, seed)]
            keep(options.results, lines)
            print(seed, arm, name, len(lines), flush=True)
        zoo.cache_clear()
        seeds_of.cache_clear()


VALIDATION, TEST = 0, 1
COPY = 0.999
USUAL = {"flow": "temperature=1.0", "pdiff": "spread=1.0", "hyperrep": "centre=token bandwidth=1.0"}
"""The settings that tables without a choice are of."""


def at_novelty(rows: Lines, level: float) -> tuple[float, float] | None:
    """Test accuracy and test IoU of the best of a method that is no less novel than a level.

    What is chosen from are single settings and mixtures of two, where each network is drawn at one of the two: of a mixture both
    accuracy and IoU are means. Chosen is what is best on the validation half.
    """
    points = [[(half["accuracy"], half["iou"]) for half in row["halves"]] for row in rows]
    best: tuple[float, float, float] | None = None
    for one, other in itertools.product(points, points):
        low, high = one[VALIDATION][1], other[VALIDATION][1]
        if low > level:
            continue
        share = 0.0 if high <= low else min(1.0, (level - low) / (high - low))
        told, accuracy, iou = ((1 - share) * one[half][k] + share * other[half][k] for half, k in ((VALIDATION, 0), (TEST, 0), (TEST, 1)))
        if best is None or told > best[0]:
            best = told, accuracy, iou
    return None if best is None else best[1:]


def together(rows: Lines, many: int) -> float:
    """Test accuracy of ensembles, at the setting that is best on the validation half; copies of the zoo's networks are no setting."""
    key = f"together {many}"
    new = [row for row in rows if row["halves"][VALIDATION]["iou"] < COPY] or rows
    best = max(new, key=lambda row: row["halves"][VALIDATION][key])
    return float(best["halves"][TEST][key])


def interval(values: Sequence[float], scale: float = 100.0) -> str:
    """Mean and half the 95 % interval over seeds."""
    return with_interval(values, 1, scale=scale) or "-"


Found = Mapping[tuple[str, str, int], Lines]


def by_key(rows: Lines) -> Found:
    """Rows by arm, method and seed."""
    found: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["method"], row["seed"]), []).append(row)
    return found


def seeds_in(found: Found, arm: str, *names: str) -> list[int]:
    """Seeds for which all of these were measured."""
    return sorted(set.intersection(*({seed for a, m, seed in found if (a, m) == (arm, name)} for name in names)))


def report(rows: Lines) -> Iterator[str]:
    """Markdown: for each arm the usual settings, the table at equal novelty, ensembles; then what alignment gains."""
    found = by_key(rows)
    for arm in ARMS:
        if any(key[0] == arm for key in found):
            yield f"\n## {arm}\n"
            yield from usual(found, arm)
            yield from equal(found, arm)
            yield from ensembles(found, arm)
    yield from gains(found)


def usual(found: Found, arm: str) -> Iterator[str]:
    """What each learned generator makes without any choice."""
    yield "| | accuracy | best of 100 | max-IoU | nearest distance | fit, CPU s | ms a network |\n|-|-|-|-|-|-|-|"
    for name in ("zoo", *USUAL):
        rows = [one for seed in seeds_in(found, arm, name) for one in found[arm, name, seed] if one["setting"] == USUAL.get(name, "")]
        test = [one["halves"][TEST] for one in rows]
        columns = [interval([one[key] for one in test]) for key in ("accuracy", "best", "iou")]
        columns.append(interval([one["near"] for one in rows], 1.0))
        fits = [max(one["fit"] for one in found[arm, name, seed]) for seed in seeds_in(found, arm, name)] if name != "zoo" else []
        yield f"| {name} | {' | '.join(columns)} | {interval(fits, 1.0)} | {interval([one.get('ms', 0.0) for one in rows], 1.0)} |"


def levels(found: Found, arm: str, seed: int) -> dict[str, float]:
    """The IoUs at which methods are compared, from what the networks of the zoo have among themselves on the validation half."""
    plain = arm.replace("augmented", "aligned")  # permuted copies of a network are no other networks
    own = found[plain, "zoo", seed][0]["halves"][VALIDATION]["iou"]
    return {"half-way to a copy": (1 + own) / 2, "the zoo's own": own, "4 points below": own - 0.04}


def equal(found: Found, arm: str) -> Iterator[str]:
    """Accuracy at equal novelty, beside noise and the best baseline, which is chosen on the validation half for each seed."""
    names = [name for name in METHODS if seeds_in(found, arm, "zoo", name)]
    baselines = [name for name in names if not METHODS[name].is_learned]
    known_levels = seeds_in(found, arm.replace("augmented", "aligned"), "zoo")
    for level in ("half-way to a copy", "the zoo's own", "4 points below"):
        yield f"\nAt a max-IoU of at most {level}:\n\n| method | accuracy | max-IoU | minus noise | minus best baseline |\n|-|-|-|-|-|"
        for name in names:
            seeds = [seed for seed in seeds_in(found, arm, "zoo", "noise", name) if seed in known_levels]
            chosen = {seed: at_novelty(found[arm, name, seed], levels(found, arm, seed)[level]) for seed in seeds}
            reached = {seed: one for seed, one in chosen.items() if one is not None}
            if len(reached) < len(seeds):
                yield f"| {name} | not reached in {len(seeds) - len(reached)} of {len(seeds)} | | | |"
                continue
            apart = []
            for other in (["noise"], baselines):
                beside = {seed: best_of(found, arm, other, seed, levels(found, arm, seed)[level]) for seed in seeds}
                apart.append(interval([reached[seed][0] - value for seed, value in beside.items() if value is not None]))
            columns = [interval([one[k] for one in reached.values()]) for k in (0, 1)]
            yield f"| {name} | {' | '.join([*columns, *apart])} |"


def best_of(found: Found, arm: str, names: Sequence[str], seed: int, level: float) -> float | None:
    """Test accuracy of the best of several methods at a level; their settings are chosen from as if they were those of one method."""
    rows = [row for name in names for row in found.get((arm, name, seed), ())]
    chosen = at_novelty(rows, level)
    return None if chosen is None else chosen[0]


def ensembles(found: Found, arm: str) -> Iterator[str]:
    """Ensembles of drawn networks, and of the zoo's own."""
    heads = " | ".join(f"{many} together | minus noise | minus mean plus Gaussian" for many in TOGETHER)
    yield f"\n| ensembles | {heads} |\n|-|{'-|' * 3 * len(TOGETHER)}"
    for name in ("zoo", *METHODS):
        seeds = seeds_in(found, arm, name, "noise", "mean plus Gaussian")
        columns = []
        for many in TOGETHER:
            values = {seed: together(found[arm, name, seed], many) for seed in seeds}
            columns.append(interval(list(values.values())))
            for other in ("noise", "mean plus Gaussian"):
                columns.append(interval([value - together(found[arm, other, seed], many) for seed, value in values.items()]))
        yield f"| {name} | {' | '.join(columns)} |"


def gains(found: Found) -> Iterator[str]:
    """What alignment and augmentation change in the accuracy of what is drawn at the usual settings."""
    yield "\n## Points of accuracy over networks as they are\n\n| generator | aligned | augmented |\n|-|-|-|"
    for name, setting in USUAL.items():
        columns = []
        for arm in ("seeds, aligned", "seeds, augmented"):
            seeds = set(seeds_in(found, "seeds", name)) & set(seeds_in(found, arm, name))
            values = [
                [next(r["halves"][TEST]["accuracy"] for r in found[a, name, seed] if r["setting"] == setting) for a in (arm, "seeds")]
                for seed in sorted(seeds)
            ]
            columns.append(interval([moved - plain for moved, plain in values]))
        yield f"| {name} | {' | '.join(columns)} |"


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    share_option(parser)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=ARMS)
    perform(parser, run, report)


if __name__ == "__main__":
    main()
