"""Clusters of units that two networks share."""

from collections.abc import Sequence

import torch

from weightspace.analysis.functional.clusters import cluster_units
from weightspace.analysis.functional.convergence import gather
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("unit_clusters", of="task pair", reference="Li, Yosinski et al., arXiv:1511.07543, section 5")
def unit_clusters(
    task: Task,
    a: Checkpoint,
    b: Checkpoint,
    *,
    clusters: int = 8,
    layers: Sequence[str] | None = None,
    positions: str = "samples",
    generator: torch.Generator | None = None,
) -> Values:
    """Spectral clusters of the units of both networks together, and how far they hold units of both.

    Args:
        task: module and data of both.
        a: one network.
        b: another.
        clusters: how many; a layer has at most as many as units.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `samples`, `pooled` or `units`.
        generator: source of chance for k-means; the default starts from seed 0.

    Returns:
        For each layer "layer/shared", the share of units in clusters of both, "layer/balance" of those, and mean absolute correlations "layer/within"
        clusters and "layer/across"; None for a layer of which fewer than three units vary.
    """
    values: dict[str, float | None] = {}
    for name, moments in gather(task, a, b, layers=layers, positions=positions).items():
        alive = moments.varying
        found = cluster_units(moments, min(clusters, alive), generator=generator).values() if alive > 2 else {"shared": None}
        values |= {f"{name}/{key}": value for key, value in found.items()}
    return values
