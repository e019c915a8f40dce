"""Weights for architectures never seen: graph hypernetworks, what each of their parts is worth, and what they save as an initialisation.

Results are kept line by line, so that it may be ended and run again, several shares of it side by side:

    python -m weightspace.experiments.ghn --results results.jsonl [--seeds 5] [--share 0/2]
    python -m weightspace.experiments.ghn --results results.jsonl --report

200 random networks (see `ghn_networks`) on MNIST-1D: 150 to learn from, 50 to judge by, the same for all seeds, so that those are
trained only once. A seed draws the hypernetwork, its architectures and batches. Nothing was tuned on the 50, nor on test signals.
Batch norms take statistics that are measured on training signals, everywhere.
"""

import argparse
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Target
from weightspace.analysis.generation.generators.ghn import GraphHypernetwork
from weightspace.analysis.generation.graphs.graph import ArchitectureGraph
from weightspace.analysis.generation.graphs.reading import read
from weightspace.analysis.generation.norms import measured, unmade
from weightspace.experiments.ghn_networks import Dag, Plan, plans
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, perform, share_option, shared
from weightspace.experiments.tables import Cell, Estimate, markdown
from weightspace.task import Task
from weightspace.zoo.populations.data import Examples, load

SEEN, UNSEEN, STEPS = 150, 50, 800
TRAINING_STEPS, EVERY, RATE, BATCH = 500, 20, 3e-3, 100
TUNED = 20  # unseen networks that are trained from predicted weights
CHANCE, REACHED = 0.1, (0.4, 0.5, 0.6)

ARMS: Mapping[str, Mapping[str, Any]] = {
    "GHN-2": {},
    "shapes alone, no graph": {"depth": 0},
    "GHN-2, no virtual edges": {"virtual_edges": False},
    "GHN-2, no normalisation": {"normalise": False},
    "GHN-3 layers": {"layers": "transformer"},
    "GHN-3 layers, no virtual edges": {"layers": "transformer", "virtual_edges": False},
    "GHN-3 layers, no normalisation": {"layers": "transformer", "normalise": False},
}
FIRST = "GHN-2"
FEWER = 3  # seeds of all arms but the first
INITIAL = "GHN-2 as initialisation"

Found = Mapping[tuple[str, int], Mapping[str, Any]]
"""Lines of results by arm and seed."""
KAIMING = "Kaiming, untrained"
TRAINED = "trained"


class Bench:
    """The networks with their graphs and tasks."""

    def __init__(self, graphs: Path) -> None:
        self.examples: Examples = load("mnist1d")
        self.plans: list[Plan] = plans(SEEN + UNSEEN)
        self.modules: list[nn.Module] = [Dag(plan) for plan in self.plans]
        self.targets = [Target.of_module(module) for module in self.modules]
        self.tasks = [self._task(module, BATCH) for module in self.modules]
        self.kept = graphs

    @cached_property
    def graphs(self) -> list[ArchitectureGraph]:
        """The networks' graphs, kept in a file: reading 200 of them takes longer than learning from them once."""
        if not self.kept.exists():
            self.kept.write_bytes(pickle.dumps([read(module, self.examples.train[:2]) for module in self.modules]))
        found: list[ArchitectureGraph] = pickle.loads(self.kept.read_bytes())
        return found

    def _task(self, module: nn.Module, size: int, signals: int | None = None) -> Task:
        return Task.classification(module, self.examples.train[:signals], self.examples.train_classes[:signals], batch_size=size)

    def accuracy(self, at: int, weights: Mapping[str, Tensor]) -> float:
        """On the test signals, of weights for one of the networks, its batch norms' statistics measured on training signals."""
        made = {name: tensor.detach()[None] for name, tensor in weights.items()}
        target = self.targets[at]
        if unmade(target):
            made |= measured(target, made, self._task(self.modules[at], 1000, 1000))
        state = target.whole({name: tensor[0] for name, tensor in made.items()})
        return Task.classification(self.modules[at], self.examples.test, self.examples.test_classes).evaluate(state)["accuracy"]

    def curve(self, at: int, weights: Mapping[str, Tensor], seed: int, steps: int) -> list[float]:
        """Accuracies while one of the networks is trained with Adam from given weights: at the start, then every so many steps."""
        learnt = {name: tensor.detach().clone().requires_grad_() for name, tensor in weights.items()}
        optimizer, generator = torch.optim.Adam(learnt.values(), RATE), torch.Generator().manual_seed(seed)
        batches, found = list(self.tasks[at].batches), [self.accuracy(at, learnt)]
        for step in range(1, steps + 1):
            batch = batches[int(torch.randint(len(batches), (), generator=generator))]
            loss = self.tasks[at].loss_of(self.targets[at].whole(learnt), batch, batch_statistics=True)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            if step % EVERY == 0:
                found.append(self.accuracy(at, learnt))
        return found

    def kaiming(self, at: int, seed: int) -> dict[str, Tensor]:
        """Kaiming's initialisation: normal weights of variance 2 / fan-in, biases 0, gains 1."""
        generator, shapes = torch.Generator().manual_seed(seed), self.targets[at].shapes
        made = {}
        for name, shape in shapes.items():
            if len(shape) > 1:
                made[name] = nn.init.kaiming_normal_(torch.empty(shape), nonlinearity="relu", generator=generator)
            else:
                made[name] = torch.full(shape, float("norms" in name and name.endswith("weight")))
        return made


def learned(bench: Bench, arm: str, seed: int, steps: int) -> GraphHypernetwork:
    """A hypernetwork that learned from the seen networks; the state of the first arm's is kept in a file, for what is measured later."""
    kept = bench.kept.with_suffix(f".{seed}.pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = GraphHypernetwork(bench.targets[0], **{"steps": steps, **ARMS[arm]})
    if arm == FIRST and kept.exists():
        made.load_state_dict(torch.load(kept))
        return made.eval()
    made.learn_on(bench.graphs[:SEEN], bench.tasks[:SEEN], generator=torch.Generator().manual_seed(seed))
    if arm == FIRST:
        torch.save(made.state_dict(), kept)
    return made.eval()


@torch.no_grad()
def predicted(bench: Bench, made: GraphHypernetwork, at: int) -> dict[str, Tensor]:
    """The weights of one network."""
    [weights] = made.weights([bench.graphs[at]], [bench.targets[at]])
    return weights


def measure(bench: Bench, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """One line of results."""
    unseen = range(SEEN, SEEN + UNSEEN)
    if arm == TRAINED:
        curves = [bench.curve(at, bench.kaiming(at, seed), seed, TRAINING_STEPS) for at in unseen]
        return {"curves": curves, "unseen": [curve[-1] for curve in curves]}
    if arm == KAIMING:
        return {"unseen": [bench.accuracy(at, bench.kaiming(at, seed)) for at in unseen]}
    if arm == INITIAL:
        made = learned(bench, FIRST, seed, steps)
        curves = [bench.curve(at, predicted(bench, made, at), seed, TRAINING_STEPS // 2) for at in unseen[:TUNED]]
        return {"curves": curves, "unseen": [curve[0] for curve in curves]}
    made = learned(bench, arm, seed, steps)
    return {
        "unseen": [bench.accuracy(at, predicted(bench, made, at)) for at in unseen],
        "seen": [bench.accuracy(at, predicted(bench, made, at)) for at in range(UNSEEN)],
    }


def work(seeds: int) -> list[tuple[str, int]]:
    """Arms and seeds, seed by seed."""
    some = [(arm, seed) for seed in range(seeds) for arm in ARMS if arm == FIRST or seed < FEWER]
    return [(TRAINED, 0), *((KAIMING, seed) for seed in range(seeds)), *some, *((INITIAL, seed) for seed in range(FEWER))]


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    bench = Bench(options.results.with_suffix(".graphs"))
    for arm, seed in shared(work(options.seeds), options.share):
        if is_known(options.results, {"arm": arm, "seed": seed}):
            continue
        start = time.process_time()
        row = {"arm": arm, "seed": seed, **measure(bench, arm, seed, options.steps), "cpu": time.process_time() - start}
        keep(options.results, [row])
        print(arm, seed, _mean(row["unseen"]), row["cpu"], flush=True)


def report(rows: Lines) -> Iterator[str]:
    """Markdown: accuracies without training, those by kind of network, and steps to fixed accuracies."""
    found = {(row["arm"], row["seed"]): row for row in rows}
    yield f"\n**Accuracy of {UNSEEN} unseen architectures, untrained** (± over seeds; differences to {FIRST} ± over the networks)\n"
    yield markdown(list(_arms(found)))
    yield f"\n**By kind of network**\n\n{markdown(list(_kinds(found)))}"
    steps = list(_steps(found))
    if steps:
        yield f"\n**Steps of training to an accuracy** (medians over those of {TUNED} unseen networks that reach it from both)\n"
        yield markdown(steps)


def _arms(found: Found) -> Iterator[dict[str, Cell]]:
    trained = _mean(found[TRAINED, 0]["unseen"])
    for arm in (TRAINED, KAIMING, *ARMS):
        own = {seed: row for (name, seed), row in found.items() if name == arm}
        if not own:
            continue
        unseen, seen = [_mean(row["unseen"]) for row in own.values()], [_mean(row["seen"]) for row in own.values() if "seen" in row]
        paired = [seed for seed in own if arm in ARMS and arm != FIRST and (FIRST, seed) in found]
        apart = [_mean([own[seed]["unseen"][at] - found[FIRST, seed]["unseen"][at] for seed in paired]) for at in range(UNSEEN) if paired]
        yield {
            "weights": arm,
            "unseen": Estimate.of(unseen),
            "seen": Estimate.of(seen) if seen else "",
            f"minus {FIRST}": Estimate.of(apart) if apart else "",
            "of the way from chance to trained": f"{(_mean(unseen) - CHANCE) / (trained - CHANCE):.2f}",
            "seeds": len(own),
            "CPU s": f"{_mean([row['cpu'] for row in own.values()]):.0f}",
        }


def _kinds(found: Found) -> Iterator[dict[str, Cell]]:
    unseen = plans(SEEN + UNSEEN)[SEEN:]
    kinds = {
        f"{kind}, {norm} norm": [at for at, plan in enumerate(unseen) if (plan.kind, plan.norm) == (kind, norm)]
        for kind in ("mlp", "cnn")
        for norm in ("none", "batch", "layer")
    }
    kinds |= {
        "with skips": [at for at, plan in enumerate(unseen) if plan.has_skips],
        "without": [at for at, plan in enumerate(unseen) if not plan.has_skips],
    }
    for kind, places in kinds.items():
        if not places:
            continue
        row: dict[str, Cell] = {"networks": kind, "of them": len(places)}
        for arm in (TRAINED, FIRST, "shapes alone, no graph", "GHN-3 layers"):
            values = [_mean([one["unseen"][at] for at in places]) for (name, _), one in found.items() if name == arm]
            row[arm] = Estimate.of(values) if values else ""
        yield row


def _steps(found: Found) -> Iterator[dict[str, Cell]]:
    kaiming = found[TRAINED, 0]["curves"][:TUNED]
    for wanted in REACHED:
        base, own, saved, both, never = [], [], [], 0, 0
        for (arm, _), row in found.items():
            if arm != INITIAL:
                continue
            pairs = [(_reached(one, wanted), _reached(other, wanted)) for one, other in zip(kaiming, row["curves"], strict=True)]
            never += sum(one is not None and other is None for one, other in pairs)
            reached = [(one, other) for one, other in pairs if one is not None and other is not None]
            both = len(reached)
            if reached:
                base.append(float(torch.tensor([one for one, _ in reached]).median()))
                own.append(float(torch.tensor([other for _, other in reached]).median()))
                saved.append(_mean([one - other for one, other in reached]))
        if saved:
            yield {
                "accuracy": str(wanted), "Kaiming": Estimate.of(base), "GHN-2": Estimate.of(own), "steps saved (mean)": Estimate.of(saved),
                "networks": both, "GHN-2 never, Kaiming does": never,
            }  # fmt: skip


def _reached(curve: Sequence[float], wanted: float) -> int | None:
    return next((at * EVERY for at, accuracy in enumerate(curve[: TRAINING_STEPS // 2 // EVERY + 1]) if accuracy >= wanted), None)


def _mean(values: Sequence[float | int]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--steps", type=int, default=STEPS)
    share_option(parser)
    perform(parser, run, report)


if __name__ == "__main__":
    main()
