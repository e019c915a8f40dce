"""Lineage on a zoo whose history is known, scored by kind of edit, with raw distances and MoTHer beside it.

Run it with `python -m tests.benchmarks.lineage_zoo [--models 500] [--seed 2]`. Methods are tuned on zoos of other seeds: 1 is for that.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from tests.benchmarks.lineage_families import Truth, make
from tests.benchmarks.lineage_peers import mother, spanning_tree
from tests.benchmarks.lineage_score import Judged, Predicted, Score, judge
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.lineage import lineage
from weightspace.checkpoint import Checkpoint
from weightspace.opening import open as open_anything

Method = Callable[[Mapping[str, Checkpoint], Truth], list[Predicted]]


def ours(models: Mapping[str, Checkpoint], truth: Truth) -> list[Predicted]:
    """`weightspace.analysis.lineage`, told nothing but the weights."""
    found = lineage([Entry(name, one) for name, one in models.items()], generator=torch.Generator().manual_seed(0))
    return [Predicted(edge.parent, edge.child, edge.is_directed, edge.weight if edge.kind == "merge" else None) for edge in found.edges]


def _families(truth: Truth) -> int:
    return len({member.families[0] for member in truth.members.values()})


METHODS: dict[str, Method] = {
    "ours": ours,
    "distance, spanning tree": lambda models, truth: spanning_tree(
        {name: one.state_dict() for name, one in models.items()}, _families(truth)
    ),
    "MoTHer": lambda models, truth: mother({name: one.state_dict() for name, one in models.items()}, _families(truth)),
}


def opened(folder: Path, truth: Truth) -> dict[str, Checkpoint]:
    """Open the models of a zoo, in the order of their names, which says nothing."""
    return {name: open_anything(folder / truth.members[name].file) for name in sorted(truth.members)}


def table(results: Mapping[str, Judged], shown: Sequence[str] = ("family", "precision", "recall", "direction")) -> str:
    """Scores as a markdown table: a row a kind of edit, columns for each method."""
    first = next(iter(results.values()))
    head = ["kind of edit", "models", *[f"{method}: {what}" for method in results for what in shown]]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for kind in (*first.kinds, "all"):
        scores = [judged.total if kind == "all" else judged.kinds[kind] for judged in results.values()]
        lines.append([kind, str(scores[0].models), *[_number(score, what) for score in scores for what in shown]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(score: Score, what: str) -> str:
    value = getattr(score, what)
    return "" if value is None else f"{value:.3f}"


def summary(method: str, judged: Judged, seconds: float) -> str:
    """What the table does not say, in one line."""
    errors = [score.weight_error for score in judged.kinds.values() if score.weight_error is not None]
    weights = f", weights of merges off by {judged.total.weight_error:.3f}" if errors else ""
    return (
        f"- {method}: adjusted Rand {judged.rand:.3f}, {judged.joined} of {judged.strangers} pairs of families from one seed joined"
        f"{weights}, {seconds:.1f} s"
    )


def main() -> None:
    """Make a zoo and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="a zoo that lineage_families wrote, in place of a new one")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        truth = Truth.read(folder / "truth.json") if given.folder else make(folder, given.models, given.seed)
        models = opened(folder, truth)
        results: dict[str, Judged] = {}
        lines: list[str] = []
        for name in given.methods:
            start = time.process_time()
            results[name] = judge(truth, METHODS[name](models, truth))
            lines.append(summary(name, results[name], time.process_time() - start))
    print(table(results), *lines, sep="\n")


if __name__ == "__main__":
    main()
