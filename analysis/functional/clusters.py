"""Clusters of units: groups of units of two networks that respond alike, many to many, by spectral clustering.

Li, Yosinski et al., Convergent Learning (arXiv:1511.07543), section 5: the units of both networks together, joined by their correlations.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.moments import Moments, variances
from weightspace.errors import AnalysisError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Clusters:
    """Units of two networks in clusters.

    Attributes:
        of_first: the cluster of each unit of the first network, -1 for one that does not vary.
        of_second: likewise of the second.
        adjacency: absolute correlations of all units that vary, the first network's before the second's.
    """

    of_first: tuple[int, ...]
    of_second: tuple[int, ...]
    adjacency: Float[Tensor, "both both"]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """How many units of each network every cluster has."""
        return [(self.of_first.count(at), self.of_second.count(at)) for at in range(1 + max(self.of_first + self.of_second))]

    def values(self) -> dict[str, float]:
        """Share of units in clusters of both networks, balance of those, mean correlation inside clusters and between."""
        labels = torch.tensor(self._labels)
        together = labels[:, None] == labels
        off = ~torch.eye(len(labels), dtype=torch.bool)
        shared = [(one, two) for one, two in self.sizes if one and two]
        adjacency = self.adjacency.cpu()
        return {
            "shared": sum(one + two for one, two in shared) / len(labels),
            # 1 where every cluster has as many units of the one as of the other
            "balance": sum(2 * min(pair) for pair in shared) / max(1, sum(map(sum, shared))),
            "within": _mean(adjacency[together & off]),
            "across": _mean(adjacency[~together]),
        }

    def plot(self) -> "Figure":
        """Draw the correlations of all units, ordered by cluster, with borders between clusters."""
        from weightspace.plotting import VERMILION, canvas, note, style

        labels = self._labels
        order = sorted(range(len(labels)), key=lambda unit: labels[unit])
        ends = [sum(label <= at for label in labels) - 0.5 for at in range(max(labels))]
        with style():
            figure, [[axes]] = canvas(size=(4.6, 3.8))
            image = axes.imshow(self.adjacency.cpu()[order][:, order].numpy(), vmin=0, vmax=1, interpolation="nearest")
            axes.grid(False)
            for end in ends:
                axes.axhline(end, color=VERMILION, linewidth=0.7)
                axes.axvline(end, color=VERMILION, linewidth=0.7)
            axes.set(xlabel="units of both networks, by cluster", ylabel="units of both networks, by cluster")
            figure.colorbar(image, ax=axes, label="absolute correlation")
            note(axes, f"{len(self.sizes)} clusters, {self.values()['shared']:.0%} of the units in shared ones")
        return figure

    @property
    def _labels(self) -> list[int]:
        return [label for label in self.of_first + self.of_second if label >= 0]


def cluster_units(moments: Moments, clusters: int = 8, *, generator: torch.Generator | None = None) -> Clusters:
    """Cluster the units of two networks by absolute correlation within and between them (normalised cuts, then k-means).

    Args:
        moments: of one layer of both.
        clusters: how many.
        generator: source of chance for k-means; the default starts from seed 0.

    Raises:
        AnalysisError: not as many units that vary as clusters, or fewer than two clusters.
    """
    from sklearn.cluster import SpectralClustering

    joint = torch.cat([torch.cat([moments.x.cross, moments.between.cross], 1), torch.cat([moments.between.cross.T, moments.y.cross], 1)])
    scale = torch.cat([variances(sums.cross) for sums in (moments.x, moments.y)]).rsqrt()
    correlations = (joint * scale * scale[:, None]).clamp(-1, 1)
    alive = (~correlations.diag().isnan()).nonzero().flatten()
    if not 2 <= clusters <= len(alive):
        raise AnalysisError(f"expected 2 to {len(alive)} clusters of {len(alive)} units that vary, found {clusters}; ask for fewer")
    adjacency = correlations[alive][:, alive].abs().fill_diagonal_(1)
    seed = int(torch.randint(2**31, (), generator=generator or torch.Generator().manual_seed(0)))
    found = SpectralClustering(clusters, affinity="precomputed", random_state=seed, assign_labels="kmeans").fit_predict(
        adjacency.cpu().numpy()
    )
    labels = [-1] * len(correlations)
    for unit, label in zip(alive.tolist(), found.tolist(), strict=True):
        labels[unit] = label
    split = len(moments.x.cross)
    return Clusters(tuple(labels[:split]), tuple(labels[split:]), adjacency)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else math.nan


__all__ = ["Clusters", "cluster_units"]
