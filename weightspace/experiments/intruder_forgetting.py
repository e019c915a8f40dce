"""Intruder dimensions and forgetting: a small GPT tuned in full and by LoRA of several ranks to one loss; counts, correlations, scaled intruders.

Run it with `python -m weightspace.experiments.intruder_forgetting --cache DIR --out DIR`; `--quick` is a small one that says nothing.
Each run is a line of CACHE/runs.jsonl, each sweep one of CACHE/sweeps.jsonl: what is there already is not done again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import weightspace as ws
from weightspace.analysis.intruders import intruder_dimensions
from weightspace.experiments.forgetting_measures import (
    LAMBDAS,
    Base,
    Bases,
    counts,
    directions,
    null_counts,
    random_overlaps,
    scaled,
)
from weightspace.experiments.forgetting_report import picture, tables
from weightspace.experiments.forgetting_training import Size, Texts, held_out_loss, matrices, pre_trained, texts, tune, with_updates
from weightspace.experiments.gpt import GPT
from weightspace.experiments.tables import report
from weightspace.linalg import Cache

Record = dict[str, Any]
NULL_DRAWS = 3
SWEPT = 4  # sweeps are judged by every fourth window


@dataclass(frozen=True)
class Plan:
    """What is run: all rates with the first seed, then the other seeds at two rates: that with the fewest steps to the target, the largest that comes there."""

    size: Size = field(default_factory=Size)
    ranks: tuple[int | None, ...] = (None, 1, 4, 16, 64)
    full_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    seeds: int = 4
    target: float = 1.42  # nats a character, on the windows that stop a run: rank 1 can still come there

    def rates_of(self, rank: int | None) -> tuple[float, ...]:
        """The grid of one method."""
        return self.full_rates if rank is None else self.rates


QUICK = Plan(
    Size(width=64, blocks=1, modules=12, pre_steps=60, most_steps=30, windows=16, final_windows=16),
    ranks=(None, 1, 4),
    full_rates=(1e-3, 3e-3),
    rates=(3e-3, 1e-2),
    seeds=2,
    target=2.75,
)


@dataclass(frozen=True)
class Bench:
    """The base, both texts, and where results are kept."""

    plan: Plan
    base: GPT
    bases: Bases
    texts: Texts
    cache: Path
    library: Cache = field(default_factory=dict)

    @cached_property
    def before(self) -> float:
        """The base's held-out loss on prose."""
        return held_out_loss(self.base, self.texts.prose.final)

    def losses(self, updates: dict[str, torch.Tensor], every: int = 1) -> tuple[float, float]:
        """Held-out loss of the tuned network on code, and on the prose that it was pre-trained on; of every n-th window."""
        module = with_updates(self.base, updates)
        return held_out_loss(module, self.texts.code.final[::every]), held_out_loss(module, self.texts.prose.final[::every])

    def swept(self, updates: dict[str, torch.Tensor]) -> tuple[float, float]:
        """The same, quicker: sweeps only need differences."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.losses(updates, SWEPT)

    def updates_file(self, key: Record) -> Path:
        """Where a run's updates are kept."""
        return self.cache / "updates" / f"{key['rank'] or 'full'}-{key['rate']:g}-{key['seed']}-{key['target']:g}.safetensors"


def kept(file: Path, key: Record, make: Callable[[], Record]) -> Record:
    """The line of a file that has this key, made if there is none yet."""
    lines = file.read_text().splitlines() if file.exists() else []
    for line in map(json.loads, lines):
        if key.items() <= line.items():
            return dict(line)
    made = key | make()
    with file.open("a") as out:
        out.write(json.dumps(made) + "\n")
    print(json.dumps(made), flush=True)
    return made


def run(bench: Bench, rank: int | None, rate: float, seed: int) -> Record:
    """Tune once and measure."""
    key: Record = {"rank": rank, "rate": rate, "seed": seed, "target": bench.plan.target}

    def make() -> Record:
        tuned = tune(bench.base, bench.texts.code, rank, rate, seed, bench.plan.target, bench.plan.size.most_steps)
        file = bench.updates_file(key)
        file.parent.mkdir(exist_ok=True)
        ws.save(tuned.updates, file)
        code, prose = bench.losses(tuned.updates)
        generator = torch.Generator().manual_seed(seed)
        nulls = null_counts(bench.bases, tuned.updates, generator, NULL_DRAWS)
        found = {"steps": tuned.steps, "matched": tuned.is_matched, "seconds": round(tuned.seconds, 1)}
        found |= {"loss": code, "forgetting": prose - bench.before, **counts(bench.bases, tuned.updates)}
        return found | {f"null, {kind}": count for kind, count in nulls.items()}

    return kept(bench.cache / "runs.jsonl", key, make) | kept(bench.cache / "library.jsonl", key, lambda: counted(bench, key))


def counted(bench: Bench, key: Record) -> Record:
    """What the library counts: intruders, and those that no band of near singular values of the base explains."""
    before = matrices(bench.base)
    updates = ws.open(bench.updates_file(key)).state_dict()
    after = {name: matrix + updates[name] for name, matrix in before.items()}
    found = intruder_dimensions(before, after, cache=bench.library)
    return {"library": found.count, "guarded": found.guarded}


def runs(bench: Bench) -> tuple[list[Record], list[Record], list[Record]]:
    """Every rate with the first seed; every seed at each method's best rate; and at the largest rate that came to the target."""
    plan = bench.plan
    grid = [run(bench, rank, rate, 0) for rank in plan.ranks for rate in plan.rates_of(rank)]
    own = {rank: [one for one in grid if one["rank"] == rank] for rank in plan.ranks}
    best = {rank: min(tried, key=_how_good)["rate"] for rank, tried in own.items()}
    largest = {rank: max([one["rate"] for one in tried if one["matched"]], default=best[rank]) for rank, tried in own.items()}
    made = [[run(bench, rank, rate[rank], seed) for seed in range(plan.seeds) for rank in plan.ranks] for rate in (best, largest)]
    return grid, made[0], made[1]


def _how_good(one: Record) -> tuple[bool, int, float]:
    return not one["matched"], one["steps"], one["loss"]


def sweep(bench: Bench, one: Record) -> Record:
    """Scale the first intruder of each matrix, and what it is compared with."""
    key = {name: one[name] for name in ("rank", "rate", "seed", "target")}

    def make() -> Record:
        updates = ws.open(bench.updates_file(key)).state_dict()
        still = bench.swept(updates)
        found: Record = {"points": [], "sizes": {}}
        for kind, along in directions(bench.bases, updates).items():
            found |= {"scaled": len(along)}
            found["sizes"][kind] = float(sum(part.square().sum() for part in along.values())) ** 0.5
            for lam in LAMBDAS:
                code, prose = bench.swept(scaled(updates, along, lam)) if lam != 1 else still
                found["points"].append({"kind": kind, "lambda": lam, "loss": code, "prose": prose})
        return found

    return kept(bench.cache / "sweeps.jsonl", key, make)


def chance(size: Size) -> Iterator[dict[str, float | str]]:
    """How random vectors overlap with the base's singular vectors, by how long they are and how many those are."""
    for rows in (size.width, 4 * size.width):
        found = random_overlaps(rows, size.width, torch.Generator().manual_seed(0))
        row: dict[str, float | str] = {"vectors": f"{size.width} of {rows} dimensions", "mean": float(found.mean())}
        yield row | {"largest of 20,000": float(found.max()), "below .5": float((found < 0.5).double().mean())}


def main() -> None:
    """Run what is missing, then print and draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    plan = replace(Plan(), seeds=arguments.seeds)
    if arguments.quick:
        plan = QUICK
    torch.set_num_threads(1)
    started = time.process_time()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    both = texts(plan.size)
    base = pre_trained(arguments.cache, both.prose, both.characters, plan.size)
    bases = {name: Base.of(matrix) for name, matrix in matrices(base).items()}
    bench = Bench(plan, base, bases, both, arguments.cache)
    print(
        f"base: {held_out_loss(bench.base, both.prose.final):.3f} nats on prose, {held_out_loss(bench.base, both.code.final):.3f} on code"
    )
    grid, best, largest = runs(bench)
    every = list({bench.updates_file(one): one for one in (*grid, *best, *largest)}.values())
    sweeps = [one | sweep(bench, one) for one in every if one["matched"] and one["intruders"]]
    print(f"{time.process_time() - started:.0f} CPU s in this call")
    report(list(chance(plan.size)), "random vectors", arguments.out)
    for title, rows in tables(grid, best, largest, sweeps):
        if rows:
            report(rows, title, arguments.out)
    if arguments.out is not None:
        picture(every, best, largest, sweeps).savefig(arguments.out / "intruder_forgetting.png", dpi=150)


if __name__ == "__main__":
    main()
