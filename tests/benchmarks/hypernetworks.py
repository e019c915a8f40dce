"""Hypernetworks beside HyperLight 0.0.5 and hypnettorch 0.0.4: parameters, shapes, and the processor time of a pass forward and back.

Run it with `python -m tests.benchmarks.hypernetworks --peer DIR`, where DIR is the bin folder of an environment that has both and torch.
Sizes are equal: the same hidden layers, embeddings and chunks for the same target. `backward` makes the weights and differentiates the sum
of their squares. Processes take turns, each tool on one thread, and the fastest of all rounds counts.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("hypernetworks_child.py")
PAIRS = (("mip", "hyperlight"), ("mlp", "hypnettorch"), ("chunked", "hypnettorch"))
TARGETS: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "MLP 64-64-64-10": [
        ("fc1.weight", (64, 64)),
        ("fc1.bias", (64,)),
        ("fc2.weight", (64, 64)),
        ("fc2.bias", (64,)),
        ("fc3.weight", (10, 64)),
        ("fc3.bias", (10,)),
    ],
    "CNN 1-16-32-64": [
        ("conv1.weight", (16, 1, 3, 3)),
        ("conv1.bias", (16,)),
        ("conv2.weight", (32, 16, 3, 3)),
        ("conv2.bias", (32,)),
        ("conv3.weight", (64, 32, 3, 3)),
        ("conv3.bias", (64,)),
        ("fc.weight", (10, 64)),
        ("fc.bias", (10,)),
    ],
}


def child(python: Path, tool: str, kind: str, shapes: list[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """Run one tool."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [str(python), "-P", str(CHILD), tool, kind, json.dumps(shapes)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads, check=False)
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fastest(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The fastest time of each measurement."""
    return {what: min(one["ms"][what] for one in runs) for what in runs[0]["ms"]}


def main() -> None:
    """Compare on every target, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    print("| target | parameters made | hypernetwork | its parameters | peer | its parameters | what | peer, CPU ms | ours | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for target, shapes in TARGETS.items():
        made = sum(math.prod(shape) for _, shape in shapes)
        for kind, peer in PAIRS:
            theirs, own = [], []
            for _ in range(arguments.turns):
                theirs.append(child(arguments.peer.absolute() / "python", peer, kind, shapes))
                own.append(child(Path(sys.executable), "ours", kind, shapes))
            if theirs[0]["shapes"] != own[0]["shapes"]:
                raise RuntimeError(f"{peer} makes shapes {theirs[0]['shapes']}, we make {own[0]['shapes']}")
            for what, ms in fastest(theirs).items():
                mine = fastest(own)[what]
                print(
                    f"| {target} | {made:,} | {kind} | {own[0]['parameters']:,} | {peer} | {theirs[0]['parameters']:,} "
                    f"| {what} | {ms:.3f} | {mine:.3f} | {ms / mine:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
