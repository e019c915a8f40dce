"""Populations beside training one network after the other: wall and CPU seconds, catalog rows included.

Run it with `python -m tests.benchmarks.populations`; naive training is extrapolated from sixteen networks.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weightspace.zoo import Zoo
from weightspace.zoo.populations import mlps, sirens
from weightspace.zoo.populations.data import load
from weightspace.zoo.populations.filling import fill

FIXED: dict[str, Any] = {"widths": (16,), "depths": (2,), "activations": ("relu",)}
POPULATIONS: dict[str, tuple[str, int, float | None, dict[str, Any]]] = {
    "512 MLPs 64-16-16-10, hyperparameters varied": ("mlps", 512, 10.0, {"data": "digits", **FIXED}),
    "512 MLPs on digits, architecture varied too": ("mlps", 512, None, {"data": "digits"}),
    "512 MLPs 40-16-16-10 on MNIST-1D": ("mlps", 512, None, {"data": "mnist1d", **FIXED}),
    "1797 SIRENs 2-32-32-1, one an image": ("sirens", 1797, 60.0, {"data": "digits"}),
    "128 CNNs on digits, architecture varied": ("cnns", 128, None, {"data": "digits"}),
    "32 transformers that sort": ("transformers", 32, None, {}),
    "300 LoRAs of one MLP on MNIST-1D": ("loras", 300, None, {"data": "mnist1d"}),
}
QUALITY = {"sirens": "psnr"}
ONE_BY_ONE = 16


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of some work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def perceptrons_one_by_one(count: int) -> None:
    """What the first population does, network by network."""
    data, steps = load("digits"), 540
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        module = mlps.build({"hyperparameters": {"width": 16, "depth": 2, "activation": "relu"}, "data": data.described})
        optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
        for _ in range(steps):
            at = torch.randint(len(data.train), (64,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(data.train[at]), data.train_classes[at]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def sirens_one_by_one(count: int) -> None:
    """What the population of sinusoidal networks does, network by network."""
    data, places = load("digits"), sirens.coordinates((8, 8))
    recipe = {"hyperparameters": {"width": 32, "depth": 2}, "rendering": {"w0": 10.0, "offset": 0.5}, "data": data.described}
    for at in range(count):
        module = sirens.build(recipe)
        optimizer = torch.optim.Adam(module.parameters(), 2e-3)
        for _ in range(80):
            optimizer.zero_grad()
            nn.functional.mse_loss(module(places), data.train[at][:, None]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


NAIVE = {"512 MLPs 64-16-16-10, hyperparameters varied": perceptrons_one_by_one, "1797 SIRENs 2-32-32-1, one an image": sirens_one_by_one}


def quality(zoo: Zoo, metric: str) -> str:
    """Quantiles of what was recorded."""
    rows = zoo.sql("select value from metrics where name = ? and coalesce(split, 'test') = 'test'", [metric]).to_pylist()
    values = sorted(row["value"] for row in rows)
    cuts = statistics.quantiles(values, n=20)
    return " ".join(f"{value:.3g}" for value in (values[0], cuts[1], cuts[4], cuts[9], cuts[14], cuts[17], values[-1]))


def main() -> None:
    """Print one row a population."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="populations whose row has this in its name")
    chosen = {title: one for title, one in POPULATIONS.items() if parser.parse_args().only in title}
    print(
        "| population | bar (s) | wall (s) | CPU (s) | one by one, wall (s) | times faster | accuracy or PSNR: least, .1, .25, .5, .75, .9, most |"
    )
    print("|-|-|-|-|-|-|-|")
    for title, (name, count, bar, settings) in chosen.items():
        load(settings.get("data", "digits"))
        with tempfile.TemporaryDirectory() as folder:
            zoo = Zoo(Path(folder))

            def work(zoo: Zoo = zoo, name: str = name, count: int = count, settings: dict[str, Any] = settings) -> None:
                fill(zoo, name, count=count, **settings)

            wall, cpu = timed(work)
            said = quality(zoo, QUALITY.get(name, "accuracy"))
        naive = timed(lambda: NAIVE[title](ONE_BY_ONE))[0] * count / ONE_BY_ONE if title in NAIVE else None  # noqa: B023
        beside = ("", "") if naive is None else (f"{naive:.0f}", f"{naive / wall:.0f}")
        print(f"| {title} | {bar or ''} | {wall:.1f} | {cpu:.1f} | {beside[0]} | {beside[1]} | {said} |", flush=True)


if __name__ == "__main__":
    main()
