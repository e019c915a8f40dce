"""Geometric and functional similarity of networks that were trained alike, otherwise, or not at all, layer by layer.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.similarity_maps --results results.jsonl [--seeds 5]
    python -m weightspace.experiments.similarity_maps --results results.jsonl --report

Perceptrons and convolutional networks learn MNIST-1D. Into five of each that were trained as usual, others of the same architecture are stitched
at each layer: of another seed, with another learning rate, with noise on the labels, with a tenth of the data, and networks that are not trained;
besides these the raw input. Stitches are found by least squares on 2,000 training examples, and then trained on the task through the frozen
end. All is judged on 2,000 test examples; intervals are over the five ends.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

import weightspace as ws
from weightspace.analysis.stitching.chain import INPUT, Chain
from weightspace.analysis.stitching.fitting import Pair
from weightspace.analysis.stitching.layer import Stitch
from weightspace.analysis.stitching.matrix import StitchingMaps, loaded_chain, stitching_maps
from weightspace.analysis.stitching.penalty import penalties, redrawn
from weightspace.analysis.stitching.task_matching import match_task
from weightspace.experiments.data import Examples, load
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tables import Cell, Estimate, markdown
from weightspace.experiments.train import RATE, train
from weightspace.task import Task

WIDTHS: Mapping[str, int] = {"mnist1d-mlp": 64, "mnist1d-cnn": 16}
STEPS, SEEDS = 800, 5
FITTED, JUDGED = 2000, 2000
EPOCHS, STITCH_RATE = 12, 2e-3
NOISE, SHARE = 0.5, 10
MADE = ("base", "other seed", "rate / 10", "rate x 5", "label noise", "tenth of the data")
FRONTS = (*MADE[1:], "random")
MEASURED = ("cka_debiased", "lr", "fit_error", "penalty", "agreement")


def networks(folder: Path, name: str, made: str, seeds: int) -> list[dict[str, Tensor]]:
    """The networks of one recipe, one for each seed; trained where they are not kept yet."""
    files = [folder / f"{name} {made.replace('/', 'by')} {seed}.safetensors" for seed in range(seeds)]
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        for state, file in zip(learned(name, made, range(seeds)), files, strict=True):
            ws.save(state, file)
    return [ws.open(file).state_dict() for file in files]


def learned(name: str, made: str, seeds: Sequence[int]) -> list[dict[str, Tensor]]:
    """Train the networks of one recipe."""
    rate = {"rate / 10": RATE / 10, "rate x 5": RATE * 5}.get(made, RATE)
    # Each recipe has seeds of its own, so that no two networks begin alike.
    numbers = [100 * MADE.index(made) + seed for seed in seeds]
    return train(ARCHITECTURES[name], WIDTHS[name], _shown(load("mnist1d"), made), numbers, STEPS, rate)


def _shown(examples: Examples, made: str) -> Examples:
    """What a recipe shows of the data."""
    if made == "tenth of the data":
        count = len(examples.train) // SHARE
        return replace(examples, train=examples.train[:count], train_classes=examples.train_classes[:count])
    if made == "label noise":
        chance = torch.Generator().manual_seed(0)
        drawn = torch.randint(10, examples.train_classes.shape, generator=chance)
        is_noise = torch.rand(examples.train_classes.shape, generator=chance) < NOISE
        return replace(examples, train_classes=torch.where(is_noise, drawn, examples.train_classes))
    return examples


def trained(front: Chain, end: Chain, task: Task) -> dict[Pair, Stitch]:
    """Stitches at layers of one place, and from the input, trained through the frozen end from where least squares ended."""
    pairs = [(a, at) for at in range(len(end.cuts)) for a in (at, -1)]
    return {pair: match_task(front, end, task, pair, epochs=EPOCHS, learning_rate=STITCH_RATE) for pair in pairs}


def measured(front: Chain, end: Chain, fit: Task, held_out: Task) -> dict[str, Any]:
    """One line of results."""
    zero = stitching_maps(front, end, fit, held_out, maps=MEASURED)
    after = penalties(front, end, trained(front, end, fit), held_out)
    names = zero.maps["penalty"].columns

    def layer(row: str, at: int) -> dict[str, float]:
        one = after[-1 if row == INPUT else at, at]
        return _at(zero, row, names[at]) | {"penalty, trained": one.value, "agreement, trained": one.agreement}

    cells = [list(_at(zero, a, b).values()) for a in names for b in names]
    cuts = {name: layer(name, at) for at, name in enumerate(names)}
    return {"cuts": cuts, "inputs": {name: layer(INPUT, at) for at, name in enumerate(names)}, "cells": cells, "loss": zero.end_loss}


def _at(maps: StitchingMaps, row: str, column: str) -> dict[str, float]:
    return {name: table.table[table.rows.index(row)][table.columns.index(column)] for name, table in maps.maps.items()}


def run(results: Path, seeds: int) -> None:
    """Measure what is not measured yet."""
    examples, folder = load("mnist1d"), results.with_suffix(".networks")
    for name, width in WIDTHS.items():
        module = ARCHITECTURES[name](width).eval()
        fit = Task.classification(module, examples.train[-FITTED:], examples.train_classes[-FITTED:])
        test = Task.classification(module, examples.test[:JUDGED], examples.test_classes[:JUDGED])
        kept = {made: networks(folder, name, made, seeds) for made in MADE}
        for seed in range(seeds):
            end = loaded_chain(fit, kept["base"][seed])
            random = redrawn(module, torch.Generator().manual_seed(seed)).state_dict()
            for front in FRONTS:
                if any((row["network"], row["front"], row["seed"]) == (name, front, seed) for row in known(results)):
                    continue
                state = random if front == "random" else kept[front][seed]
                row = {"network": name, "front": front, "seed": seed, "accuracy": test.evaluate(state)["accuracy"]}
                row |= {"end": test.evaluate(kept["base"][seed])["accuracy"], **measured(loaded_chain(fit, state), end, fit, test)}
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(name, seed, front, flush=True)


def known(results: Path) -> list[dict[str, Any]]:
    """The lines so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def report(results: Path) -> Iterator[str]:
    """Tables by network, front and layer; and how the measures go together."""
    rows = known(results)
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        first = [row for row in own if row["front"] == own[0]["front"]]
        yield f"\n{name}: accuracy of the ends {Estimate.of([row['end'] for row in first])}, loss {Estimate.of([row['loss'] for row in first])}\n"
        lines = []
        for front in dict.fromkeys(row["front"] for row in own):
            found = [row for row in own if row["front"] == front]
            lines += [
                _line(front, cut, [row["cuts"][cut] for row in found], [row["accuracy"] for row in found]) for cut in found[0]["cuts"]
            ]
        lines += [_line(INPUT, cut, [row["inputs"][cut] for row in first], [math.nan]) for cut in first[0]["cuts"]]
        yield markdown(lines)
        yield f"\n{name}: rank correlations with the penalty, over layers of one place and all fronts; by seed\n"
        yield markdown(_ranks(own))


def _line(front: str, cut: str, found: list[dict[str, float]], accuracy: list[float]) -> dict[str, Cell]:
    values: dict[str, Cell] = {key.replace("_", " "): Estimate.of([one[key] for one in found]) for key in found[0]}
    return {"front": front, "cut": cut, "its accuracy": Estimate.of(accuracy), **values}


def _ranks(rows: list[dict[str, Any]]) -> list[dict[str, Cell]]:
    lines = []
    for measure in ("cka_debiased", "lr", "fit_error"):
        line: dict[str, Cell] = {"measure": measure.replace("_", " ")}
        for target in ("penalty", "penalty, trained"):
            for which, fronts in (("", FRONTS), (" (trained fronts)", FRONTS[:-1])):
                line[target + which] = Estimate.of(
                    [
                        _rank(measure, target, [row for row in rows if row["seed"] == seed and row["front"] in fronts])
                        for seed in _seeds(rows)
                    ]
                )
        line["penalty (all pairs of layers)"] = Estimate.of(
            [_rank_of_cells(measure, [row for row in rows if row["seed"] == seed]) for seed in _seeds(rows)]
        )
        lines.append(line)
    return lines


def _rank(measure: str, target: str, rows: list[dict[str, Any]]) -> float:
    pairs = [(one[measure], one[target]) for row in rows for one in row["cuts"].values()]
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def _rank_of_cells(measure: str, rows: list[dict[str, Any]]) -> float:
    pairs = [(cell[MEASURED.index(measure)], cell[MEASURED.index("penalty")]) for row in rows for cell in row["cells"]]
    return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)


def _seeds(rows: list[dict[str, Any]]) -> list[int]:
    return sorted({row["seed"] for row in rows})


def main() -> None:
    """Run it, or print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        run(options.results, options.seeds)
    print("\n".join(report(options.results)))


if __name__ == "__main__":
    main()
