"""Twenty thousand small checkpoints: ingest into all tables with two processes, beside the loop a user would write.

Run it with `python -m tests.benchmarks.ingest_small`; `--peers DIR` names an environment that has sft-cli.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.benchmarks.processes import run

SHAPES = [(32, 16), (32,), (32, 32), (32,), (32, 32), (32,), (32, 32), (32,), (10, 32), (10,)]
PLAIN_LOOP = """
import sys, numpy as np
from pathlib import Path
from safetensors.numpy import load_file
for path in sorted(Path(sys.argv[1]).rglob("*.safetensors"))[: int(sys.argv[2])]:
    for name, x in load_file(path).items():
        [x.mean(), x.std(), x.min(), x.max(), np.abs(x).sum(), (x * x).sum(), (x == 0).sum(), np.isnan(x).sum(), ((x - x.mean()) ** 4).mean()]
"""


def make_files(folder: Path, count: int) -> None:
    """Write checkpoints of ten tensors each, a thousand a folder, no two alike."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 1000:02d}"
        place.mkdir(parents=True, exist_ok=True)
        tensors = {f"l{i // 2}.{'wb'[i % 2]}": generator.standard_normal(shape, dtype=np.float32) for i, shape in enumerate(SHAPES)}
        save_file(tensors, place / f"{number}.safetensors", metadata={"lr": "0.1"})


def main() -> None:
    """Make the files, ingest them, ingest them again, run the plain loop and the peer on a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--peers", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "empty").mkdir()
        make_files(place / "files", arguments.count)
        ingest = [sys.executable, "-m", "weightspace", "ingest", "--jobs", "2"]
        part = min(2000, arguments.count)
        start_up = run([*ingest, place / "empty", "--zoo", place / "other"])
        first = run([*ingest, place / "files", "--zoo", place / "zoo"])
        second = run([*ingest, place / "files", "--zoo", place / "zoo"])
        loop_start = run([sys.executable, "-c", PLAIN_LOOP, str(place / "files"), "0"])
        loop = run([sys.executable, "-c", PLAIN_LOOP, str(place / "files"), str(part)])
        print(f"{arguments.count} checkpoints of {len(SHAPES)} tensors")
        print(f"start-up                               {start_up.seconds:8.2f} s")
        net = first.seconds - start_up.seconds
        print(
            f"weightspace ingest --jobs 2            {first.seconds:8.2f} s  {arguments.count / net:8.0f} a second without start-up, peak {first.peak_memory / 1e6:.0f} MB"
        )
        print(
            f"the same again                         {second.seconds:8.2f} s  {arguments.count / (second.seconds - start_up.seconds):8.0f} a second"
        )
        rate = part / (loop.seconds - loop_start.seconds)
        print(f"plain numpy loop, no hash, no catalog  {'':8}    {rate:8.0f} a second, one process")
        if arguments.peers:
            files = sorted((place / "files/00").iterdir())[:50]
            peer = sum(run([arguments.peers / "sft", "stat", file]).seconds for file in files[:10]) / 10
            print(f"sft stat, a process a file             {'':8}    {1 / peer:8.1f} a second (it takes one file at a time)")


if __name__ == "__main__":
    main()
