"""Kinds of stitches, their ridge and their bias, between networks of different families: accuracy without training, and held-out error.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.stitch_kinds --results results.jsonl [--seeds 5]
    python -m weightspace.experiments.stitch_kinds --results results.jsonl --report

For each data set and seed an MLP, a CNN and a small vision transformer are trained twice. Stitches lead from each of the first three to each
of the second, between some cuts of each; numbers are means over cuts (errors: medians) and pairs of networks of one seed, and their 95 % intervals are over seeds.
Errors and accuracies are on examples that neither networks nor stitches have seen.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching import Chain
from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.fitting import BIASES, Bias, Gathered, crossing, gathered
from weightspace.analysis.stitching.layer import Stitch, stitches
from weightspace.experiments.tables import Estimate, Row, markdown
from weightspace.task import Task
from weightspace.zoo.populations import data

Asked = tuple[str, Mapping[str, Any]]

RIDGES = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, None)
MOST = 8  # pairs of cuts of two networks
KINDS: tuple[Asked, ...] = (
    *(("low_rank", {"rank": rank}) for rank in (4, 8, 16)),
    ("orthogonal", {"scale": False}),
    ("orthogonal", {"scale": True}),
    ("permutation", {"scale": False}),
    ("permutation", {"scale": True}),
    ("semi_matching", {}),
    ("identity", {}),
    ("random", {}),
)
EXAMPLES = (100, 1000)
FAMILIES = ("mlp", "cnn", "vit")
INPUT = "input"
"""A front that is no network, for a control."""


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        made: Tensor = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return made


class Transformer(nn.Module):
    """A small vision transformer with a class token, of images or signals."""

    def __init__(self, embedding: nn.Module, tokens: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding, self.token = embedding, nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens + 1, width))
        self.blocks = nn.ModuleList([Block(width, 2) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        x = self.embedding(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        made: Tensor = self.head(self.norm(x)[:, 0])
        return made


def network(family: str, name: str) -> nn.Module:
    """A network that is not trained, for flat inputs of a data set."""
    image = name == "digits"
    inputs = 64 if image else 40
    if family == "mlp":
        layers = [nn.Linear(inputs, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
        return nn.Sequential(*layers)
    laid = nn.Unflatten(1, (1, 8, 8) if image else (1, 40))
    if family == "vit":
        embedding = nn.Sequential(laid, nn.Conv2d(1, 24, 2, 2) if image else nn.Conv1d(1, 24, 4, 4))
        return Transformer(embedding, 16 if image else 10, 24, 2)
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if image else (nn.Conv1d, nn.BatchNorm1d)
    layers = [laid]
    for before, width, stride in ((1, 12, 1), (12, 24, 2), (24, 24, 2)):
        layers += [conv(before, width, 3, stride, 1), norm(width), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1) if image else nn.AdaptiveAvgPool1d(5), nn.Flatten(), nn.Linear(24 if image else 120, 10)
    )


def trained(family: str, examples: data.Examples, seed: int, steps: int) -> nn.Module:
    """A network that has learned from the training examples."""
    torch.manual_seed(seed)
    module = network(family, examples.name)
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        drawn = torch.randint(len(examples.train), (128,))
        loss = nn.functional.cross_entropy(module(examples.train[drawn]), examples.train_classes[drawn])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return module.eval()


def asked(examples: int) -> Iterator[tuple[str, Mapping[str, Any], Bias]]:
    """Kinds with settings and biases to be tried on so many examples."""
    for bias in BIASES:
        yield from (("linear", {"ridge": ridge}, bias) for ridge in RIDGES)
        if examples == max(EXAMPLES):
            yield from ((kind, settings, bias) for kind, settings in KINDS)


def measured(front: Chain | None, end: Chain, examples: data.Examples, count: int, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """Accuracies and errors of stitches of every kind between two networks, means over their cuts."""
    source = end if front is None else front
    cuts = [-1] if front is None else range(len(front.cuts))
    pairs = [(a, b) for a in cuts for b in range(len(end.cuts))]
    pairs = [pairs[at] for at in torch.randperm(len(pairs), generator=torch.Generator().manual_seed(len(pairs)))[:MOST].sort().values]
    drawn = torch.randperm(len(examples.train), generator=generator)[:count]
    shown, held = (
        gathered(source, end, Task.classification(end, inputs, classes, batch_size=500), pairs)
        for inputs, classes in ((examples.train[drawn], examples.train_classes[drawn]), (examples.test, examples.test_classes))
    )
    features = next(crossing(source, [examples.test], sorted(set(cuts))))
    for kind, settings, bias in asked(count):
        found: list[tuple[float, float]] = []
        for pair in pairs:
            if stitches[kind].is_square and len(set(shown[pair].bridge.units)) > 1:
                continue
            stitch = shown[pair].stitch(stitches[kind], bias=bias, generator=generator, settings=settings)
            found.append(_judged(stitch, held[pair], features[pair[0]], end, pair[1], examples))
        if found:
            accuracies, errors = zip(*found, strict=True)
            yield {
                "kind": kind, "settings": dict(settings), "bias": bias, "cuts": len(found), "accuracy": sum(accuracies) / len(found),
                "error": median(errors),
            }  # fmt: skip


def _judged(stitch: Stitch, held: Gathered, features: Tensor, end: Chain, at: int, examples: data.Examples) -> tuple[float, float]:
    with torch.no_grad():
        logits = end.run([examples.test], stitch(features), start=at)
    error = Equations.of(held.moments, held.places).error(stitch.weight.detach().double(), stitch.bias.detach().double())
    return float((logits.argmax(-1) == examples.test_classes).double().mean()), error


def repeated(name: str, seed: int, steps: int) -> Iterator[dict[str, Any]]:
    """All lines of one data set and seed."""
    examples = data.load(name)
    generator = torch.Generator().manual_seed(seed)
    chains = [
        {family: Chain.of(trained(family, examples, 2 * seed + half, steps), examples.train[:4]) for family in FAMILIES} for half in (0, 1)
    ]
    for family in FAMILIES:
        with torch.no_grad():
            hits = (chains[1][family](examples.test).argmax(-1) == examples.test_classes).double().mean()
        yield {"end": family, "alone": float(hits), "names": [f"{one.name} {one.shape}" for one in chains[1][family].cuts]}
    for front in (*FAMILIES, INPUT):
        for end in FAMILIES:
            for count in EXAMPLES:
                lines = measured(chains[0].get(front), chains[1][end], examples, count, generator)
                yield from ({"front": front, "end": end, "examples": count, **line} for line in lines)


def label(line: Mapping[str, Any]) -> str:
    """Kind and settings in words."""
    words = [
        (name + "d" if value else "") if isinstance(value, bool) else f"{name} {_shown(value)}" for name, value in line["settings"].items()
    ]
    return f"{line['kind']} {', '.join(words)}".strip()


def table(lines: Sequence[Mapping[str, Any]], rows: str, examples: int) -> list[Row]:
    """Means over seeds of what was measured, a row for each ridge, kind, or pair of networks."""
    own = [line for line in lines if "kind" in line and line["examples"] == examples]
    out: list[Row] = []
    for key in filter(None, dict.fromkeys(_key(line, rows) for line in own)):
        row: dict[str, Any] = {rows: key}
        found = [line for line in own if _key(line, rows) == key]
        for name in sorted({line["data"] for line in found}):
            for bias in BIASES:
                here = [line for line in found if line["data"] == name and line["bias"] == bias]
                seeds = [[line for line in here if line["seed"] == seed] for seed in sorted({line["seed"] for line in here})]
                row[f"{name}, bias of {bias}"] = Estimate.of([_mean(one, "accuracy") for one in seeds])
                row[f"{name}, {bias}: error"] = Estimate.of([_mean(one, "error") for one in seeds]).mean
        out.append(row)
    return out


def _key(line: Mapping[str, Any], rows: str) -> str:
    """The row that a line belongs to, if any."""
    is_default = line["kind"] == "linear" and line["settings"]["ridge"] is None
    if rows == "networks":
        return f"{line['front']} to {line['end']}" if is_default else ""
    if line["front"] == INPUT or (rows == "ridge" and line["kind"] != "linear"):
        return ""
    if rows == "ridge":
        return _shown(line["settings"]["ridge"])
    return label(line) if is_default or line["kind"] != "linear" else ""


def _shown(value: Any) -> str:
    return "cross-validated" if value is None else f"{value:g}"


def _mean(lines: Sequence[Mapping[str, Any]], of: str) -> float:
    return float(sum(line[of] * line["cuts"] for line in lines) / sum(line["cuts"] for line in lines))


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    done = {(line["data"], line["seed"]) for line in lines if line.get("end") == "done"}
    if options.report:
        for rows, examples in (("ridge", 100), ("ridge", 1000), ("kind", 1000), ("networks", 1000)):
            print(f"\n{rows}, {examples} examples\n\n{markdown(table(lines, rows, examples))}")
        return
    for seed in range(options.seeds):
        for name in ("digits", "mnist1d"):
            if (name, seed) in done:
                continue
            made = [{"data": name, "seed": seed, **line} for line in repeated(name, seed, options.steps)]
            with options.results.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in [*made, {"data": name, "seed": seed, "end": "done"}])
            print(name, seed, flush=True)


if __name__ == "__main__":
    main()
