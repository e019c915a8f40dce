"""NP and HNP layers beside those of nfn 0.1.2: processor time of three layers with ReLU between, forward and with gradients.

Run it with `python -m tests.benchmarks.metanet_nfn --peer DIR`, where DIR is a folder into which nfn and einops were installed
(`python -m pip install --target DIR --no-deps nfn==0.1.2 einops`); without it only ours is measured. Both run on one thread with the
torch of this environment, in processes of their own, by turns. Parameters differ in this: where several maps sum into one output, nfn
gives each a bias; its HNP has the means of the first and last weights twice, and lacks the map from the last hidden biases to the last
weights. A row of `embedded` kernels has the channels of the peer's for each weight, and not for each cell of its kernel.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("metanet_nfn_child.py")
NETWORKS, REPEATS = 64, 5
SIREN = [[32, 2], [32, 32], [1, 32]]
CNN = [[16, 1, 3, 3], [16, 16, 3, 3], [16, 16, 3, 3], [10, 16]]
CASES = [
    (kind, name, shapes, channels, kernels)
    for kind in ("NP", "HNP")
    for name, shapes, channels, kernels in [
        ("SIREN 2-32-32-1", SIREN, 32, "multiplied"),
        ("SIREN 2-32-32-1", SIREN, 128, "multiplied"),
        ("CNN of 4,970", CNN, 16, "multiplied"),
        ("CNN of 4,970", CNN, 16, "embedded"),
    ]
]


def measure(whose: str, kind: str, shapes: list[list[int]], channels: int, kernels: str, folder: Path | None) -> dict[str, Any]:
    """Run a case in a process of its own."""
    path = os.pathsep.join(str(part) for part in (folder, Path.cwd()) if part is not None)
    said = [whose, kind, json.dumps(shapes), str(channels), str(NETWORKS), kernels, str(REPEATS)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    made = subprocess.run([sys.executable, CHILD, *said], env=environment, capture_output=True, text=True)
    if made.returncode != 0:
        raise RuntimeError(f"{whose} failed: {made.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="folder into which nfn was installed")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each, by turns")
    chosen = parser.parse_args()
    print(
        "| layer | networks | channels | kernels | parameters | forward ms | both ms | nfn: parameters | forward | both | faster: forward | both |"
    )
    print("|-|-|-|-|-|-|-|-|-|-|-|-|")
    for kind, name, shapes, channels, kernels in CASES:
        sides = ["ours"] + ["theirs"] * (chosen.peer is not None)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(chosen.rounds):
            for side in sides:
                runs[side].append(measure(side, kind, shapes, channels, kernels, chosen.peer if side == "theirs" else None))
        row = [kind, f"{NETWORKS} x {name}", str(channels), kernels]
        times = {side: [statistics.median(run[what] for run in runs[side]) for what in ("forward", "both")] for side in sides}
        for side in sides:
            row += [f"{runs[side][0]['parameters']:,}", *(f"{one:.0f}" for one in times[side])]
        if chosen.peer is not None:
            row += [f"{theirs / ours:.1f}" for ours, theirs in zip(times["ours"], times["theirs"], strict=True)]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
