"""Time of a step of the graph networks of neural graphs, over stacked slots and over graphs, beside what the authors' code takes.

Run as `python -m tests.benchmarks.metanet_neural_graph [repeats]`: CPU milliseconds of forward and backward, one thread, 64 SIRENs 2-32-32-1.
The authors' times are from another machine; the scatter of 75,840 rows of 32, forward and backward, took 12.1 ms there.
"""

import sys
import time
from collections.abc import Callable

import torch

from weightspace.metanets import WeightBatch, build
from weightspace.metanets.graphs.graph import collate, to_graphs
from weightspace.metanets.graphs.net import GraphMetaNet
from weightspace.spec import SymmetrySpec

SIREN = SymmetrySpec.parse(
    {"0.weight": "a in", "0.bias": "a", "1.weight": "b a'", "1.bias": "b", "2.weight": "out b'", "2.bias": "out"},
    sizes={"a": 32, "b": 32},
    groups={"in": {"size": 2, "kind": "fixed"}, "out": {"size": 1, "kind": "fixed"}},
)
THEIRS = {"neural_graph": ("92k", 2323.0), "neural_graph_transformer": ("377k", 15542.0)}
ROWS: tuple[tuple[str, dict[str, object]], ...] = (
    ("neural_graph", {"reverse": False}),
    ("neural_graph", {}),
    ("neural_graph_transformer", {}),
)


def cpu_ms(step: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and smallest CPU time of a step, after one that does not count."""
    step()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(1e3 * (time.process_time() - start))
    return sorted(times)[repeats // 2], min(times)


def scatter() -> None:
    """What the authors' machine did in 12.1 ms."""
    rows = torch.randn(75_840, 32, requires_grad=True)
    torch.zeros(4_480, 32).index_add(0, torch.arange(75_840) % 4_480, rows).sum().backward()  # type: ignore[no-untyped-call]


def main(repeats: int = 3) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    states = [{name: torch.randn(SIREN.shape(name), generator=generator) / 6 for name in SIREN.tensors} for _ in range(64)]
    batch = WeightBatch.stack(states, SIREN)
    graphs = collate(to_graphs(batch))
    print(f"scatter: {cpu_ms(scatter, 9)[0]:.1f} ms here, 12.1 ms there\n")
    print(
        "| metanet | settings | params | dense ms (smallest) | sparse ms (smallest) | authors' params | authors' ms | dense, times faster |"
    )
    print("|-|-|-|-|-|-|-|-|")
    for name, settings in ROWS:
        net = build(name, SIREN, **settings)
        assert isinstance(net, GraphMetaNet)
        dense, sparse = (
            cpu_ms(lambda read=read, given=given: read(given).square().mean().backward(), repeats)  # type: ignore[misc]
            for read, given in ((net.embed, batch), (net.embed_graphs, graphs))
        )
        params = sum(parameter.numel() for parameter in net.parameters()) // 1000
        theirs, ms = THEIRS[name]
        cells = f"{dense[0]:.0f} ({dense[1]:.0f}) | {sparse[0]:.0f} ({sparse[1]:.0f}) | {theirs} | {ms:.0f} | {ms / dense[0]:.1f}"
        print(f"| {name} | {settings or 'default'} | {params}k | {cells} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
