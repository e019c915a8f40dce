"""What a compact store saves on families of models, and how fast it is, beside zstd alone and zstd of the XOR without planes.

Run it with `python -m tests.benchmarks.store [--width 1024] [--jobs 2]`. Families: a transformer that is really trained on scanned digits and
fine-tuned (all weights, low-rank updates merged, all but the last block frozen), in f32 and saved as bf16; larger ones of drawn numbers, for
speed; and real checkpoints where some are related, and some only look it. Every model is opened afterwards and its id compared.

Published beside it: ZipLLM (arXiv:2505.06252v3, abstract) saves 54 % of the bytes of Hugging Face's repositories of language models by
tensor deduplication and compressed XOR; the paper's repositories are not ours, so that the figures are no race.

Speeds are of wall time and of CPU time: on a machine that does other work at once, the second tells more. One run is one measurement.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import zstandard

import weightspace as ws
from weightspace.checkpoint import Checkpoint
from weightspace.experiments.tables import Cell, markdown
from weightspace.packing import CHUNK, LEVEL
from weightspace.storage import part, read
from weightspace.zoo import Zoo
from weightspace.zoo.populations.data import load_digits
from weightspace.zoo.store.running import identified
from weightspace.zoo.zoo import Added

Tensors = dict[str, torch.Tensor]
Family = list[tuple[str, "Checkpoint | Tensors", list[str]]]
"""Name, weights, and the names of the parents that the catalog is told of."""


class Reader(torch.nn.Module):
    """A transformer that reads an image of 8 x 8 pixels row by row."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(8, width)
        self.place = torch.nn.Parameter(0.02 * torch.randn(8, width))
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = torch.nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.blocks(self.embed(images.reshape(-1, 8, 8)) + self.place)
        out: torch.Tensor = self.head(hidden.mean(1))
        return out


def fitted(
    module: Reader, steps: int, rate: float, seed: int, chosen: Callable[[str], bool] = lambda name: True, inverted: bool = False
) -> Tensors:
    """Train the chosen parameters on real scans, inverted ones where a fine-tune is to learn something new; returns all weights."""
    data = load_digits()
    images, classes = data.train, data.train_classes
    images = (1 - images if inverted else images).float()
    for name, one in module.named_parameters():
        one.requires_grad_(chosen(name))
    optimizer = torch.optim.Adam([one for one in module.parameters() if one.requires_grad], rate)
    drawn = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        some = torch.randint(len(images), (64,), generator=drawn)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(images[some]), classes[some]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: one.detach().clone() for name, one in module.state_dict().items()}


def merged(base: Tensors, seed: int, rank: int = 8) -> Tensors:
    """The base plus low-rank updates of its attention and MLP matrices, of the size that fine-tuning gives them; exactly low-rank before rounding."""
    drawn = torch.Generator().manual_seed(seed)

    def update(one: torch.Tensor) -> torch.Tensor:
        low = torch.randn(one.shape[0], rank, generator=drawn) @ torch.randn(rank, one.shape[1], generator=drawn)
        moved: torch.Tensor = one.float() + 2e-3 * one.float().norm() / low.norm() * low
        return moved.to(one.dtype)

    return {name: update(one) if one.ndim == 2 and "blocks" in name else one for name, one in base.items()}


def trained(width: int, depth: int = 4) -> Family:
    """A base and six fine-tunes, trained."""
    torch.manual_seed(0)
    module = Reader(width, depth)
    base = fitted(module, 100, 1e-3, 0)
    made: Family = [("base", base, [])]
    for seed, rate in ((1, 1e-5), (2, 1e-5), (3, 1e-4)):
        module.load_state_dict(base)
        made.append((f"all, rate {rate:g} #{seed}", fitted(module, 25, rate, seed, inverted=True), ["base"]))
    module.load_state_dict(base)
    last = f"layers.{depth - 1}."
    made.append(("frozen", fitted(module, 25, 1e-4, 4, lambda name: last in name or "head" in name, True), ["base"]))
    made += [(f"merged {seed}", merged(base, seed), []) for seed in (5, 6)]
    return made


def in_bf16(family: Family) -> Family:
    """The same, saved as bf16."""
    return [(name, {key: one.to(torch.bfloat16) for key, one in dict(weights).items()}, parents) for name, weights, parents in family]


def drawn(width: int, dtype: torch.dtype) -> Family:
    """A large base of drawn numbers and three fine-tunes whose updates are a thousandth of it."""
    generator = torch.Generator().manual_seed(0)
    base = {f"blocks.{at}.weight": (0.02 * torch.randn(4 * width, width, generator=generator)).to(dtype) for at in range(8)}

    def moved(one: torch.Tensor) -> torch.Tensor:
        return (one.float() + 2e-5 * torch.randn(one.shape, generator=generator)).to(dtype)

    return [("base", base, []), *((f"tuned {at}", {name: moved(one) for name, one in base.items()}, ["base"]) for at in range(3))]


def real(folder: Path) -> Iterator[tuple[str, Family]]:
    """Families of real checkpoints: the first two are, the others are networks of one architecture trained apart."""
    groups = {
        "outlier-exposure (fine-tune and its base, one apart)": ["outlier-exposure/*.pt"],
        "textgenrnn (two fine-tunes and their base)": ["textgenrnn/*.hdf5"],
        "tiny10 (seeds)": ["drfrankenstein/tiny10*.pt"],
        "resnet20 (seeds)": ["drfrankenstein/resnet20*.pt"],
        "ACAS Xu (networks apart)": ["acasxu/*.onnx"],
        "RWKV-8 (two of a toy)": ["rwkv8/*.pth"],
        "sirens (one image each)": ["inr_orbit/**/*.pth", "inr_orbit/**/*.pt", "inr_orbit/**/*.safetensors"],
    }
    for name, patterns in groups.items():
        files = sorted(path for pattern in patterns for path in folder.glob(pattern))
        if files:
            yield name, [(path.stem, ws.open(path).state_dict(), []) for path in files]


def alone(one: Checkpoint, level: int = 3) -> int:
    """Bytes of all tensors together under zstd as it comes."""
    return len(zstandard.ZstdCompressor(level=level).compress(b"".join(bytes(one.raw(name)) for name in one)))


def xored(one: Checkpoint, base: Checkpoint | None) -> int:
    """Bytes under zstd of what differs from the base bit by bit, where it has such a tensor; in chunks, without planes."""
    packer, size = zstandard.ZstdCompressor(level=LEVEL), 0
    for name, info in one.info.items():
        raw = np.frombuffer(one.raw(name), np.uint8)
        if base is not None and name in base.info and base.info[name].shape == info.shape and base.info[name].dtype == info.dtype:
            raw = raw ^ np.frombuffer(base.raw(name), np.uint8)
        size += sum(len(packer.compress(raw[at : at + CHUNK].tobytes())) for at in range(0, len(raw), CHUNK))
    return size


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> "Clock":
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *raised: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def speed(num_bytes: int, clock: Clock) -> str:
    """MB/s of wall time, and a CPU second's worth."""
    return f"{num_bytes / 1e6 / clock.wall:,.0f} ({num_bytes / 1e6 / clock.cpu:,.0f})"


def run(title: str, family: Family, folder: Path, jobs: int) -> tuple[dict[str, Cell], dict[str, Cell]]:
    """One family through a zoo's store: bytes, then speeds."""
    zoo = Zoo(folder)
    ids: dict[str, str] = {}
    for has_parents in (False, True):
        some = [Added(weights, name, parents=parents) for name, weights, parents in family if bool(parents) == has_parents]
        ids |= dict(zip([one.name for one in some], zoo.add_many(some), strict=True))
    ids = {name: ids[name] for name, _, _ in family}
    size = zoo.store_families()
    before = sum(int(row["bytes"]) for row in size)
    opened = [zoo.open(one) for one in ids.values()]
    plain, flat = sum(map(alone, opened)), sum(xored(one, opened[0] if at else None) for at, one in enumerate(opened))
    names = [max(one.info, key=lambda name: one.info[name].nbytes) for one in opened]
    one_plain = seconds(lambda: opened[-1].raw(names[-1]))
    with Clock() as compacting:
        report = zoo.compact(jobs=jobs)
    assert not report.refused, report.refused
    kept = [zoo.open(one) for one in ids.values()]
    assert [one.id for one in kept] == list(ids.values())
    row: dict[str, Cell] = {
        "family": title,
        "models": len(family),
        "MB": before / 1e6,
        "zstd alone": plain / before,
        "zstd of XOR": flat / before,
        "store": report.after / before,
        "saved": f"{1 - report.after / before:.1%}",
    }
    times: dict[str, Cell] = {"family": title, "compact MB/s": speed(before, compacting)}
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool, Clock() as reading:
            list(pool.map(lambda piece: len(read(part(piece[0].storages[piece[1]], piece[2], piece[3]))), pieces(kept)))
        times[f"read MB/s, {threads}"] = speed(before, reading)
    kept = [zoo.open(one) for one in ids.values()]  # anew, since hashes are remembered
    with ThreadPoolExecutor(2) as pool, Clock() as checking:
        assert [identified(one, pool) for one in kept] == list(ids.values())
    times["read and hash MB/s, 2"] = speed(before, checking)
    with Clock() as restoring:
        zoo.restore_store(jobs=2)
    times["store restore MB/s, 2"] = speed(before, restoring)
    with Clock() as writing:
        written(before, folder / "limit")
    times["writing as many MB/s"] = speed(before, writing)
    times["one tensor, MB"] = opened[-1].info[names[-1]].nbytes / 1e6
    times["plain ms"] = 1e3 * one_plain
    zoo.compact(jobs=jobs)
    last = zoo.open(list(ids.values())[-1])
    times["compact ms"] = 1e3 * seconds(lambda: last.raw(names[-1]))
    middle = last.storages[names[-1]]
    times["4 kB of it ms"] = 1e3 * seconds(lambda: read(part(middle, middle.nbytes // 2, min(4096, middle.nbytes // 2))))
    return row, times


def written(count: int, path: Path) -> None:
    """Write so many bytes to a new file and sync it: what a restore cannot be faster than here."""
    block = os.urandom(1 << 22)
    with path.open("xb", buffering=0) as stream:
        for start in range(0, count, len(block)):
            stream.write(block[: count - start])
        os.fsync(stream.fileno())
    path.unlink()


def pieces(models: list[Checkpoint]) -> Iterator[tuple[Checkpoint, str, int, int]]:
    """Every tensor of every model, in pieces as they are restored."""
    for one in models:
        for name, info in one.info.items():
            if info.alias_of is None:
                yield from ((one, name, start, min(1 << 22, info.nbytes - start)) for start in range(0, info.nbytes, 1 << 22))


def seconds(work: Callable[[], object], times: int = 5) -> float:
    """The best of a few."""
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--width", type=int, default=1024, help="of the drawn networks")
    parser.add_argument("--trained", type=int, default=256, help="width of the trained transformer")
    parser.add_argument("--jobs", type=int, default=2)
    beside = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "real_checkpoints"
    parser.add_argument("--real", type=Path, default=Path(os.environ.get("WEIGHTSPACE_REAL_CHECKPOINTS", beside)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    learnt = trained(options.trained)
    families: list[tuple[str, Family]] = [
        ("trained transformer, f32", learnt),
        ("the same saved as bf16", in_bf16(learnt)),
        ("drawn, f32", drawn(options.width, torch.float32)),
        ("drawn, bf16", drawn(options.width, torch.bfloat16)),
        *(real(options.real) if options.real.is_dir() else ()),
    ]
    rows, times = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for at, (title, family) in enumerate(families):
            row, timed = run(title, family, Path(scratch) / str(at), options.jobs)
            rows.append(row)
            times.append(timed)
            print(f"{title}: done", file=sys.stderr, flush=True)
    print(f"Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(markdown(rows), "\n\nSpeeds of wall time (of a CPU second); threads behind the comma\n", markdown(times), sep="\n")


if __name__ == "__main__":
    main()
