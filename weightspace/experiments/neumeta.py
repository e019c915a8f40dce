"""NeuMeta on MNIST-1D: one residual block at widths seen and unseen, and whole networks, beside what embarrasses it.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.neumeta --results results.jsonl [--part block|whole] [--seeds 5]
    python -m weightspace.experiments.neumeta --results results.jsonl --report

Block: stem and head stay, the hidden units of the block vary; even widths from 8 to 32 are learned, odd ones never seen. Whole: all tensors of
a perceptron, both hidden layers of one width. Settings were chosen on networks of another seed, on training examples held out.
"""

import argparse
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.analysis.generation import Material, Target, WeightGenerator, Wish, fit, sample
from weightspace.analysis.generation.generators.neumeta import NeuMeta
from weightspace.analysis.generation.resizing import resized, resized_task
from weightspace.axes import leaves
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, perform, share_option, shared
from weightspace.experiments.tables import Estimate, markdown
from weightspace.metanets import WeightBatch
from weightspace.task import Task
from weightspace.zoo.populations.data import load
from weightspace.zoo.populations.layers import Residual

STREAM, BATCH, TRAINING = 32, 128, 2000


def block(width: int = 32) -> nn.Module:
    """A perceptron with one residual block, of whose hidden units there are `width`."""
    inner = Residual(nn.Linear(STREAM, width), nn.ReLU(), nn.Linear(width, STREAM))
    layers = [
        ("stem", nn.Linear(40, STREAM)),
        ("relu1", nn.ReLU()),
        ("block", inner),
        ("relu2", nn.ReLU()),
        ("head", nn.Linear(STREAM, 10)),
    ]
    return nn.Sequential(OrderedDict(layers))


def whole(width: int = 64) -> nn.Module:
    """A perceptron with two hidden layers of one width."""
    layers = [nn.Linear(40, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    return nn.Sequential(OrderedDict(zip(("fc1", "relu1", "fc2", "relu2", "fc3"), layers, strict=True)))


PARTS: Mapping[str, tuple[Callable[..., nn.Module], Sequence[int], Sequence[int]]] = {
    "block": (block, range(8, 33), (8, 16, 17, 32)),
    "whole": (whole, (16, 17, 24, 32, 33, 48, 64), (16, 32, 64)),
}
"""What builds the network, the widths it is judged at, and those of them at which networks are trained from scratch."""

SHOWN: Mapping[str, Sequence[int]] = {"block": (8, 9, 12, 16, 17, 24, 25, 32), "whole": (16, 17, 24, 32, 33, 48, 64)}
"""Widths in the report."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "block": {"only": ["block"], "groups": ["block.0"], "every": 2, "steps": 1500, "learning_rate": 3e-3},
    "whole": {"steps": 1500, "learning_rate": 1e-3},
}
VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "block": {"neumeta": {}, "no smoothing": {"smooth": False}, "no noise": {"noise": 0.0}},
    "whole": {
        "neumeta": {},
        "blockwise": {"blockwise": True},
        "blockwise, 6,000 steps": {"blockwise": True, "steps": 6000},
        "the same without noise": {"blockwise": True, "steps": 6000, "noise": 0.0},
    },
}


def trained(module: nn.Module, seed: int) -> nn.Module:
    """Train from scratch."""
    data, chance = load("mnist1d"), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.1)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, TRAINING)
    for _ in range(TRAINING):
        at = torch.randint(len(data.train), (BATCH,), generator=chance)
        loss = nn.functional.cross_entropy(module(data.train[at]), data.train_classes[at])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        falling.step()
    return module.eval()


def built(make: Callable[..., nn.Module], width: int, seed: int) -> nn.Module:
    """A network of a width, trained from scratch."""
    torch.manual_seed(1000 * seed + width)
    return trained(make(width), seed)


def judge(module: nn.Module) -> Task:
    """The task on test signals."""
    data = load("mnist1d")
    return Task.classification(module, data.test, data.test_classes)


def material(module: nn.Module) -> Material:
    """The trained network with its task, on training signals."""
    data = load("mnist1d")
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    networks = WeightBatch.stack([state], ws.trace(module, data.train[:2]))
    return Material(Target.of_networks(networks), networks, [Task.classification(module, data.train, data.train_classes, batch_size=BATCH)])


def drawn(fitted: WeightGenerator, task: Task, widths: Sequence[int]) -> dict[str, Any]:
    """Accuracy at each width, and milliseconds for a network."""
    assert isinstance(fitted, NeuMeta)
    found: dict[str, float] = {}
    spent = []
    for width in widths:
        target = resized(fitted.target, fitted.sizes_at(width))
        start = time.process_time()
        made = sample(fitted, 1, Wish(target=target))
        spent.append(1000 * (time.process_time() - start))
        state = target.whole({name: tensor[0] for name, tensor in made.items()})
        found[str(width)] = resized_task(task, target).evaluate(state)["accuracy"]
    return {"accuracy": found, "milliseconds": float(np.median(spent))}


def pruned(material: Material, groups: Sequence[str], task: Task, widths: Sequence[int]) -> dict[str, Any]:
    """Accuracy at each width when the neurons with the largest weights alone are kept."""
    assert material.networks is not None
    spec, found = material.networks.spec, {}
    for width in widths:
        state = {name: tensor[0] for name, tensor in material.networks.tensors.items()}
        for group in groups:
            places = [(n, j) for n, axes in spec.tensors.items() for j, a in enumerate(axes) if any(x.group == group for x in leaves(a))]
            size = sum(state[name].square().transpose(0, j).reshape(state[name].shape[j], -1).sum(1) for name, j in places)
            assert isinstance(size, Tensor)
            kept = size.topk(width).indices.sort().values
            state |= {name: state[name].index_select(j, kept) for name, j in places}
        target = resized(material.target, dict.fromkeys(groups, width))
        found[str(width)] = resized_task(task, target).evaluate(target.whole(state))["accuracy"]
    return {"accuracy": found}


def methods(part: str, seed: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What is measured for a seed."""
    make, widths, scratch = PARTS[part]
    largest = max(widths)
    full = built(make, largest, seed)
    task, known = judge(full), material(full)
    groups = ["block.0"] if part == "block" else ["fc1", "fc2"]
    yield "pruned", lambda: pruned(known, groups, task, widths)
    if part == "block":
        removed = built(make, largest, seed)
        removed.block = nn.Identity()
        yield (
            "block removed",
            lambda: {"accuracy": dict.fromkeys(map(str, widths), judge(removed).evaluate(removed.state_dict())["accuracy"])},
        )
    yield (
        "from scratch",
        lambda: {
            "accuracy": {str(w): judge(net).evaluate(net.state_dict())["accuracy"] for w in scratch for net in [built(make, w, seed)]}
        },
    )
    for name, change in VARIANTS[part].items():
        settings = {**SETTINGS[part], **change}
        yield name, lambda s=settings: drawn(fit("neumeta", known, generator=torch.Generator().manual_seed(seed), **s), task, widths)  # type: ignore[misc]


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    for seed in shared(range(options.seeds), options.share):
        for part in [options.part] if options.part else list(PARTS):
            for name, measure in methods(part, seed):
                here = {"part": part, "seed": seed, "method": name}
                if is_known(options.results, here):
                    continue
                start = time.process_time()
                found = measure()
                row = here | found | {"cpu": time.process_time() - start}
                keep(options.results, [row])
                print(part, seed, name, f"{row['cpu']:.0f} s", flush=True)


def report(rows: Lines) -> Iterator[str]:
    """Accuracy by width, then the bars."""
    for part, (_, widths, scratch) in PARTS.items():
        own = [row for row in rows if row["part"] == part]
        names = list(dict.fromkeys(row["method"] for row in own))
        table = {name: {row["seed"]: row["accuracy"] for row in own if row["method"] == name} for name in names}
        if not own:
            continue
        yield f"\n**{part}**: test accuracy, {max(len(found) for found in table.values())} seeds\n"
        yield markdown([{"width": w} | {name: over(table[name], str(w)) for name in names} for w in SHOWN[part]])
        lines = []
        fresh = table.get("from scratch", {})
        for name in [name for name in VARIANTS[part] if name in table]:
            seeds = table[name]
            full = {s: fresh[s][str(max(widths))] for s in seeds if s in fresh}
            spent = [row for row in own if row["method"] == name]
            line: dict[str, Any] = {"method": name}
            if part == "block":
                line["full minus width 8"] = Estimate.of([full[s] - seeds[s]["8"] for s in full])
                gaps = {w: [seeds[s][str(w)] - (seeds[s][str(w - 1)] + seeds[s][str(w + 1)]) / 2 for s in seeds] for w in widths if w % 2}
                worst = min(gaps, key=lambda w: float(np.mean(gaps[w])))
                line |= {"unseen minus neighbours": Estimate.of([float(np.mean(one)) for one in zip(*gaps.values(), strict=True)])}
                line |= {"the worst unseen": f"{worst}: {Estimate.of(gaps[worst])}"}
            else:
                for w in scratch:
                    line[f"minus scratch at {w}"] = Estimate.of([seeds[s][str(w)] - fresh[s][str(w)] for s in full])
            lines.append(
                line
                | {"ms a network": f"{np.mean([r['milliseconds'] for r in spent]):.1f}", "CPU s": round(np.mean([r["cpu"] for r in spent]))}
            )
        yield "\n" + markdown(lines)


def over(seeds: Mapping[int, Mapping[str, float]], width: str) -> Estimate | str:
    """The mean over seeds at a width."""
    values = [found[width] for found in seeds.values() if width in found]
    return Estimate.of(values) if values else ""


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--part", choices=list(PARTS))
    share_option(parser)
    perform(parser, run, report)


if __name__ == "__main__":
    main()
