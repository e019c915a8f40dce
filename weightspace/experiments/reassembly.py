"""Networks reassembled from a zoo of 30 under a budget, beside the best of them, chance and training anew, and which step is worth what.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.reassembly --results results.jsonl [--seeds 5] [--cache DIR]
    python -m weightspace.experiments.reassembly --results results.jsonl --report

A zoo has 30 MLPs and CNNs of several widths and depths on MNIST-1D, trained with learning rates and shares of the data drawn at random, so
that the largest is not the best. A seed draws the zoo and all else. Networks, plans and stopping are judged on 800 of the 4,000 training signals, which
nothing learns from; the table is of the 1,000 test signals. Settings were found on zoos of other seeds (100 and 101).
"""

import argparse
import copy
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weightspace.analysis.stitching import Chain, Patchwork, Piece, Route
from weightspace.analysis.stitching.reassembly import Assembly, assemble, fine_tune
from weightspace.analysis.stitching.reassembly.planning import Zoo, choose
from weightspace.experiments.resumable import command_line, is_known, keep, perform
from weightspace.experiments.tables import Cell, Estimate, markdown
from weightspace.task import Task
from weightspace.zoo.populations.data import Examples, load

NETWORKS, STEPS, BATCH = 30, 400, 64
RATES, SHARES = (3e-4, 1e-3, 3e-3, 1e-2), (0.1, 0.3, 1.0)
BUDGETS = (0.25, 0.5, 0.75)
TUNING, RATE = 300, 2e-3
HELD_OUT = 800
CANDIDATES = 20
ABLATED = 0.5  # the budget at which single steps are left out

SINGLE, TUNED, TUNED_FEW = "best single", "best single, trained on", "best of three singles, each trained on"
SELECTED: Mapping[str, Mapping[str, Any]] = {
    "reassembled": {},
    "by NASWOT among the best 20": {"selection": "naswot"},
    "by loss once stitched among the best 20": {"selection": "loss"},
    "by chance": {"selection": "chance"},
}
SCRATCH, SCRATCH_SINGLE = "reassembled, from scratch", "best single, from scratch"
ORIGINAL, UNFITTED, STITCHES = "stitches fitted on original features", "stitches not fitted", "stitches trained alone"
ARCHITECTURES = [(family, width, depth) for family in ("mlp", "cnn") for width in (8, 16, 32) for depth in (3, 4, 5)]


def build(family: str, width: int, depth: int) -> nn.Sequential:
    """A network of some hidden layers, an MLP four times as wide."""
    if family == "mlp":
        wide = 4 * width
        hidden = [layer for at in range(depth) for layer in (nn.Linear(wide if at else 40, wide), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(wide, 10))
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 40))]
    for at in range(depth):
        layers += [nn.Conv1d(width if at else 1, width, 5, 2 if at in (0, 2) else 1, padding=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(2 * width, 10))


class Bench:
    """Data and chains of all architectures, which are traced only once."""

    def __init__(self, architectures: Sequence[tuple[str, int, int]] = ARCHITECTURES) -> None:
        examples: Examples = load("mnist1d")
        inputs, classes = examples.train, examples.train_classes
        self.inputs, self.classes = inputs[HELD_OUT:], classes[HELD_OUT:]
        empty = nn.Identity()
        self.training = Task.classification(empty, self.inputs, self.classes, batch_size=BATCH)
        self.validation = Task.classification(empty, inputs[:HELD_OUT], classes[:HELD_OUT])
        self.test = Task.classification(empty, examples.test, examples.test_classes)
        self.chains = {one: Chain.of(build(*one), inputs[:4]) for one in architectures}

    def zoo(self, seed: int, count: int = NETWORKS) -> dict[str, Chain]:
        """Trained networks by name."""
        drawn = random.Random(seed)
        out: dict[str, Chain] = {}
        for at in range(count):
            one, rate, share = drawn.choice(list(self.chains)), drawn.choice(RATES), drawn.choice(SHARES)
            chain = initialised(self.chains[one], seed * NETWORKS + at)
            self.train(chain, rate, share, torch.Generator().manual_seed(seed * NETWORKS + at))
            out[f"{at}-{one[0]}{one[1]}x{one[2]}"] = chain
        return out

    def kept_zoo(self, seed: int, cache: Path | None) -> dict[str, Chain]:
        """A zoo, from the cache if it is there."""
        file = cache / f"zoo{seed}.pt" if cache is not None else None
        if file is None or not file.exists():
            made = self.zoo(seed)
            if file is not None:
                torch.save({name: chain.state_dict() for name, chain in made.items()}, file)
            return made
        out = {}
        for name, weights in torch.load(file).items():
            family, width, depth = re.fullmatch(r"\d+-([a-z]+)(\d+)x(\d+)", name).groups()  # type: ignore[union-attr]
            out[name] = copy.deepcopy(self.chains[family, int(width), int(depth)])
            out[name].load_state_dict(weights)
        return out

    def train(self, chain: Chain, rate: float, share: float, generator: torch.Generator) -> None:
        """Train in place on the first share of the data."""
        count = int(share * len(self.inputs))
        optimizer = torch.optim.Adam(chain.parameters(), rate)
        for _ in range(STEPS):
            drawn = torch.randint(count, (BATCH,), generator=generator)
            loss = nn.functional.cross_entropy(chain(self.inputs[drawn]), self.classes[drawn])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def tuned(self, patchwork: Patchwork, seed: int, **settings: Any) -> Patchwork:
        """Fine-tuned as all are."""
        generator = torch.Generator().manual_seed(seed)
        given: dict[str, Any] = {"steps": TUNING, "learning_rate": RATE, "validation": self.validation, "generator": generator}
        return fine_tune(patchwork, self.training, **(given | settings))

    def accuracy(self, module: nn.Module, task: Task | None = None) -> float:
        """On the test signals."""
        return replace(task or self.test, module=module).evaluate(module.state_dict())["accuracy"]


def initialised(module: nn.Module, seed: int) -> Any:
    """A copy with new weights, drawn as torch's layers draw theirs: uniform to one over the root of how many numbers a unit reads."""
    made, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    bound = 1.0
    with torch.no_grad():
        for tensor in made.parameters():  # each bias comes behind its weight
            bound = 1 / math.sqrt(tensor[0].numel()) if tensor.ndim > 1 else bound
            tensor.uniform_(-bound, bound, generator=generator)
    return made


def alone(chain: Chain) -> Patchwork:
    """A network as it is, as a patchwork."""
    return Patchwork([chain], [], [Route((Piece(0),))])


class Judged:
    """One zoo with what was measured of it, and every way to a network within a budget."""

    def __init__(self, bench: Bench, seed: int, chains: Mapping[str, Chain]) -> None:
        self.bench, self.seed, self.chains = bench, seed, dict(chains)
        self.zoo = Zoo(chains, bench.validation, blocks=4, generator=torch.Generator().manual_seed(seed))
        self.flops = {name: sum(one.flops for one in sizes) for name, sizes in self.zoo.sizes.items()}

    def budget(self, share: float) -> int:
        """A share of the largest network's FLOPs."""
        return int(share * max(self.flops.values()))

    def best(self, limit: int, count: int = 1) -> list[str]:
        """The networks within the budget that are best on held-out signals."""
        within = [name for name, flops in self.flops.items() if flops <= limit]
        return sorted(within, key=self.zoo.quality.__getitem__, reverse=True)[:count]

    def made(self, limit: int, features: str = "arriving", **settings: Any) -> tuple[Assembly, Patchwork]:
        """A network reassembled within a budget, not trained."""
        plan = choose(self.zoo, max_flops=limit, generator=torch.Generator().manual_seed(self.seed), candidates=CANDIDATES, **settings)
        return plan, assemble(plan, self.chains, self.bench.training, features=features)


def arms(judged: Judged, share: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over ways to a network within a budget, with what came of them."""
    bench, seed, limit = judged.bench, judged.seed, judged.budget(share)
    name = judged.best(limit)[0]
    single = alone(judged.chains[name])
    yield SINGLE, {"accuracy": bench.accuracy(single), "flops": judged.flops[name], "network": name}
    yield TUNED, _row(bench, seed, single, judged.flops[name])
    yield TUNED_FEW, few(judged, limit)
    for arm, settings in SELECTED.items():
        plan, made = judged.made(limit, **settings)
        extra = {"blocks": list(map(str, plan.blocks)), "score": plan.score, "compatibility": plan.compatibility, "gap": plan.gap}
        yield arm, _row(bench, seed, made, plan.flops) | extra
    plan, made = judged.made(limit)
    yield SCRATCH, _row(bench, seed, initialised(made, seed), plan.flops)
    yield SCRATCH_SINGLE, _row(bench, seed, initialised(single, seed), judged.flops[name])
    if share != ABLATED:
        return
    yield ORIGINAL, _row(bench, seed, judged.made(limit, features="original")[1], plan.flops)
    unfitted = copy.deepcopy(made)
    unfitted.stitches = initialised(made.stitches, seed)
    yield UNFITTED, _row(bench, seed, unfitted, plan.flops)
    yield STITCHES, _row(bench, seed, made, plan.flops, stitches_only=True)


def few(judged: Judged, limit: int) -> dict[str, Any]:
    """Three times the training: the best networks are all trained on, and which of them is best is judged only then."""
    bench = judged.bench
    made = {name: bench.tuned(alone(judged.chains[name]), judged.seed) for name in judged.best(limit, 3)}
    best = max(made, key=lambda name: bench.accuracy(made[name], bench.validation))
    return {"accuracy": bench.accuracy(made[best]), "flops": judged.flops[best], "network": best}


def _row(bench: Bench, seed: int, made: Patchwork, flops: int, **settings: Any) -> dict[str, Any]:
    tuned = bench.tuned(made, seed, **settings)
    return {"zero-shot": bench.accuracy(made), "accuracy": bench.accuracy(tuned), "flops": flops}


def run(options: argparse.Namespace) -> None:
    """Add the lines that are missing."""
    bench = Bench()
    for seed in range(options.seeds):
        missing = [share for share in BUDGETS if not is_known(options.results, {"seed": seed, "share": share})]
        if not missing:
            continue
        judged = Judged(bench, seed, bench.kept_zoo(seed, options.cache))
        for share in missing:
            here = {"seed": seed, "share": share, "budget": judged.budget(share)}
            keep(options.results, [here | {"arm": arm} | found for arm, found in arms(judged, share)])


def report(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The tables, as lines."""
    found = {(row["arm"], row["share"], row["seed"]): row for row in rows}
    seeds = [seed for seed in sorted({row["seed"] for row in rows}) if all((TUNED, share, seed) in found for share in BUDGETS)]
    yield f"Test accuracy, {len(seeds)} zoos, by budget (a share of the largest network's FLOPs); paired: less the {TUNED}.\n"
    table: list[dict[str, Cell]] = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        line: dict[str, Cell] = {"network": arm}
        here = [found[arm, share, seed] for share in BUDGETS for seed in seeds if (arm, share, seed) in found]
        for what in ("", ", paired"):
            for share in BUDGETS:
                pairs = [(found[arm, share, seed], found[TUNED, share, seed]) for seed in seeds if (arm, share, seed) in found]
                values = [one["accuracy"] - (other["accuracy"] if what else 0) for one, other in pairs]
                line[f"{share:.0%}{what}"] = Estimate.of(values) if values else "-"
        line["before training"] = _mean([row["zero-shot"] for row in here if "zero-shot" in row])
        line["of the budget"] = _mean([row["flops"] / row["budget"] for row in here])
        table.append(line)
    yield markdown(table)


def _mean(values: Sequence[float]) -> Cell:
    return sum(values) / len(values) if values else "-"


if __name__ == "__main__":
    options = command_line(__doc__)
    options.add_argument("--cache", type=Path, help="a folder that keeps the zoos")
    perform(options, run, report)
