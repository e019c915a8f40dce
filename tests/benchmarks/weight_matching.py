"""Weight matching beside its peers: seconds on one thread and on two, and what is reached, on the same weights and objective.

Run it with `python -m tests.benchmarks.weight_matching`, and for the peers
- `--rebasin DIR`: where `pip install --no-deps --target DIR rebasin==0.0.47 torchview graphviz` went;
- `--grb DIR`: a checkout of https://github.com/themrzmaster/git-re-basin-pytorch, whose `utils/weight_matching.py` is imported.

Every tool works on two nets with independent random weights, in a process of its own; what it imports and how it finds the symmetry
is not timed. git-re-basin-pytorch has specs for a few nets only, and that for VGG16 permutes the logits and counts running statistics:
it is given ours, wherever it can express it. The objective is one function for all (the inner product over parameters, in float64).
"""

import argparse
import contextlib
import gc
import importlib
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.analysis.matching.reference import counted, objective, published_coordinate_descent
from tests.benchmarks.matching_networks import SUBJECTS, Subject
from weightspace.axes import Leaf, leaves
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.tracing import trace

StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Taken:
    """What one match took and reached.

    Attributes:
        cpu: seconds of processor time, all threads together.
        wall: seconds.
        assignment: seconds of `cpu` inside the assignment solver.
        products: seconds of `cpu` inside matrix products, where the tool can tell.
        objective: reached.
        peak: the process's largest memory so far, in bytes.
    """

    cpu: float
    wall: float
    assignment: float
    products: float | None
    objective: float
    peak: int


class Clock:
    """Adds up the processor time spent in one function of a module."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.seconds, function = 0.0, getattr(module, name)

        def timed(*given: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.seconds += time.process_time() - start

        setattr(module, name, timed)

    def take(self) -> float:
        """The seconds since the last time."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


Match = Callable[[nn.Module, nn.Module, SymmetrySpec, int, Subject], tuple[Callable[[], Any], Callable[[Any], StateDict]]]


def ours(solver: str) -> tuple[Match, Clock, Clock]:
    """Our matching with one of the assignment solvers."""
    from weightspace.analysis.matching import family, match, weight

    def prepare(a: nn.Module, b: nn.Module, spec: SymmetrySpec, seed: int, subject: Subject) -> Any:
        generator, left, right = torch.Generator().manual_seed(seed), dict(a.state_dict()), dict(b.state_dict())
        return lambda: match(left, right, spec, method="weight", generator=generator, solver=solver), lambda m: act(m.element, right)

    return prepare, Clock(family, "assign"), Clock(weight, "kernel")


def published() -> tuple[Match, Clock, None]:
    """The published algorithm as our tests write it out, in float64: slow, for its objective alone."""
    reference = importlib.import_module("tests.analysis.matching.reference")

    def prepare(a: nn.Module, b: nn.Module, spec: SymmetrySpec, seed: int, subject: Subject) -> Any:
        generator, left, right = torch.Generator().manual_seed(seed), dict(a.state_dict()), dict(b.state_dict())
        return lambda: published_coordinate_descent(left, right, spec, generator)[0], lambda element: act(element, right)

    return prepare, Clock(reference, "linear_sum_assignment"), None


def grb(folder: Path) -> tuple[Match, Clock, None]:
    """git-re-basin-pytorch, told our groups in its own form."""
    place = importlib.util.spec_from_file_location("grb_weight_matching", folder / "utils" / "weight_matching.py")
    assert place is not None and place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)

    def prepare(a: nn.Module, b: nn.Module, spec: SymmetrySpec, seed: int, subject: Subject) -> Any:
        movable = {group.name for group in spec.movable}
        left, right, rows = dict(a.state_dict()), dict(b.state_dict()), {}
        for name in counted(left, spec):
            if not all(isinstance(axis, Leaf) or not movable & {leaf.group for leaf in leaves(axis)} for axis in spec.tensors[name]):
                sys.exit(f"git-re-basin-pytorch has no word for the axes of '{name}'")
            rows[name] = tuple(axis.group if isinstance(axis, Leaf) and axis.group in movable else None for axis in spec.tensors[name])
        table = module.permutation_spec_from_axes_to_perm({name: row for name, row in rows.items() if any(row)})
        torch.manual_seed(seed)

        def moved(found: dict[str, torch.Tensor]) -> StateDict:
            return act(spec.element({name: index.long() for name, index in found.items()}), right)

        return lambda: module.weight_matching(table, left, right, max_iter=100), moved

    return prepare, Clock(module, "linear_sum_assignment"), None


def rebasin(folder: Path) -> tuple[Match, Clock, None]:
    """The package rebasin, which finds the symmetry itself, and changes the second net in place."""
    sys.path.append(str(folder))
    module = importlib.import_module("rebasin.permutation_coordinate_descent")

    def prepare(a: nn.Module, b: nn.Module, spec: SymmetrySpec, seed: int, subject: Subject) -> Any:
        descent = module.PermutationCoordinateDescent(a, b, torch.randn(*subject.shape))
        torch.manual_seed(seed)
        return lambda: descent.calculate_permutations(100), lambda _: (descent.apply_permutations(), dict(b.state_dict()))[1]

    return prepare, Clock(module, "linear_sum_assignment"), None


def measure(name: str, tool: str, seeds: int, threads: int, peers: dict[str, Path]) -> None:
    """Run one tool on one net and print a line of JSON for every seed."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    makers: dict[str, Callable[[], tuple[Match, Clock, Clock | None]]] = {
        "ours": lambda: ours("scipy"),
        "ours, lapjv": lambda: ours("lapjv"),
        "published": published,
        "grb": lambda: grb(peers["grb"]),
        "rebasin": lambda: rebasin(peers["rebasin"]),
    }
    prepare, assignment, products = makers[tool]()
    for subject, numbers in ((Subject(_warm_up, (1, 8)), [0]), (SUBJECTS[name], range(seeds))):
        spec = trace(subject.make(), torch.randn(*subject.shape))
        for seed in numbers:
            a, b = subject.pair(seed)
            with contextlib.redirect_stdout(io.StringIO()):  # one peer prints a line for each assignment
                start, moved = prepare(a, b, spec, seed, subject)
                assignment.take()
                if products:
                    products.take()
                gc.collect()
                cpu, wall = time.process_time(), time.perf_counter()
                found = start()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            inside, multiplied = assignment.take(), products.take() if products else None
            before = dict(a.state_dict())
            reached = objective(before, moved(found), spec)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if subject is SUBJECTS[name]:
                print(json.dumps(asdict(Taken(cpu, wall, inside, multiplied, reached, peak))), flush=True)


def _warm_up() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 600), nn.ReLU(), nn.Linear(600, 8), nn.ReLU(), nn.Linear(8, 2))


def collect(name: str, tool: str, arguments: argparse.Namespace, seeds: int, threads: int) -> list[Taken]:
    """Measure in a process of its own, within limits of time and memory; what came before it broke off counts."""
    command = [sys.executable, "-m", "tests.benchmarks.weight_matching", "--one", name, tool, "--seeds", str(seeds)]
    command += ["--threads", str(threads)]
    for peer in ("grb", "rebasin"):
        if getattr(arguments, peer):
            command += [f"--{peer}", str(getattr(arguments, peer))]
    limit = arguments.memory << 30
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))}
    done = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    try:
        out, errors = done.communicate(timeout=arguments.limit)
    except subprocess.TimeoutExpired:
        done.kill()
        out, errors = done.communicate()
        print(f"  {tool} on {name}: stopped after {arguments.limit} s", file=sys.stderr)
    if done.returncode > 0:
        print(f"  {tool} on {name}: {(errors.strip().splitlines() or ['failed'])[-1][:200]}", file=sys.stderr)
    return [Taken(**json.loads(line)) for line in out.splitlines()]


def line(tool: str, single: list[Taken], double: list[Taken]) -> str:
    """Medians over the seeds, as a line of the table."""

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):9.3f}" if values else " " * 9

    cells = [
        middle([x.cpu for x in single]),
        middle([x.assignment for x in single]),
        middle([x.products for x in single if x.products is not None]),
        middle([x.wall for x in double]),
        f"{max(x.peak for x in single) / 1e9:9.2f}",
        f"{statistics.median(x.objective for x in single):14.6g}",
    ]
    return f"  {tool:12}" + "".join(cells) + f"{len(single):6}"


def main() -> None:
    """Measure every tool on every net and print a table, then how much faster ours is than the faster peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grb", type=Path)
    parser.add_argument("--rebasin", type=Path)
    parser.add_argument("--nets", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--tools", nargs="+", default=["ours", "ours, lapjv", "grb", "rebasin"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--wall-seeds", type=int, default=3, help="seeds to run again with two threads, for the wall time")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=900, help="seconds for all seeds of one tool on one net")
    parser.add_argument("--memory", type=int, default=10, help="GB of address space for one process")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        peers = {"grb": arguments.grb, "rebasin": arguments.rebasin}
        name, tool = arguments.one
        measure(name, tool, arguments.seeds, arguments.threads, peers)
        return
    ratios: dict[str, dict[str, float]] = {}
    print("medians                CPU s    assign  products  2 threads     GB     objective seeds")
    for name in arguments.nets:
        print(name)
        cpu: dict[str, float] = {}
        for tool in arguments.tools:
            if tool in ("grb", "rebasin") and getattr(arguments, tool) is None:
                continue
            single = collect(name, tool, arguments, arguments.seeds, 1)
            if single:
                double = collect(name, tool, arguments, arguments.wall_seeds, 2) if arguments.wall_seeds else []
                cpu[tool] = statistics.median(x.cpu for x in single)
                print(line(tool, single, double), flush=True)
        fastest = min((cpu[peer] for peer in ("grb", "rebasin") if peer in cpu), default=None)
        ratios[name] = {tool: fastest / cpu[tool] for tool in cpu if fastest and tool.startswith("ours")}
    for tool in ("ours", "ours, lapjv"):
        found = {name: ratio[tool] for name, ratio in ratios.items() if tool in ratio}
        if found:
            each = ", ".join(f"{name} {ratio:.1f}" for name, ratio in found.items())
            print(f"{tool}: {statistics.geometric_mean(found.values()):.1f} times as fast as the faster peer ({each})")


if __name__ == "__main__":
    main()
