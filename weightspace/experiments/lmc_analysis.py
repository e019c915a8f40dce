"""The LMC analysis of weight matching in small: how much nearer networks get, which directions agree, and two networks by way of a third.

Ito, Yamada and Kumagai, "Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching" (arXiv:2402.04051). Run it with
`python -m weightspace.experiments.lmc_analysis mnist1d-mlp 256 512 --cache DIR --out DIR`.
"""

import argparse
from pathlib import Path

import torch

from weightspace.analysis.connectivity import l2_reduction, singular_alignment
from weightspace.analysis.connectivity.distance import distance
from weightspace.experiments.barriers import PAIRS, Bench, Weights
from weightspace.experiments.data import load
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tables import Row, estimates, report
from weightspace.experiments.train import STEPS, networks

GAMMAS = (0.0, 0.3)
METHODS = ("none", "weight", "straight_through")


def nearness(bench: Bench, method: str, a: Weights, b: Weights, aligned: Weights, seed: int) -> dict[str, float]:
    """L2 reduction, for weight matching with that of random networks of the same spectra, and R of the aligned pair."""
    near, moved = bench.seen(a), bench.seen(aligned)
    values = {"L2 reduction": 1 - distance(near, moved) / distance(near, bench.seen(b)), "its null": float("nan")}
    if method == "weight":  # the null of a method that needs data would have no data to fit
        generator = torch.Generator().manual_seed(seed)
        found = l2_reduction(near, bench.seen(b), lambda x, y: bench.align(method, dict(x), dict(y)), generator=generator)
        values["its null"] = found.null_mean
    totals = singular_alignment(near, moved, GAMMAS).totals
    return values | {f"R, gamma {one.gamma:g}": one.value for one in totals}


def by_way_of(bench: Bench, a: Weights, b: Weights) -> dict[str, float]:
    """The barrier between two networks that were both aligned to a third."""
    curve = bench.between(a, b, None)
    return {f"{name} barrier of three": curve.barriers[name].interpolated for name in ("loss", "calibrated_loss", "accuracy")}


def measure(bench: Bench, method: str, a: Weights, b: Weights, anchor: Weights, seed: int) -> dict[str, float]:
    """Everything of one pair and its anchor."""
    aligned = bench.align(method, a, b)
    direct = bench.between(a, aligned, None).barriers["loss"].interpolated
    both = [bench.align(method, anchor, one) for one in (a, b)]
    return {**nearness(bench, method, a, b, aligned, seed), "loss barrier": direct, **by_way_of(bench, *both)}


def main() -> None:
    """Measure one architecture at some widths."""
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
        found = networks(arguments.cache, arguments.name, width, count=3 * PAIRS, steps=arguments.steps)
        triples = list(zip(found[: 2 * PAIRS : 2], found[1 : 2 * PAIRS : 2], found[2 * PAIRS :], strict=True))
        for method in METHODS:
            measured = [measure(bench, method, *triple, seed) for seed, triple in enumerate(triples)]
            rows.append({"width": width, "alignment": method, **estimates(measured)})
            report(rows, f"lmc-{arguments.name}", arguments.out)


if __name__ == "__main__":
    main()
