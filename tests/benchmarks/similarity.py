"""Debiased linear CKA beside its peers: seconds, memory and what is computed, on the same activations.

Run it with `python -m tests.benchmarks.similarity`, and for the peers with `--peers DIR`, where
`pip install --no-deps --target DIR ckatorch==1.0.3 torch-cka==0.21 seaborn` went.

Every tool runs in a process of its own, on 10,000 samples of 4,096 features for the times, which are kept line by line in `--results FILE`, so
that it may be ended and run again. What a tool imports and the activations themselves are not counted. Tools with `batches` see 250 samples at
a time: the peers average HSICs over batches, which is another estimate.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weightspace.analysis.moments import Moments
from weightspace.analysis.similarity import linear_cka
from weightspace.experiments.tables import Cell, markdown

SAMPLES, FEATURES, BATCH = 10_000, 4_096, 250
ROOT = Path(__file__).parents[2]


def streamed(x: Tensor, y: Tensor, batch: int = BATCH) -> float:
    """Ours, a batch at a time: nothing is averaged."""
    moments = Moments()
    for one, two in zip(torch.split(x, batch), torch.split(y, batch), strict=True):
        moments.add(one, two)
    return moments.cka(debiased=True)


def numpy_gram(x: Tensor, y: Tensor) -> float:
    """The plain way: kernels of all samples in float64, centred so that HSIC is unbiased."""

    def kernel(values: Tensor) -> np.ndarray[Any, Any]:
        rows = values.double().numpy()
        made: np.ndarray[Any, Any] = rows @ rows.T
        np.fill_diagonal(made, 0)
        n, sums = len(made), made.sum(0)
        made -= (sums[:, None] + sums) / (n - 2)
        made += sums.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(made, 0)
        return made

    k, l = kernel(x), kernel(y)  # noqa: E741
    return float(np.vdot(k, l) / np.sqrt(np.vdot(k, k) * np.vdot(l, l)))


def ckatorch_whole(x: Tensor, y: Tensor) -> float:
    """The peer's kernels of all samples at once."""
    from ckatorch import cka_base  # type: ignore[import-not-found]

    return float(cka_base(x, y, unbiased=True))


def ckatorch_batches(x: Tensor, y: Tensor, batch: int = BATCH) -> float:
    """The peer's mean of HSICs over batches."""
    from ckatorch import cka_batch

    size = min(batch, len(x))
    return float(cka_batch(x.reshape(-1, size, x.shape[1]), y.reshape(-1, size, y.shape[1])))


def torch_cka(x: Tensor, y: Tensor, batch: int | None = None) -> float:
    """The other peer, through its only door: two models, whose features are their inputs here."""
    import torch_cka as peer  # type: ignore[import-not-found]
    from torch.utils.data import DataLoader, TensorDataset

    loaders = [DataLoader(TensorDataset(one), batch_size=batch or len(one)) for one in (x, y)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = peer.CKA(nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity()), "a", "b", ["0"], ["0"])
        one.compare(*loaders)
    return float(one.export()["CKA"])


TOOLS: Mapping[str, Callable[[Tensor, Tensor], float]] = {
    "weightspace": lambda x, y: linear_cka(x, y, debiased=True),
    "weightspace, batches": streamed,
    "numpy Gram": numpy_gram,
    "ckatorch": ckatorch_whole,
    "ckatorch, batches": ckatorch_batches,
    "torch-cka": torch_cka,
    "torch-cka, batches": lambda x, y: torch_cka(x, y, BATCH),
}


def activations(samples: int, features: int, *, offset: float = 0.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two representations that share some directions."""
    chance = torch.Generator().manual_seed(0)
    shared = torch.randn(samples, 32, generator=chance)

    def one() -> Tensor:
        made = torch.randn(samples, features, generator=chance).addmm_(shared, torch.randn(32, features, generator=chance), alpha=0.5)
        return made.to(dtype) + offset

    first = one()
    return first, one()


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    """Activations that go wrong somewhere: 200 samples of 60 features, in float32 unless said."""
    plain = activations(200, 60)
    dead, constant = (one.clone() for one in (plain[0], plain[0]))
    dead[:, :30], constant[:] = 0.3, 0.3
    return {
        "plain": plain,
        "offset 100": activations(200, 60, offset=100.0),
        "offset 1000": activations(200, 60, offset=1000.0),
        "offset 1000, float64": activations(200, 60, offset=1000.0, dtype=torch.float64),
        "scale 1e-12": (plain[0] * 1e-12, plain[1]),
        "half the features dead": (dead, plain[1]),
        "all constant": (constant, plain[1]),
        "n = 3": (plain[0][:3], plain[1][:3]),
        "200 unrelated, 2,000 features": tuple(torch.randn(2, 200, 2000, generator=torch.Generator().manual_seed(1))),
    }


def truth(x: Tensor, y: Tensor) -> float:
    """Debiased CKA of exactly these numbers: centred first, in extended precision, HSIC as it is written (Song et al., 2012, equation 5)."""

    def bare(values: Tensor) -> np.ndarray[Any, Any]:
        rows = values.double().numpy().astype(np.longdouble)
        rows = rows - rows.mean(0)
        made: np.ndarray[Any, Any] = rows @ rows.T
        np.fill_diagonal(made, 0)
        return made

    def hsic(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> Any:
        n = len(one)
        middle = one.sum() * two.sum() / ((n - 1) * (n - 2))
        return (one * two).sum() + middle - 2 / (n - 2) * (one.sum(0) @ two.sum(0))

    if len(x) < 4 or not float(x.double().var(0).sum()) > 1e-20 * float(x.double().square().sum()):
        return math.nan
    k, l = bare(x), bare(y)  # noqa: E741
    return float(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)))


def child(tool: str, threads: int, samples: int, features: int) -> None:
    """Take the time of one tool, as a line of JSON."""
    torch.set_num_threads(threads)
    x, y = activations(samples, features)
    TOOLS[tool](*activations(BATCH, 5))  # what is loaded at the first call is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = time.process_time(), time.perf_counter()
    value = TOOLS[tool](x, y)
    taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "value": value}
    print(json.dumps(taken | {"memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}))


def timed(tool: str, threads: int, samples: int, features: int, peers: Path | None) -> dict[str, Any]:
    """Run a child."""
    environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    if peers is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(peers.absolute()), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tests.benchmarks.similarity", "--child", tool, str(threads), str(samples), str(features)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        return {"error": ended.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def measure(tools: list[str], samples: int, features: int, peers: Path | None, results: Path) -> None:
    """Take the times that are not taken yet."""
    for threads in (1, 2):
        for tool in tools:
            if (tool, threads) not in known(results):
                row = {"tool": tool, "threads": threads, **timed(tool, threads, samples, features, peers)}
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def known(results: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """What was taken, by tool and threads."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {(row["tool"], row["threads"]): row for row in rows}


def speed(results: Path) -> str:
    """The table of times and memory, each also as a multiple of ours."""
    rows: list[dict[str, Cell]] = []
    found = known(results)
    for (tool, threads), one in found.items():
        row: dict[str, Cell] = {"tool": tool, "threads": threads}
        if "error" in one:
            rows.append(row | {"cpu s": one["error"]} | dict.fromkeys(_TIMES, "-"))
            continue
        ours = found["weightspace", threads]
        ratios = {f"x {key}": f"{one[key] / max(ours[key], 1e-9):.2f}" for key in ("cpu", "wall", "memory")}
        row |= {"cpu s": f"{one['cpu']:.1f}", "wall s": f"{one['wall']:.1f}", "MiB": f"{one['memory']:.0f}", **ratios}
        rows.append(row | {"value": f"{one['value']:.8f}"})
    return markdown(rows)


_TIMES = ("wall s", "MiB", "x cpu", "x wall", "x memory", "value")


def accuracy(tools: list[str]) -> str:
    """The table of errors: what each tool says, less what is so."""
    rows = []
    for name, (x, y) in cases().items():
        right = truth(x, y)
        rows.append({"activations": name, "truth": f"{right:.6f}"} | {tool: _said(TOOLS[tool], x, y, right) for tool in tools})
    return markdown(rows)


def _said(tool: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor, right: float) -> str:
    try:
        value = tool(x, y)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:40]}"
    if math.isnan(value):
        return "NaN"
    return f"{value:.4f}" if math.isnan(right) or math.isinf(value) else f"{value - right:+.1e}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--features", type=int, default=FEATURES)
    parser.add_argument("--results", type=Path, default=Path("similarity.jsonl"))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], *map(int, options.child[1:]))
        return
    if options.peers:
        sys.path.insert(0, str(options.peers.absolute()))
    tools = [tool for tool in TOOLS if options.peers or not tool.startswith(("ckatorch", "torch-cka"))]
    print(accuracy([tool for tool in tools if "batches" not in tool]), flush=True)
    print(f"\n{options.samples:,} samples, {options.features:,} features\n", flush=True)
    measure(tools, options.samples, options.features, options.peers, options.results)
    print(speed(options.results))


if __name__ == "__main__":
    main()
