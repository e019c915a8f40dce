"""What `suggest` finds within a budget, beside choosing at random: the best of 300 perceptrons by the vectors of a metanet.

    python -m weightspace.experiments.suggesting [--seeds 10]

A population of perceptrons of varied training, whose test accuracy is known, is ranked by evaluating 20 of them. The metanet learns the
accuracy from 30 others that nobody may choose; their values are known to `suggest` too in one row, and in another it begins with none.
Regret is the best accuracy of all less the best found. Every seed draws another 30, another metanet and another random order.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from weightspace.cli.left_out import LeftOut
from weightspace.cli.networks import networks_of, weights_of
from weightspace.experiments.tables import Estimate, Row, report
from weightspace.metanets import Examples, Predictor, Schedule, build, train
from weightspace.metanets.families.statistics import statistics
from weightspace.metanets.suggesting import suggest

COUNT, KNOWN, BUDGET = 300, 30, 20
FAMILY = "statistics"


def population(folder: Path, count: int) -> Examples:
    """Perceptrons of one shape with their accuracy."""
    from weightspace.zoo.populations.filling import fill
    from weightspace.zoo.zoo import Zoo

    zoo = Zoo(folder)
    fill(zoo, "mlps", count=count, data="digits", widths=(8,), depths=(1,), activations=("relu",), steps=(150,), jobs=1)
    networks = networks_of(zoo, "test_accuracy is not null", LeftOut(), asked={"target": "test_accuracy"})
    return Examples(weights_of(networks), torch.tensor([one.row["target"] for one in networks], dtype=torch.float32))


def learned(everything: Examples, at: Tensor, seed: int, family: str) -> tuple[Tensor, Tensor]:
    """Vectors of all networks by a metanet that learned from some, and what it predicts of all."""
    torch.manual_seed(seed)
    cut = 4 * len(at) // 5
    done = train(
        Predictor(build(family, everything.networks.batches[0].spec)),
        everything.take(at[:cut]),
        everything.take(at[cut:]),
        Schedule(epochs=60, batch_size=8, seed=seed),
    ).predictor
    with torch.no_grad():
        return done.net(everything.networks), done.predict(everything.networks)


def best_by(choose: Callable[[Tensor], int], values: Tensor, known: Tensor, budget: int) -> float:
    """The best value found when networks are evaluated one after another."""
    known, best = known.clone(), -np.inf
    for _ in range(budget):
        at = choose(known)
        known[at] = values[at]
        best = max(best, float(values[at]))
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--family", default=FAMILY)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--out", type=Path, help="folder for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        everything = population(Path(folder), options.count + KNOWN)
    values = everything.targets
    plain = statistics(everything.networks.batches[0])
    plain = (plain - plain.mean(0)) / plain.std(0).clamp_min(1e-6)
    regrets: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        taught, open_ = order[:KNOWN], order[KNOWN:].tolist()
        vectors, predicted = learned(everything, taught, seed, options.family)
        none, some = torch.full_like(values, torch.nan), torch.full_like(values, torch.nan)
        some[taught] = values[taught]
        top = float(values[open_].max())
        draw, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

        def by(points: Tensor, allowed: list[int] = open_, chance: torch.Generator = generator) -> Callable[[Tensor], int]:
            return lambda known: suggest(points, known, allowed=allowed, generator=chance)[0]

        ranked = sorted(open_, key=lambda at: -float(predicted[at]))
        found = {
            "random": max(float(values[at]) for at in draw.permutation(open_)[:BUDGET]),
            "the highest predictions, no suggest": max(float(values[at]) for at in ranked[:BUDGET]),
            "suggest, metanet's vectors, none known": best_by(by(vectors), values, none, BUDGET),
            f"suggest, metanet's vectors, {KNOWN} known": best_by(by(vectors), values, some, BUDGET),
            f"suggest, tensors' statistics, {KNOWN} known": best_by(by(plain), values, some, BUDGET),
        }
        for name, best in found.items():
            regrets.setdefault(name, []).append(top - best)
    rows: list[Row] = [
        {
            "choice": name,
            "regret": Estimate.of(found),
            "less than random by": Estimate.of([a - b for a, b in zip(regrets["random"], found, strict=True)]),
            "best of all found": f"{sum(one == 0 for one in found)} of {len(found)}",
        }
        for name, found in regrets.items()
    ]
    spread = f"accuracies {float(values.min()):.3f} to {float(values.max()):.3f}, median {float(values.median()):.3f}"
    print(f"{options.count} networks, budget {BUDGET}, {options.seeds} seeds, family {options.family}; {spread}")
    report(rows, "suggest beside random choice", options.out)


if __name__ == "__main__":
    main()
