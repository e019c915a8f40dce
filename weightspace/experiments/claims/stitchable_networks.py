"""That networks stitched from anchors of a family lie between them."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from weightspace.experiments.claim import Finding, above, at_least, at_most, claim
from weightspace.experiments.stitching_family import Family, Material, anchors, perceptron, variant

FAMILY = Family("mnist1d", perceptron(40), ((12, 3), (32, 4), (80, 6)), 400, 300, 1e-3, 0.5)


@claim(
    "stitchable-networks",
    statement="Anchors of a family and the stitches between them interpolate accuracy over FLOPs; least squares gives stitches that work before any training.",
    source="Pan et al., Stitchable Neural Networks, arXiv:2302.06586, abstract",
    topic="stitching",
)
def stitchable_networks(seeds: Sequence[int]) -> Iterator[Finding]:
    """Three residual perceptrons of MNIST-1D with all stitches from each into the next, from least squares and from random stitches."""
    material = Material.of(FAMILY.data, tune=False)
    ours: list[dict[str, Any]] = []
    random: list[dict[str, Any]] = []
    for seed in seeds:
        chains = anchors(FAMILY, material, seed)
        ours.append(variant(FAMILY, chains, material, seed, {}))
        random.append(variant(FAMILY, chains, material, seed, {"kind": "random"}))
    yield at_least(
        "share of the smaller anchor's accuracy that stitches keep, untrained",
        [one["zero-shot ratio"] for one in ours],
        0.9,
        baseline=[one["zero-shot ratio"] for one in random],
        against="random stitches",
    )
    stitches = [one["stitches"] for one in ours]
    yield above("accuracy of stitches, trained together", stitches, [one["stitches"] for one in random], "from random stitches")
    yield above("accuracy of stitches, trained together", stitches, [one["anchor 0"] for one in ours], "the smallest anchor")
    yield at_least("rank correlation of FLOPs and accuracy, trained together", [one["spearman"] for one in ours], 0.8)
    lost = [100 * max(one[f"zero-shot anchor {at}"] - one[f"anchor {at}"] for at in range(3)) for one in ours]
    yield at_most("accuracy that an anchor loses at most, points", lost, 1.0)
    between = [statistics.mean(float(_is_between(row, one["rows"])) for row in one["rows"] if not row[2]) for one in ours]
    yield at_least("share of stitches with an accuracy between those of their two anchors", between, 0.8)


def _is_between(row: Sequence[Any], rows: Sequence[Sequence[Any]]) -> bool:
    """Whether a stitch is at least as good as its worse anchor, and at most as good as its better one; one point more or less counts as between."""
    scores = {one[1]: one[5] for one in rows if one[2]}
    ends = [scores[part.partition(":")[0]] for part in row[1].split(" > ")]
    return bool(min(ends) - 0.01 <= row[5] <= max(ends) + 0.01)
