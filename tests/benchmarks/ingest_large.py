"""One large safetensors file: ingest with all statistics, beside sha256sum, two peers and the loop a user would write.

Run it with `python -m tests.benchmarks.ingest_large`; `--peers DIR` names an environment that has sft-cli and reminis.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.processes import Taken, run

PLAIN_LOOP = """
import sys, torch
from safetensors import safe_open
with safe_open(sys.argv[1], "pt") as file:
    for name in file.keys():
        x = file.get_tensor(name).float()
        [x.mean(), x.std(), x.min(), x.max(), x.abs().sum(), x.norm(), (x == 0).sum(), x.isnan().sum(), x.isinf().sum(), ((x - x.mean()) ** 4).mean()]
"""


def make_file(path: Path, gigabytes: float) -> None:
    """Write layers of 4096 x 4096, half the bytes in bf16 and half in fp32, no two alike."""
    generator = np.random.default_rng(0)
    block = generator.standard_normal(4096 * 4096, dtype=np.float32)
    halves = {"F32": int(gigabytes * 1e9 / 2 // (64 << 20)) or 1, "BF16": int(gigabytes * 1e9 / 2 // (32 << 20)) or 1}
    header, at = {}, 0
    for dtype, count in halves.items():
        for number in range(count):
            size = block.size * (4 if dtype == "F32" else 2)
            header[f"layers.{number}.{dtype.lower()}.weight"] = {"dtype": dtype, "shape": [4096, 4096], "data_offsets": [at, at + size]}
            at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for dtype, count in halves.items():
            for _ in range(count):
                block = np.roll(block, 1)
                stream.write((block if dtype == "F32" else (block.view(np.uint32) >> 16).astype(np.uint16)).data)


def main() -> None:
    """Make the file, run each contender several times in turn, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        file, empty = place / "large.safetensors", place / "empty"
        empty.mkdir()
        make_file(file, arguments.gigabytes)
        size = file.stat().st_size
        weightspace: list[str | Path] = [sys.executable, "-m", "weightspace", "ingest", "--jobs", "2"]
        contenders: dict[str, list[str | Path]] = {
            "sha256sum": ["sha256sum", file],
            "openssl dgst -sha256": ["openssl", "dgst", "-sha256", file],
            "weightspace ingest": [*weightspace, file],
            "weightspace start-up (empty folder)": [*weightspace, empty],
            "plain torch loop, no hash": [sys.executable, "-c", PLAIN_LOOP, file],
        }
        if arguments.peers:
            contenders["sft stat"] = [arguments.peers / "sft", "stat", file]
            contenders["reminis convert"] = [arguments.peers / "reminis", "convert", "-q", "-o", place / "peer.db", file]
        run(["cksum", file])  # warm the page cache
        taken: dict[str, list[Taken]] = {name: [] for name in contenders}
        for repeat in range(arguments.repeats):
            for name, command in contenders.items():
                slow_peer = repeat > 0 and name in ("plain torch loop, no hash", "sft stat", "reminis convert")
                if not slow_peer:
                    zoo: list[str | Path] = (
                        ["--zoo", place / f"zoo-{repeat}-{name.count('empty')}"] if name.startswith("weightspace") else []
                    )
                    taken[name].append(run([*command, *zoo]))
                (place / "peer.db").unlink(missing_ok=True)
        seconds = {name: statistics.median(one.seconds for one in runs) for name, runs in taken.items()}
        start_up = seconds["weightspace start-up (empty folder)"]
        print(f"file of {size / 1e9:.2f} GB, warm, medians of {arguments.repeats} (peers and plain loop once)")
        print(f"{'':38}{'seconds':>9}{'GB/s':>7}{'x sha256sum':>13}{'peak GB':>9}")
        for name, value in seconds.items():
            peak = max(one.peak_memory for one in taken[name])
            print(f"{name:38}{value:9.2f}{size / value / 1e9:7.2f}{value / seconds['sha256sum']:13.2f}{peak / 1e9:9.2f}")
        net = seconds["weightspace ingest"] - start_up
        print(f"{'weightspace ingest without start-up':38}{net:9.2f}{size / net / 1e9:7.2f}{net / seconds['sha256sum']:13.2f}")
        print(f"{'':38}{'':9}{'':7}{net / seconds['openssl dgst -sha256']:13.2f} x openssl")


if __name__ == "__main__":
    main()
