"""The same work with one process, two, a Ray cluster of two and a Dask cluster of two: seconds, speed-up, start-up, and whether all agree.

Run it with `python -m tests.benchmarks.parallel`; clusters are started for each call and ended after it, as where no address is set.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from tests.zoo.wholeness import content_with_keys
from weightspace import parallel
from weightspace.checkpoint import Checkpoint
from weightspace.zoo import Zoo

WAYS = (("local", 1), ("local", 2), ("ray", 2), ("dask", 2))
SIDE = 512  # of the matrices: their singular values are what is measured
MATRICES = 4  # in a checkpoint, of one megabyte each


@dataclass(frozen=True)
class Timed:
    """What one way took, in seconds, and a digest of what it found."""

    backend: str
    jobs: int
    start_up: float
    ingest: float
    spectra: float
    digest: str


def make_files(folder: Path, count: int) -> None:
    """Write checkpoints, no two alike."""
    drawn = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        weights = {f"l{at}.weight": drawn.standard_normal((SIDE, SIDE), dtype=np.float32) for at in range(MATRICES)}
        save_file(weights, folder / f"{number:03d}.safetensors")


def spectral(checkpoint: Checkpoint) -> dict[str, float]:
    """The largest singular value of each matrix, from all of them."""
    torch.set_num_threads(1)
    return {name: float(torch.linalg.svdvals(checkpoint[name].double())[0]) for name in checkpoint}


def nothing(item: int) -> int:
    """No work at all: what it takes is start-up."""
    return item


def timed(files: Path, zoo: Zoo, backend: str, jobs: int) -> Timed:
    """Do it all one way; start-up is that of a pool with all the imports that the work needs."""
    started = time.perf_counter()
    assert list(parallel.run(nothing, range(jobs), jobs=jobs, backend=backend)) == list(range(jobs))
    start_up = time.perf_counter() - started
    started = time.perf_counter()
    zoo.ingest(files, jobs=jobs, backend=backend)
    ingested = time.perf_counter() - started
    started = time.perf_counter()
    table = zoo.map(spectral, measure="spectral", jobs=jobs, backend=backend)
    measured = time.perf_counter() - started
    digest = hashlib.sha256(repr((content_with_keys(zoo), table.to_pylist())).encode()).hexdigest()
    return Timed(backend, jobs, start_up, ingested, measured, digest)


def lines(found: list[Timed]) -> Iterator[str]:
    """A markdown table."""
    first = found[0]
    yield "| | start-up | ingest | speed-up | spectra | speed-up | without start-up | same bytes |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in found:
        own = one.start_up if one is not first else 0.0
        yield (
            f"| {one.backend}, {one.jobs} | {one.start_up:.1f} s | {one.ingest:.1f} s | {first.ingest / one.ingest:.2f} | {one.spectra:.1f} s "
            f"| {first.spectra / one.spectra:.2f} | {first.spectra / (one.spectra - own):.2f} | {'yes' if one.digest == first.digest else 'NO'} |"
        )


def main() -> None:
    """Make the files, and do the work each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="checkpoints of 4 MB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        make_files(files, arguments.count)
        found = [timed(files, Zoo(Path(folder) / f"{backend}-{jobs}"), backend, jobs) for backend, jobs in WAYS]
    print(
        f"{arguments.count} checkpoints, {arguments.count * MATRICES * SIDE * SIDE * 4 / 1e6:.0f} MB, {parallel.available_cores()} cores\n"
    )
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
