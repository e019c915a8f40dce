"""Counts of intruder dimensions beside the definition carried out in full: equal on 200 matrices, and what both cost at 4096 x 4096.

`python -m tests.benchmarks.intruder_counts counts`: the definition (float32 decompositions of the base and of the tuned matrix, then
`abs(Ut.T @ U0).max(dim=1)[:k] < epsilon`) against `overlap_of`, by left and by right vectors; where they differ, a float64 reference is asked too.
`python -m tests.benchmarks.intruder_counts speed [SIZE]`: CPU seconds of both on random adapters of rank 16, for one adapter and for many of one base.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

import weightspace as ws
from weightspace.adapters import LowRank, read_adapter
from weightspace.analysis.intruders.counting import overlap_of
from weightspace.analysis.layers import layers
from weightspace.linalg import Cache, Singular, cached_svd
from weightspace.linalg.krylov import orthonormal

K, EPSILON = 10, 0.5
REAL = Path(__file__).resolve().parents[3] / "shared" / "real_checkpoints"
Case = tuple[str, Tensor, Tensor | LowRank]


def reference(base: Tensor, tuned: Tensor, side: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """The similarities of the definition, from full decompositions."""
    before, after = (torch.linalg.svd(matrix.to(dtype), full_matrices=False) for matrix in (base, tuned))
    product = after.U.T @ before.U if side == "left" else after.Vh @ before.Vh.T
    similarities: Tensor = product.abs().max(dim=1).values
    return similarities[:K]


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns."""
    return orthonormal(torch.randn(rows, columns, generator=generator))


SPECTRA: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "power law": lambda at, _: at**-0.5,
    "exponential": lambda at, _: torch.exp(-at / 40),
    "slow decay": lambda at, generator: 1 - at / 2 / len(at) + 1e-3 * torch.rand(len(at), generator=generator),
    "band of 40 equal values": lambda at, _: torch.where(at <= 40, 1.0, 0.2 / at),
    "band within 1e-6": lambda at, generator: 1 + 1e-6 * torch.rand(len(at), generator=generator),
    "rank 30": lambda at, _: (at <= 30) / at,
}


def base_of(kind: str, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random base with a spectrum of this kind."""
    if kind == "gaussian":
        return torch.randn(rows, columns, generator=generator) * 0.02
    size = min(rows, columns)
    values = SPECTRA[kind](torch.arange(1, size + 1).float(), generator)
    return (orthogonal(rows, size, generator) * values) @ orthogonal(columns, size, generator).T


def update_of(base: Tensor, rank: int, size: float, generator: torch.Generator) -> LowRank:
    """A random update whose spectral norm is about `size` times that of the base."""
    b, a = torch.randn(base.shape[0], rank, generator=generator), torch.randn(rank, base.shape[1], generator=generator)
    norm = torch.linalg.matrix_norm(b, 2) * torch.linalg.matrix_norm(a, 2)
    return LowRank("weight", a, b, float(size * torch.linalg.matrix_norm(base, 2) / norm), tuple(base.shape))


def random_cases(generator: torch.Generator) -> Iterator[Case]:
    """154 random bases with random updates."""
    shapes, ranks, sizes = ((256, 256), (640, 256), (256, 640), (320, 300)), (1, 4, 16, 64), (0.003, 0.1, 0.3, 0.7, 1.5, 6.0, 50.0)
    for kind_at, kind in enumerate(("gaussian", *SPECTRA)):
        for at in range(22):
            rows, columns = shapes[at % 4]
            rank, size = ranks[(at // 4 + kind_at) % 4], sizes[at % 7]
            base = base_of(kind, rows, columns, generator)
            yield f"{kind}, {rows} x {columns}, rank {rank}, size {size:g}", base, update_of(base, rank, size, generator)


def real_cases(generator: torch.Generator) -> Iterator[Case]:
    """Real layers with random updates, real fine-tunes of real bases, and a real adapter on random bases."""
    start = ws.open(REAL / "textgenrnn" / "base.hdf5")
    for tuned in ("hacker_news", "reddit_apple_android"):
        end = ws.open(REAL / "textgenrnn" / f"{tuned}.hdf5")
        for layer in layers(start, embeddings=True):
            if layer.name in end.info and end.info[layer.name].shape == layer.shape:
                yield f"textgenrnn to {tuned}, {layer.name}", layer.matrix(start[layer.name]), layer.matrix(end[layer.name])
    adapter = read_adapter(ws.open(REAL / "microsoft-lora" / "roberta_base_lora_mnli.bin"), alpha=16)
    for target in islice(adapter, 6):
        update = adapter[target]
        yield f"RoBERTa's adapter, {target}", torch.randn(update.rows, update.columns, generator=generator) * 0.04, update
    networks = ("akamaster/resnet56_cifar10.th", "drfrankenstein/resnet20_cifar10_seed0.pt", "outlier-exposure/baseline_epoch_9.pt")
    for name in networks:
        checkpoint = ws.open(REAL / name)
        for at, layer in enumerate(one for one in layers(checkpoint) if min(one.size) >= 10):
            base = layer.matrix(checkpoint[layer.name]).contiguous()
            yield f"{name}, {layer.name}", base, update_of(base, (1, 4, 8)[at % 3], (0.1, 0.5, 1.0, 4.0)[at % 4], generator)


def compare(total: int = 200) -> None:
    """Print how many counts are equal, by kind of matrix and by how ours was obtained."""
    generator = torch.Generator().manual_seed(0)
    random = list(random_cases(generator))
    real = list(real_cases(generator))
    chosen = [real[at * len(real) // (total - len(random))] for at in range(total - len(random))]
    rows: dict[str, Counter[str]] = {}
    for name, base, tuned in (*random, *chosen):
        row = rows.setdefault(name.split(",")[0], Counter())
        written = tuned if isinstance(tuned, Tensor) else tuned.applied_to(base)
        plain = overlap_of(base, tuned, K, epsilon=None)
        ours = overlap_of(base, tuned, K, epsilon=EPSILON)
        row["matrices"] += 1
        row[plain.tuned.method if ours.tuned.method == plain.tuned.method else "fallback"] += 1
        for side in ("left", "right"):
            count, found = int((reference(base, written, side) < EPSILON).sum()), ours.count(EPSILON, side=side)
            row["intruders"] += count
            row["equal"] += count == found
            row["equal without fallback"] += count == plain.count(EPSILON, side=side)
            row["undetermined"] += int((~ours.is_determined(EPSILON, side=side)).sum())
            row["float64 equal to float32"] += int((reference(base, written, side, torch.float64) < EPSILON).sum()) == count
            if count != found:
                print(f"{name}, {side}: reference {count}, ours {found}", file=sys.stderr)
    columns = (
        "matrices",
        "equal",
        "equal without fallback",
        "float64 equal to float32",
        "intruders",
        "undetermined",
        "certified",
        "exact",
        "fallback",
    )
    rows["all"] = sum(rows.values(), Counter())
    print("| base | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(str(row[column]) for column in columns) + " |")


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass
class Many:
    """Adapters of one base, counted one after another.

    Attributes:
        base: the matrix.
        decomposed: how often it was decomposed.
        methods: how the tuned triplets were obtained.
        counts: of intruders.
        cache: of the base's decomposition.
    """

    base: Tensor
    decomposed: int = 0
    methods: Counter[str] = field(default_factory=Counter)
    counts: list[int] = field(default_factory=list)
    cache: Cache = field(default_factory=dict)

    def known(self) -> Singular:
        """The base's decomposition."""
        return cached_svd("base", self._read, self.cache)

    def _read(self) -> Tensor:
        self.decomposed += 1
        return self.base

    def count(self, tuned: Tensor | LowRank) -> None:
        """Count one adapter's intruders."""
        found = overlap_of(self.base, tuned, K, base_svd=self.known())
        self.methods[found.tuned.method] += 1
        self.counts.append(found.count())


def speed(kind: str, size: int, adapters: int = 100) -> None:
    """Print what one adapter costs, and many of one base; the naive loop over many is one adapter, times their number."""
    generator = torch.Generator().manual_seed(0)
    base = base_of(kind, size, size, generator)
    scales = [float(10 ** torch.empty(1).uniform_(-2, 0.7, generator=generator)) for _ in range(adapters)]
    updates = [update_of(base, 16, scale, generator) for scale in scales]
    many = Many(base)
    first = seconds(many.known)
    each = [seconds(partial(many.count, update)) for update in updates]
    ours, mean = dict(many.methods), sum(each) / len(each)
    merged = seconds(partial(many.count, updates[0].applied_to(base)))
    print(
        f"\n{kind} base {size} x {size}, rank 16: {ours}, base decomposed {many.decomposed} time, mean count {sum(many.counts) / len(many.counts):.2f}"
    )
    print(f"base {first:.2f} s, an adapter {mean:.2f} s, at most {max(each):.2f} s\n", flush=True)
    counts: list[int] = []
    naive = seconds(lambda: counts.append(int((reference(base, updates[0].applied_to(base), "left") < EPSILON).sum())))
    assert many.counts[0] == counts[0]
    print("| CPU seconds | naive | ours | times less |\n|---|---|---|---|")
    for label, before, after in (
        ("one adapter, base not decomposed", naive, first + mean),
        ("one adapter, base decomposed before", naive, mean),
        ("one merged matrix, base decomposed before", naive, merged),
        ("50 adapters of one base, with it", naive * 50, first + sum(each[:50])),
        (f"{adapters} adapters of one base, with it", naive * adapters, first + sum(each)),
    ):
        print(f"| {label} | {before:.2f} | {after:.2f} | {before / after:.1f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["speed"]:
        for spectrum in ("gaussian", "power law"):
            speed(spectrum, int(sys.argv[2]) if len(sys.argv) > 2 else 4096)
    else:
        compare()
