"""Training: many networks of one shape side by side, each from a seed of its own, kept in files.

Run it with `python -m weightspace.experiments.train mnist1d-mlp 256 --cache DIR`; the experiments do it themselves.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.experiments.data import Examples, load
from weightspace.experiments.networks import ARCHITECTURES, Build, run_stacked
from weightspace.symmetry import StateDict

BATCH, RATE = 128, 1e-3
NETWORKS = 15  # of each shape: five pairs, and an anchor for each
STEPS = 2000


def networks(cache: Path, name: str, width: int, *, count: int = NETWORKS, steps: int = STEPS) -> list[dict[str, Tensor]]:
    """The first networks of a shape: read from the cache, those that are missing trained."""
    files = [cache / f"{name}-w{width}-{steps}" / f"{seed}.safetensors" for seed in range(count)]
    missing = [seed for seed, file in enumerate(files) if not file.exists()]
    if missing:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for seed, made in zip(missing, train(ARCHITECTURES[name], width, load(name.partition("-")[0]), missing, steps), strict=True):
            ws.save(made, files[seed])
    return [ws.open(file).state_dict() for file in files]


def train(build: Build, width: int, examples: Examples, seeds: Sequence[int], steps: int, rate: float = RATE) -> list[dict[str, Tensor]]:
    """Train networks that differ in their seed, which draws both initialisation and batches: Adam, its rate falling as a cosine."""
    modules = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules.append(build(width))
    return train_from(modules[0], [module.state_dict() for module in modules], examples, seeds, steps, rate)


def train_from(
    module: nn.Sequential, starts: Sequence[StateDict], examples: Examples, seeds: Sequence[int], steps: int, rate: float = RATE
) -> list[dict[str, Tensor]]:
    """Train on from given weights, which stay as they are; a seed for each draws its batches. See `train`."""
    weights = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    learnt = [weights[name].requires_grad_() for name, _ in module.named_parameters()]
    optimizer = torch.optim.Adam(learnt, rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(steps):
        drawn = torch.stack([torch.randint(len(examples.train), (BATCH,), generator=generator) for generator in generators])
        logits = run_stacked(module, weights, examples.train[drawn])
        # Summed over the networks: each one's gradient is that of its own mean loss.
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), examples.train_classes[drawn].flatten(), reduction="sum") / BATCH
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return [{name: stacked[at].detach().clone() for name, stacked in weights.items()} for at in range(len(seeds))]


def main() -> None:
    """Train the networks of one shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ARCHITECTURES)
    parser.add_argument("width", type=int)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--count", type=int, default=NETWORKS)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    started = time.perf_counter()
    made = networks(arguments.cache, arguments.name, arguments.width, count=arguments.count, steps=arguments.steps)
    print(f"{len(made)} networks in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
