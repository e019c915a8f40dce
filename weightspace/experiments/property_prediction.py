"""What weights tell of a property, family by family, beside what embarrasses each: settings, sizes, statistics, raw weights, a few images.

Run it on a zoo that `weightspace populate` made; results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.property_prediction --zoo ZOO --target test_accuracy --results results.jsonl [--share 0/2]
    python -m weightspace.experiments.property_prediction --results results.jsonl --report

Every method sees the same networks, split by run (or datum, or by whole architectures with --leave-out) anew for each seed: 70 % to learn
from, 15 % to choose the epoch, 15 % to judge. Weights-only methods and those that run the networks stand in columns of their own.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.cli.left_out import LeftOut
from weightspace.cli.networks import Network, networks_of, specs_for, weights_of
from weightspace.errors import MetanetError
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, perform, share_option, shared
from weightspace.experiments.tables import with_interval
from weightspace.metanets import Examples, Predictor, Schedule, WeightSet, build, metanets, train
from weightspace.metanets.examples import group_split
from weightspace.metanets.families.statistics import statistics
from weightspace.metanets.heads import kendall
from weightspace.zoo.zoo import Zoo

SCHEDULE = Schedule(epochs=30, patience=8, batch_size=32, learning_rate=3e-3)
IMAGES = 30


@dataclass(frozen=True)
class Data:
    """Networks of a zoo with what is to be told of them."""

    networks: Sequence[Network]
    weights: WeightSet
    targets: np.ndarray
    is_class: bool

    def settings(self) -> np.ndarray:
        """Hyperparameters and architecture as numbers, words one by one."""
        rows = [json.loads(one.row["hyperparameters"] or "{}") for one in self.networks]
        keys = sorted({key for row in rows for key in row})
        columns = []
        for key in keys:
            values = [row.get(key) for row in rows]
            if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                columns.append(values)
            else:
                words = sorted({str(value) for value in values})
                columns += [[float(str(value) == word) for value in values] for word in words[:20]]
        return np.array(columns, dtype=float).T

    def sizes(self) -> np.ndarray:
        """Number of parameters and of layers."""
        return np.array([[b.num_params, b.layout.depth, len(b.layout.groups)] for b, _ in self.weights.networks()], dtype=float)

    def statistics(self) -> np.ndarray:
        """Statistics of each tensor in order, zero-padded to the deepest network."""
        found = [statistics(batch[torch.tensor([at])])[0] for batch, at in self.weights.networks()]
        width = max(map(len, found))
        return np.stack([np.pad(row.numpy(), (0, width - len(row))) for row in found])

    def raw(self) -> np.ndarray:
        """All weights in a row, zero-padded to the largest network."""
        found = [batch[torch.tensor([at])].flat()[0] for batch, at in self.weights.networks()]
        width = max(map(len, found))
        return np.stack([np.pad(row.numpy(), (0, width - len(row))) for row in found])


Split = tuple[np.ndarray, np.ndarray, np.ndarray]
Method = Callable[[Data, Split, int], np.ndarray]
"""Predictions for the networks to judge by."""


def boosted(features: Callable[[Data], np.ndarray]) -> Method:
    """Gradient-boosted trees on features."""

    def run(data: Data, split: Split, seed: int) -> np.ndarray:
        x, make = features(data), HistGradientBoostingClassifier if data.is_class else HistGradientBoostingRegressor
        learned = make(random_state=seed, max_iter=200, learning_rate=0.05).fit(x[split[0]], data.targets[split[0]])
        return np.asarray(learned.predict(x[split[2]]), dtype=float)

    return run


def linear(features: Callable[[Data], np.ndarray]) -> Method:
    """Ridge or logistic regression on standardised features; the penalty by cross-validation, or by the validation networks."""

    def run(data: Data, split: Split, seed: int) -> np.ndarray:
        x = features(data)
        if data.is_class:
            scored = []
            for penalty in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
                model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500)).fit(
                    x[split[0]], data.targets[split[0]]
                )
                scored.append((model.score(x[split[1]], data.targets[split[1]]), model))
            best = max(scored, key=lambda one: one[0])[1]
        else:
            best = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 6, 17))).fit(x[split[0]], data.targets[split[0]])
        return np.asarray(best.predict(x[split[2]]), dtype=float)

    return run


def metanet(family: str, *, beside: Callable[[Data], np.ndarray] | None = None, head: str | None = None, **settings: Any) -> Method:
    """A family, trained from scratch; `beside` gives its head more to see."""

    def run(data: Data, split: Split, seed: int) -> np.ndarray:
        known = torch.tensor(beside(data), dtype=torch.float32) if beside is not None else None
        everything = Examples(data.weights, torch.tensor(data.targets, dtype=torch.float32), known)
        parts = [everything.take(torch.tensor(at)) for at in split]
        torch.manual_seed(seed)
        specs = specs_for(data.networks, family)
        net = build(family, specs[:1] if metanets[family].any_architecture else specs, **settings)
        chosen = head or ("classification" if data.is_class else "regression")
        more = {"classes": int(data.targets.max()) + 1} if data.is_class else {}
        predictor = Predictor(net, chosen, covariates=0 if known is None else known.shape[1], **more)
        done = train(predictor, parts[0], parts[1], replace(SCHEDULE, seed=seed))
        return done.predictor.predict(parts[2].networks, parts[2].covariates).double().numpy()

    return run


def few_images(data: Data, split: Split, seed: int) -> np.ndarray:
    """The loss on a few images alone, as it is: no learning but its sign."""
    from weightspace.modules import module_for
    from weightspace.task import task_for

    found = []
    for at in split[2]:
        checkpoint = data.networks[at].checkpoint
        task = task_for(checkpoint)
        inputs, classes = next(iter(task.batches))
        chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:IMAGES]
        with torch.no_grad():
            logits = module_for(checkpoint)(inputs[chosen])
        found.append(-float(torch.nn.functional.cross_entropy(logits, classes[chosen])))
    return np.array(found)


def rendered(data: Data) -> np.ndarray:
    """What each network makes of the inputs of its own task: of implicit networks the image itself."""
    from weightspace.task import task_for

    found = []
    for one in data.networks:
        task = task_for(one.checkpoint)
        found.append(torch.cat([made.flatten() for made in task.outputs(one.checkpoint)]).numpy())
    return np.stack(found)


def both(*parts: Callable[[Data], np.ndarray]) -> Callable[[Data], np.ndarray]:
    """Features side by side."""
    return lambda data: np.concatenate([part(data) for part in parts], 1)


METHODS: Mapping[str, tuple[str, Method]] = {
    "size and depth, boosted": ("metadata", boosted(Data.sizes)),
    "settings, boosted": ("metadata", boosted(Data.settings)),
    "raw weights, linear": ("weights", linear(Data.raw)),
    "statistics, linear": ("weights", linear(Data.statistics)),
    "statistics, boosted": ("weights", boosted(Data.statistics)),
    "statistics": ("weights", metanet("statistics")),
    "deepsets": ("weights", metanet("deepsets")),
    "dws": ("weights", metanet("dws")),
    "nfn HNP": ("weights", metanet("nfn", layer="HNP")),
    "nfn NP": ("weights", metanet("nfn", layer="NP")),
    "unf": ("weights", metanet("unf")),
    "gmn": ("weights", metanet("gmn")),
    "neural graph GNN": ("weights", metanet("neural_graph")),
    "neural graph transformer": ("weights", metanet("neural_graph_transformer")),
    "scalegmn": ("weights", metanet("scalegmn")),
    "sane": ("weights", metanet("sane")),
    "LoRA tokens": ("weights", metanet("lora_svd")),
    "LoRA products": ("weights", metanet("lora_products")),
    f"loss on {IMAGES} images": ("function", few_images),
    "rendered, linear": ("function", linear(rendered)),
    "noise probes": ("function", metanet("probe_noise")),
    "probegen": ("function", metanet("probegen")),
    "settings + statistics, boosted": ("both", boosted(both(Data.settings, Data.statistics))),
    "settings + gmn": ("both", metanet("gmn", beside=Data.settings)),
    "settings + neural graph GNN": ("both", metanet("neural_graph", beside=Data.settings)),
}


def read(zoo: Path, target: str, where: str, needs_module: bool) -> Data:
    """The networks of a zoo."""
    left_out = LeftOut()
    asked = {"target": target, "hyperparameters": "hyperparameters::varchar"}
    found = networks_of(Zoo(zoo), f"({where}) and ({target}) is not null", left_out, asked=asked, needs_module=needs_module)
    targets = [one.row["target"] for one in found]
    is_class = not all(isinstance(value, float) for value in targets)
    words = sorted({str(value) for value in targets})
    numbers = [words.index(str(value)) for value in targets] if is_class else targets
    print(f"{len(found)} networks, {len(left_out.reasons)} left out", flush=True)
    return Data(found, weights_of(found), np.array(numbers, dtype=float), is_class)


def splits(data: Data, seed: int, leave_out: bool) -> Split:
    """Networks to learn from, to choose the epoch and to judge by; with `leave_out` of architectures not seen before."""
    if leave_out:
        groups = [str(one.row["architecture_id"]) for one in data.networks]
    else:
        groups = [one.group for one in data.networks]
    drawn = np.array(group_split(groups, seed=seed))
    return tuple(np.flatnonzero(drawn == k) for k in range(3))  # type: ignore[return-value]


def judged(predicted: np.ndarray, truth: np.ndarray, is_class: bool) -> dict[str, float]:
    """Accuracy, or Kendall's tau and the share of variance explained."""
    if is_class:
        return {"accuracy": float((predicted == truth).mean())}
    return {
        "tau": kendall(torch.tensor(predicted), torch.tensor(truth)),
        "r2": float(1 - ((predicted - truth) ** 2).mean() / truth.var()),
    }


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    data = read(options.zoo, options.target, options.where, not options.no_modules)
    names = [name for name in METHODS if not options.only or name in options.only]
    for seed, name in shared([(seed, name) for seed in range(options.seeds) for name in names], options.share):
        here = {"zoo": options.label, "target": options.target, "leave_out": options.leave_out, "seed": seed, "method": name}
        if is_known(options.results, here):
            continue
        split, start = splits(data, seed, options.leave_out), time.process_time()
        try:
            found: dict[str, Any] = judged(METHODS[name][1](data, split, seed), data.targets[split[2]], data.is_class)
        except MetanetError as error:
            found = {"refused": str(error)}
        row = here | found | {"cpu": time.process_time() - start, "networks": len(data.networks)}
        keep(options.results, [row])
        print(row, flush=True)


def report(rows: Lines) -> Iterator[str]:
    """A markdown table for each zoo and target: mean over the seeds, half the 95 % interval, the paired difference to boosted statistics."""
    for title in dict.fromkeys((row["zoo"], row["target"], row["leave_out"]) for row in rows):
        own = [row for row in rows if (row["zoo"], row["target"], row["leave_out"]) == title and "refused" not in row]
        measure = "accuracy" if any("accuracy" in row for row in own) else "tau"
        yield f"\n**{title[0]}, {title[1]}{', architectures left out' if title[2] else ''}** ({own[0]['networks']} networks)\n"
        yield f"| reads | method | {measure} | minus boosted statistics | r2 | CPU s | seeds |\n|-|-|-|-|-|-|-|"
        base = {row["seed"]: row[measure] for row in own if row["method"] == "statistics, boosted"}
        for name, (column, _) in METHODS.items():
            mine = [row for row in own if row["method"] == name and not math.isnan(row[measure])]
            if not mine:
                continue
            values = [row[measure] for row in mine]
            apart = [row[measure] - base[row["seed"]] for row in mine if row["seed"] in base]
            r2 = f"{np.mean([row['r2'] for row in mine]):.2f}" if "r2" in mine[0] and "images" not in name else ""
            cpu = np.mean([row["cpu"] for row in mine])
            yield f"| {column} | {name} | {with_interval(values)} | {with_interval(apart)} | {r2} | {cpu:.0f} | {len(mine)} |"


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--label", default="zoo")
    parser.add_argument("--target", default="test_accuracy")
    parser.add_argument("--where", default="run is not null")
    parser.add_argument("--leave-out", action="store_true")
    parser.add_argument("--no-modules", action="store_true", help="leave out methods that run the networks")
    share_option(parser)
    parser.add_argument("--only", nargs="*")
    perform(parser, run, report)


if __name__ == "__main__":
    main()
