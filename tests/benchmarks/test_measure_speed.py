"""How fast one process hashes and measures tensors, beside the loop over numpy that a user would write."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from blake3 import blake3

from weightspace import dtypes
from weightspace.checkpoint import TensorInfo
from weightspace.storage import FileSpan, SourceFile, Storage
from weightspace.zoo.measure import measure, measure_many

pytestmark = pytest.mark.benchmark
COUNT = 1 << 24


def best(run: Callable[[], object], tries: int = 5) -> float:
    """Seconds of the fastest of several runs, the first of which warms up."""
    took = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return min(took)


def plain_loop(path: Path, name: str) -> None:
    """What a user would write: read the tensor, hash it, one numpy call a statistic."""
    raw = np.fromfile(path, np.uint8)
    blake3(raw.data).digest()
    x = dtypes.decode(raw, dtypes.dtype(name)).astype(np.float32, copy=False)
    np.sum(x == 0), np.isnan(x).sum(), np.isinf(x).sum(), x.min(), x.max(), np.abs(x).sum(), np.linalg.norm(x)
    distance = x - x.mean()
    square = distance * distance  # powers by ** would take many times as long
    square.mean(), (square * distance).mean(), (square * square).mean()


def stored(path: Path, name: str, values: npt.NDArray[np.float32]) -> tuple[TensorInfo, FileSpan]:
    words = (values.view(np.uint32) >> 16).astype(np.uint16) if name == "BF16" else values.astype(dtypes.dtype(name).numpy)
    words.tofile(path)
    return TensorInfo("w", name, values.shape), FileSpan(SourceFile.at(path), 0, words.nbytes)


@pytest.mark.parametrize("name", ["F32", "BF16", "F16"])
def test_large_tensors_are_measured_several_times_as_fast_as_by_a_plain_loop(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    info, span = stored(path, name, np.random.default_rng(0).standard_normal(COUNT, np.float32) * np.float32(0.02))
    ours, plain = best(lambda: measure(info, span)), best(lambda: plain_loop(path, name), 2)
    print(f"\n{name}: {span.nbytes / ours / 1e9:.2f} GB/s a process, plain loop {span.nbytes / plain / 1e9:.2f} GB/s")
    assert plain / ours > 3


def test_small_tensors_together_cost_less_than_half_of_each_alone(tmp_path: Path) -> None:
    path = tmp_path / "small"
    shapes = [(32, 16), (32,), *[(32, 32), (32,)] * 3, (10, 32), (10,)]
    infos = [TensorInfo(str(i), "F32", shape) for i, shape in enumerate(shapes)]
    np.random.default_rng(0).standard_normal(sum(info.numel for info in infos), np.float32).tofile(path)
    file, at = SourceFile.at(path), 0
    items: list[tuple[TensorInfo, Storage]] = []
    for info in infos:
        items.append((info, FileSpan(file, at, info.nbytes)))
        at += info.nbytes
    together = best(lambda: [measure_many(items) for _ in range(100)]) / 100
    alone = best(lambda: [[measure(*item) for item in items] for _ in range(100)]) / 100
    print(f"\nten small tensors: {together * 1e6:.0f} us together, {alone * 1e6:.0f} us one by one")
    assert together < alone / 2
