"""Eight networks fine-tuned from one base and merged into one by every method there is, each with parameters tuned on held-out examples.

Run it with `python -m weightspace.experiments.task_merging --cache DIR --out DIR`; `--quick` is one seed, small and little trained.
"""

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.merging import evidence
from weightspace.analysis.merging.method import MergeMethod, methods
from weightspace.analysis.merging.soups import greedy_soup
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tables import Row, estimates, report
from weightspace.experiments.tasks import VARIANTS, Family, Split, Weights, accuracies, families, trunk_of
from weightspace.task import Task

SEEDS, WIDTH, STEPS = 5, 256, 1000
MEASURED = 1000  # training examples that Gram matrices are measured on
FISHER = 200  # those of a Fisher, each with one class drawn from the network's own probabilities
GRIDS: Mapping[str, Sequence[Any]] = {
    "lambda": (0.1, 0.15, 0.25, 0.5, 1.0, 1.5),
    "density": (0.2, 0.5),
    "select_topk": (0.1, 0.3, 1.0),
    "filter_wise": (False, True),
    "t": (1e-3, 1e-2, 1e-1),
    "ratio": (0.5, 0.9, 1.0),
    "floor": (0.0, 1e-6, 1e-4),
    "epsilon": (1e-5, 1e-3),
    "r": (0.1, 1.0),
    "alpha": (0.2, 1.0),
    "temperature": (0.003, 0.01, 0.03, 0.1),
}
"""What is tried of a parameter, in whatever method it appears; those that are not here keep their defaults."""
OWN_GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "slerp": {"t": (None,)},
    "task_arithmetic": {"density": (1.0,)},
    "della": {"epsilon": (0.15,)},
    "della_linear": {"epsilon": (0.15,)},
    "sce": {"floor": (0.0,)},
}
"""Where the same word means something else, or nothing."""
LEFT_OUT = {"passthrough": "one of the networks"}
NORMALISED, WORST, ACCURACY = "of single-task", "worst task", "accuracy"
Merge = Callable[[Mapping[str, Any]], Weights]


@dataclass(frozen=True)
class Candidate:
    """Something to be tuned and judged.

    Attributes:
        name: in the table.
        merge: makes weights from parameters.
        grid: the parameters to try.
    """

    name: str
    merge: Merge
    grid: Sequence[Mapping[str, Any]] = ({},)


@dataclass(frozen=True)
class Bench:
    """One family with what it is judged by."""

    shape: str
    width: int
    family: Family
    split: Split

    @property
    def trunk(self) -> nn.Sequential:
        """All but the last layer."""
        return trunk_of(self.shape, self.width)

    def judge(self, weights: Weights, examples: tuple[Tensor, Tensor]) -> list[float]:
        """The accuracy of one trunk on each task."""
        return accuracies(self.trunk, weights, self.family.heads, examples)

    def single(self, examples: tuple[Tensor, Tensor]) -> list[list[float]]:
        """The accuracy of the network of each task (rows) on each task (columns)."""
        return [self.judge(weights, examples) for weights in self.family.tuned]

    def evidence(self) -> Mapping[str, list[Mapping[str, Tensor]]]:
        """The Fisher and the Gram matrices of each network, on training examples of its task."""
        found: dict[str, list[Mapping[str, Tensor]]] = {"fisher": [], "gram": []}
        signals, classes = (part[:MEASURED] for part in self.split.learn)
        for variant, weights, head in zip(VARIANTS, self.family.tuned, self.family.heads, strict=True):
            whole = {**weights, **{f"head.{name}": tensor for name, tensor in head.items()}}
            task = Task.classification(ARCHITECTURES[self.shape](self.width), variant.inputs(signals), variant.classes(classes))
            drawn = torch.Generator().manual_seed(0)
            found["fisher"].append(evidence.fisher(task, whole, labels="sampled", generator=drawn, examples=FISHER))
            found["gram"].append(evidence.gram(task, whole))
        return found


def merged(
    method: MergeMethod,
    models: Sequence[Weights],
    base: Weights | None,
    parameters: Mapping[str, Any],
    measured: Mapping[str, Sequence[Mapping[str, Tensor]]] | None = None,
) -> Weights:
    """Merge state dicts, a tensor at a time; draws differ from tensor to tensor."""
    made = {}
    for seed, name in enumerate(models[0]):
        known = {kind: [one.get(name) for one in (measured or {})[kind]] for kind in method.evidence}
        root = None if base is None else base[name]
        made[name] = method([one[name] for one in models], root, seed=seed, evidence=known, **parameters)
    return made


def folded(method: MergeMethod, models: Sequence[Weights], base: Weights | None, parameters: Mapping[str, Any]) -> Weights:
    """Merge with a method of two models, one model after another, so that each counts as much as the others where it can be said how much."""
    made = models[0]
    for count, other in enumerate(models[1:], 1):
        own = {name: value for name, value in parameters.items() if value is not None}
        if "t" in method.parameters and "t" not in own:
            own["t"] = 1 / (count + 1)
        if method.inputs[1] == 1:
            made = merged(method, [other], made, own)
        else:
            made = merged(method, [made, other], base, own | {"weight": (float(count), 1.0)})
    return made


def candidates(bench: Bench) -> Iterator[Candidate]:
    """What there is to judge: baselines, and every method of the registry."""
    family = bench.family
    average = merged(methods["linear"], family.tuned, None, {"weight": 1.0})
    yield Candidate("*base*", lambda _: family.base)
    yield Candidate("*trained on all tasks*", lambda _: family.joint)
    yield Candidate("*uniform average*", lambda _: average)
    yield Candidate("*WiSE-FT*", lambda own: _between(family.base, average, own["alpha"]), _grid({"alpha": [k / 10 for k in range(1, 11)]}))
    of_soup = lambda weights: _mean(bench.judge(dict(weights), bench.split.tune))  # noqa: E731
    yield Candidate("greedy soup", lambda _: greedy_soup(family.tuned, of_soup).state_dict)
    measured = bench.evidence()
    scores = tuple(_mean(bench.judge(one, bench.split.tune)) for one in family.tuned)
    for name, method in methods.items():
        if name not in LEFT_OUT and method.inputs[0] <= len(family.tuned):
            yield _candidate(name, method, family, measured, scores)


def _candidate(
    name: str, method: MergeMethod, family: Family, measured: Mapping[str, Sequence[Mapping[str, Tensor]]], scores: tuple[float, ...]
) -> Candidate:
    is_folded = method.inputs[1] is not None and method.inputs[1] <= 2
    given: dict[str, Any] = {"score": scores} if "score" in method.parameters else {}
    if "weight" in method.parameters and not is_folded:
        given["weight"] = 1.0
    tried = {one: values for one, values in {**GRIDS, **OWN_GRIDS.get(name, {})}.items() if one in method.parameters}
    roots = {"required": (True,), "none": (False,), "optional": (False, True)}[method.base]

    def merge(own: Mapping[str, Any]) -> Weights:
        parameters = dict(own)
        base = family.base if parameters.pop("base") else None
        if is_folded:
            return folded(method, family.tuned, base, given | parameters)
        return merged(method, family.tuned, base, given | parameters, measured)

    return Candidate(f"{name}, one after another" if is_folded else name, merge, _grid({"base": roots, **tried}))


def outcome(bench: Bench, candidate: Candidate, singles: Mapping[str, Sequence[float]]) -> tuple[Mapping[str, Any], dict[str, float]]:
    """Tune on the examples held out for that, and measure on the test examples."""
    best, chosen, kept = -1.0, candidate.grid[0], None
    for own in candidate.grid:
        weights = candidate.merge(own)
        found = _mean(_shares(bench.judge(weights, bench.split.tune), singles["tune"])) if len(candidate.grid) > 1 else 0.0
        if found > best:
            best, chosen, kept = found, own, weights
    assert kept is not None
    return chosen, summary(bench.judge(kept, bench.split.test), singles["test"])


def summary(found: Sequence[float], single: Sequence[float]) -> dict[str, float]:
    """What the table says of one network."""
    shares = _shares(found, single)
    return {NORMALISED: _mean(shares), WORST: min(shares), ACCURACY: _mean(found)}


def run(shape: str, width: int, seeds: Sequence[int], steps: int, cache: Path | None, names: Sequence[str] = ()) -> list[Row]:
    """Merge the family of each seed in every way (or those that are named); the table, best first."""
    split = Split.of(mnist1d())
    measured: dict[str, list[dict[str, float]]] = {}
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for family in families(shape, width, seeds, steps, cache):
        bench = Bench(shape, width, family, split)
        table = bench.single(split.test)
        singles = {"tune": _diagonal(bench.single(split.tune)), "test": _diagonal(table)}
        others = [summary(row, singles["test"]) for row in table]
        measured.setdefault("*one of the eight, on all tasks*", []).append({key: _mean([one[key] for one in others]) for key in others[0]})
        measured.setdefault("*single-task, each on its own*", []).append(summary(singles["test"], singles["test"]))
        for candidate in candidates(bench):
            if not names or candidate.name.strip("*") in names:
                own, found = outcome(bench, candidate, singles)
                measured.setdefault(candidate.name, []).append(found)
                chosen.setdefault(candidate.name, []).append(own)
    order = sorted(measured, key=lambda name: -_mean([one[NORMALISED] for one in measured[name]]))
    return [{"method": name, **estimates(measured[name]), "chosen": _said(chosen.get(name, []))} for name in order]


def _said(chosen: Sequence[Mapping[str, Any]]) -> str:
    """The parameters that were chosen: the value that most seeds have, or how far they lie apart."""
    parts = []
    for name in chosen[0] if chosen else ():
        values = [own[name] for own in chosen]
        if name == "base" or None in values:
            continue
        common = Counter(values).most_common(1)[0]
        said = f"{common[0]}" if common[1] == len(values) or isinstance(values[0], bool) else f"{min(values)} to {max(values)}"
        parts.append(f"{name} {said}")
    return ", ".join(parts)


def _between(base: Weights, other: Weights, share: float) -> Weights:
    return {name: torch.lerp(tensor, other[name], share) for name, tensor in base.items()}


def _grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _shares(found: Sequence[float], single: Sequence[float]) -> list[float]:
    return [one / own for one, own in zip(found, single, strict=True)]


def _diagonal(table: Sequence[Sequence[float]]) -> list[float]:
    return [row[at] for at, row in enumerate(table)]


def main() -> None:
    """Print the table of one shape of network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=ARCHITECTURES, default="mnist1d-mlp")
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--methods", nargs="*", default=(), help="only these")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, width 64, 300 steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds, width, steps = (1, 64, 300) if arguments.quick else (arguments.seeds, arguments.width, arguments.steps)
    started = time.perf_counter()
    rows = run(arguments.shape, width, range(seeds), steps, arguments.cache, arguments.methods)
    report(rows, f"task-merging-{arguments.shape}", arguments.out)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
