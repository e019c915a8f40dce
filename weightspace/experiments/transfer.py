"""Transfer grids on MNIST-1D and MNIST: what the first parts of a network are worth for the other half of the classes.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.transfer --results results.jsonl [--seeds 5]
    python -m weightspace.experiments.transfer --results results.jsonl --report [--plot FOLDER]

Halves of the classes are drawn by the seed, or are those two that a network of all ten classes confuses least with each other (`alike`;
which of the two is A goes by the seed). Base A learns from all its examples; B, and all networks of the grid, from all or from a few.
Learning rates were chosen on training examples alone (`--tune`); steps, so that the whole takes a quarter of an hour.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching import Chain
from weightspace.analysis.stitching.transfer import KINDS, Transfer, TransferGrid, draw_grids, transfer_grid
from weightspace.experiments.data import real_checkpoints
from weightspace.experiments.tables import Cell, Estimate, markdown
from weightspace.task import Task
from weightspace.zoo.populations.data import Examples, load

BATCH = 100
STEPS: Mapping[str, int] = {"mnist1d": 400, "mnist": 200}
RATES: Mapping[str, float] = {"mnist1d": 1e-2, "mnist": 3e-3}
FEW, FEW_STEPS = 100, 200
WHOLE = tuple((name, halves, "all") for halves in ("random", "alike") for name in STEPS)
ARMS = (
    *((shape, *arm) for shape in ("mlp", "cnn") for arm in WHOLE),
    *((shape, "mnist1d", "random", str(FEW)) for shape in ("mlp", "cnn")),
)
"""Shape of the networks, data, halves of the classes, examples of B."""

DIFFERENCES = (
    ("BnB - scratch: parts that fit each other", "BnB", ""),
    ("AnB - BnB: parts that are A's", "AnB", "BnB"),
    ("AnB+ - BnB+: what is kept from A", "AnB+", "BnB+"),
    ("AnB+ - scratch: what is gained from A", "AnB+", ""),
    ("AnB - RnB: against random parts", "AnB", "RnB"),
)


@dataclass(frozen=True)
class Half:
    """The examples of some classes, numbered from zero."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def network(shape: str, name: str, classes: int = 5) -> nn.Sequential:
    """Five hidden layers: linear ones, or four convolutions and a linear one; no norms, whose statistics would follow the data."""
    side, sides = (40, 1) if name == "mnist1d" else (28, 2)
    if shape == "mlp":
        widths = (side**sides, *[64] * 5)
        hidden = [layer for reads, makes in itertools.pairwise(widths) for layer in (nn.Linear(reads, makes), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(64, classes))
    conv, width = (nn.Conv1d, 16) if sides == 1 else (nn.Conv2d, 8)
    layers: list[nn.Module] = [nn.Unflatten(1, (1, *[side] * sides))]
    for at, stride in enumerate((1, 2, 2, 2) if sides == 1 else (2, 1, 2, 1)):
        layers += [conv(width if at else 1, width, 3, stride=stride, padding=1), nn.ReLU()]
        side = -(-side // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * side**sides, 64), nn.ReLU(), nn.Linear(64, classes))


def examples_of(name: str) -> Examples:
    """By name of the arm."""
    return load(name if name == "mnist1d" else str(real_checkpoints() / "mnist"))


def half(data: Examples, classes: Sequence[int], limit: int | None = None) -> Half:
    """The examples of some classes, perhaps only the first so many to learn from."""
    number = torch.full((data.classes,), -1)
    number[list(classes)] = torch.arange(len(classes))

    def taken(inputs: Tensor, targets: Tensor, most: int | None) -> tuple[Tensor, Tensor]:
        kept = (number[targets] >= 0).nonzero().flatten()[:most]
        return inputs[kept], number[targets[kept]]

    return Half(taken(data.train, data.train_classes, limit), taken(data.test, data.test_classes, None))


def task_of(module: nn.Module, given: tuple[Tensor, Tensor], size: int = BATCH) -> Task:
    """Batches of a size; what is left over is dropped only if it is not all."""
    return Task.classification(module, *given, batch_size=size)


def trained(module: nn.Module, given: tuple[Tensor, Tensor], steps: int, rate: float, seed: int) -> nn.Module:
    """A network trained with Adam from where it is, in place."""
    batches, generator = list(task_of(module, given).batches), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), rate)
    for _ in range(steps):
        inputs, targets = batches[int(torch.randint(len(batches), (), generator=generator))]
        loss = nn.functional.cross_entropy(module(inputs), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return module.eval()


def drawn(shape: str, name: str, seed: int, classes: int = 5) -> nn.Sequential:
    """A network that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(shape, name, classes)


@cache
def alike(name: str) -> tuple[list[int], list[int]]:
    """The two halves of the classes that a network of all ten confuses least, by its probabilities on training examples held out from it."""
    data = examples_of(name)
    held = len(data.train) // 4
    made = trained(drawn("cnn", name, 0, data.classes), (data.train[held:], data.train_classes[held:]), 2 * STEPS[name], RATES[name], 0)
    with torch.no_grad():
        said = made(data.train[:held]).softmax(1)
    seen = torch.stack([said[data.train_classes[:held] == one].mean(0) for one in range(data.classes)])
    halves = [list(one) for one in itertools.combinations(range(data.classes), data.classes // 2) if 0 in one]
    others = [[one for one in range(data.classes) if one not in chosen] for chosen in halves]
    between = [float(seen[a][:, b].sum() + seen[b][:, a].sum()) for a, b in zip(halves, others, strict=True)]
    best = between.index(min(between))
    return halves[best], others[best]


def measure(shape: str, name: str, halves: str, count: str, seed: int) -> dict[str, Any]:
    """One line of results: a grid of one seed."""
    data, steps = examples_of(name), STEPS[name] if count == "all" else FEW_STEPS
    if halves == "random":
        order = torch.randperm(data.classes, generator=torch.Generator().manual_seed(seed)).tolist()
        a, b = order[: data.classes // 2], order[data.classes // 2 :]
    else:
        a, b = alike(name)[:: -1 if seed % 2 else 1]
    source, target = half(data, a), half(data, b, None if count == "all" else int(count))
    chains = []
    for at, (one, own) in enumerate(((source, STEPS[name]), (target, steps))):
        module = trained(drawn(shape, name, 100 * seed + at), one.train, own, RATES[name], 100 * seed + at)
        chains.append(Chain.of(module, data.train[:2]))
    (first, second), train, test = chains, task_of(chains[1], target.train), task_of(chains[1], target.test, 1000)
    generator = torch.Generator().manual_seed(100 * seed + 2)
    grid = transfer_grid(first, second, train, test, steps=steps, learning_rate=RATES[name], generator=generator)
    return {"a": a, "b": b, "base": grid.base, "scratch": grid.scratch, "rows": [asdict(row) for row in grid.rows]}


def tune(shape: str, name: str) -> list[dict[str, Cell]]:
    """Accuracies of networks from scratch on a quarter of the training examples, three seeds: how rate and steps were chosen."""
    data, rows = examples_of(name), list[dict[str, Cell]]()
    for rate, steps in itertools.product((1e-3, 3e-3, 1e-2), (STEPS[name] // 2, STEPS[name], 2 * STEPS[name])):
        found = []
        for seed in range(3):
            order = torch.randperm(data.classes, generator=torch.Generator().manual_seed(seed)).tolist()
            x, y = half(data, order[data.classes // 2 :]).train
            held = len(x) // 4
            module = trained(drawn(shape, name, seed), (x[held:], y[held:]), steps, rate, seed)
            found.append(task_of(module, (x[:held], y[:held]), 1000).evaluate(module.state_dict())["accuracy"])
        rows.append({"network": shape, "data": name, "rate": rate, "steps": steps, "held out": Estimate.of(found)})
    return rows


def run(results: Path, seeds: int) -> None:
    """Measure what is not known yet."""
    for (shape, name, halves, count), seed in itertools.product(ARMS, range(seeds)):
        place = {"network": shape, "data": name, "halves": halves, "examples": count, "seed": seed}
        if any(place.items() <= line.items() for line in known(results)):
            continue
        start = time.process_time()
        line = place | measure(shape, name, halves, count, seed) | {"cpu": time.process_time() - start}
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(*place.values(), f"{line['cpu']:.0f} s", flush=True)


def known(results: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def grid_of(line: Mapping[str, Any]) -> TransferGrid:
    """A line of results as what it was."""
    return TransferGrid("accuracy", tuple(Transfer(**row) for row in line["rows"]), line["base"], line["scratch"])


def report(results: Path, plots: Path | None) -> Iterator[str]:
    """Markdown: scores by kind and cut, and paired differences; ± are 95 % intervals over seeds."""
    lines = known(results)
    for arm in ARMS:
        shape, name, halves, count = arm
        grids = [grid_of(line) for line in lines if (line["network"], line["data"], line["halves"], line["examples"]) == arm]
        if not grids:
            continue
        yield f"\n**{shape} on {name}, {halves} halves, {count} examples of B** ({len(grids)} seeds)\n"
        yield markdown(list(_scores(grids)))
        yield "\n" + markdown(list(_differences(grids)))
        if plots is not None:
            from weightspace.plotting import save

            plots.mkdir(parents=True, exist_ok=True)
            save(draw_grids(grids), plots / f"transfer-{shape}-{name}-{halves}-{count}.png")


def _scores(grids: Sequence[TransferGrid]) -> Iterator[dict[str, Cell]]:
    cuts = grids[0].cuts
    for label, values in (("base B", [one.base for one in grids]), ("from scratch", [one.scratch for one in grids])):
        yield {"network": label, "n = 0": Estimate.of(values), **{f"{at}": "" for at in range(1, len(cuts) + 1)}}
    for kind, told in KINDS.items():
        found: dict[str, Cell] = {f"{at}": Estimate.of([one.scores(kind)[cut] for one in grids]) for at, cut in enumerate(cuts, 1)}
        yield {"network": f"{kind}: {told}", "n = 0": "", **found}


def _differences(grids: Sequence[TransferGrid]) -> Iterator[dict[str, Cell]]:
    for label, one, other in DIFFERENCES:
        row: dict[str, Cell] = {"paired difference": label}
        apart = []
        for at, cut in enumerate(grids[0].cuts, 1):
            values = [grid.scores(one)[cut] - (grid.scores(other)[cut] if other else grid.scratch) for grid in grids]
            row[f"{at}"] = Estimate.of(values)
            apart.append(values)
        yield row | {"mean of cuts": Estimate.of([math.fsum(seed) / len(seed) for seed in zip(*apart, strict=True)])}


def main() -> None:
    """Run, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--plot", type=Path, help="a folder for pictures")
    parser.add_argument("--tune", action="store_true", help="only the table by which rate and steps were chosen")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.tune:
        print(markdown([row for shape in ("mlp", "cnn") for name in STEPS for row in tune(shape, name)]))
    elif not options.report:
        run(options.results, options.seeds)
    if not options.tune:
        print("\n".join(report(options.results, options.plot)))


if __name__ == "__main__":
    main()
