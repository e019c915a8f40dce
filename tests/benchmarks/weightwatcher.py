"""Spectra beside WeightWatcher 0.7.7: how far the numbers are apart, layer by layer, and the processor time of each.

Run it with `python -m tests.benchmarks.weightwatcher --peer DIR FILE...`, where DIR is the bin folder of an environment that has
weightwatcher==0.7.7 and torch, and the files are checkpoints. Both read the same matrices and kernels on one thread. Two known differences are taken
out of the first table: WeightWatcher halves the eigenvalues of kernels, and the circle that it fits to square matrices has a fixed radius.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.analysis.layers import layers
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save

CHILD = Path(__file__).with_name("weightwatcher_child.py")
CLOSE = 1e-3
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """One number of both tools.

    Attributes:
        theirs: its name in WeightWatcher.
        ours: its name here.
        scaled: what it adds to it that WeightWatcher halves the eigenvalues of kernels: a function of a layer's row here.
        random: whether it is taken only with `randomize`.
    """

    theirs: str
    ours: str
    scaled: Callable[[Row], float] = lambda row: 0.0
    random: bool = False


METRICS = (
    Metric("alpha", "alpha"),
    Metric("alpha_weighted", "alpha_hat", lambda row: -row["alpha"] * math.log10(2)),
    Metric("log_alpha_norm", "log_alpha_norm", lambda row: -row["alpha"] * math.log10(2)),
    Metric("stable_rank", "stable_rank"),
    Metric("log_norm", "log_norm", lambda row: -math.log10(2)),
    Metric("log_spectral_norm", "log_spectral_norm", lambda row: -math.log10(2)),
    Metric("entropy", "spectral_entropy"),
    Metric("rank_loss", "rank_loss"),
    Metric("mp_softrank", "mp_softrank", random=True),
)


@dataclass(frozen=True)
class Found:
    """What one tool took in seconds of processor time, and found by layer."""

    taken: Mapping[str, float]
    values: Mapping[str, Row]


def child(python: Path, tool: str, file: Path, randomize: bool) -> Found:
    """Run one tool."""
    command = [str(python), "-P", str(CHILD), tool, str(file), "pooled", "randomize" if randomize else "plain"]
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads, check=False)
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stderr[-2000:]}")
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def exported(checkpoint: Path, folder: Path) -> tuple[Path, dict[str, tuple[int, ...]]]:
    """Write the layers that WeightWatcher takes, by numbers for names; returns their shapes as well.

    It takes matrices and kernels with rows and columns, with at least eight eigenvalues in all.
    """
    opened = open_checkpoint(checkpoint)
    tensors = {
        f"l{at}.weight": layer.matrix(opened[layer.name]) if layer.kind != "kernel" else opened[layer.name].float()
        for at, layer in enumerate(layers(opened, embeddings=True))
        if len(layer.shape) in (2, 4) and min(layer.shape[:2]) * math.prod(layer.shape[2:]) >= 8
    }
    save({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "layers.safetensors")
    return folder / "layers.safetensors", {name.removesuffix(".weight"): tuple(tensor.shape) for name, tensor in tensors.items()}


def far(metric: Metric, theirs: Found, ours: Found, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[float, str]]:
    """Relative differences by layer, largest first, WeightWatcher's scale of kernels taken out."""
    found = []
    for name, row in theirs.values.items():
        own, shape = ours.values[name], shapes[name]
        shift = metric.scaled(own) if len(shape) == 4 else 0.0
        expected, got = row[metric.theirs], own.get(metric.ours)
        got = None if got is None else got + shift
        same = expected == got or (got is None and expected in (None, -1))
        apart = 0.0 if same else math.inf if got is None or expected is None else abs(got - expected) / max(abs(expected), 1e-3)
        found.append((apart, f"{name} {list(shape)}"))
    return sorted(found, reverse=True)


def parity(model: str, theirs: Found, ours: Found, shapes: Mapping[str, tuple[int, ...]], randomize: bool) -> Iterator[str]:
    """Lines of a table of differences."""
    for metric in METRICS:
        if metric.random == randomize:
            apart = far(metric, theirs, ours, shapes)
            beyond = [one for one in apart if one[0] > CLOSE]
            yield (
                f"| {model} | {metric.theirs} | {len(apart)} | {apart[len(apart) // 2][0]:.0e} | {apart[0][0]:.0e} | {apart[0][1] if beyond else ''} "
                f"| {len(beyond)} |"
            )


def speed(model: str, theirs: Found, ours: Found, randomize: bool) -> str:
    """A line of the table of processor time."""
    one, two = theirs.taken, ours.taken
    return (
        f"| {model} | {len(theirs.values)} | {'yes' if randomize else 'no'} | {one['run']:.2f} | {two['run']:.2f} | {one['run'] / two['run']:.1f} "
        f"| {one['all']:.1f} | {two['all']:.1f} | {one['all'] / two['all']:.1f} |"
    )


def main() -> None:
    """Compare on every file, and print two tables for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    for path in arguments.files:
        model = path.stem if path.stem != "model" else path.parent.parent.name
        apart: list[str] = []
        times: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            file, shapes = exported(path, Path(folder))
            for randomize in (False, True):
                theirs = child(arguments.peer.absolute() / "python", "weightwatcher", file, randomize)
                ours = child(Path(sys.executable), "ours", file, randomize)
                apart += parity(model, theirs, ours, shapes, randomize)
                times.append(speed(model, theirs, ours, randomize))
        print("| model | metric | layers | median relative difference | largest | where | beyond 1e-3 |\n|---|---|---|---|---|---|---|")
        print(*apart, sep="\n")
        print("\n| model | layers | randomize | WeightWatcher, CPU s | ours | ratio | whole process, WeightWatcher | ours | ratio |")
        print("|---|---|---|---|---|---|---|---|---|")
        print(*times, "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
