"""What lineage is compared with: raw distances with a minimum spanning tree, and MoTHer's distance, kurtosis and arborescence.

Both get what a zoo does not tell: models of one architecture are sorted out beforehand, names of tensors are ignored, and the number of
families is the true one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.lineage_score import Predicted

Floats = Sequence[Tensor]


def _floats(tensors: Mapping[str, Tensor]) -> Floats:
    return [tensors[name].float() for name in sorted(tensors) if tensors[name].is_floating_point()]


def spanning_tree(models: Mapping[str, Mapping[str, Tensor]], families: int) -> list[Predicted]:
    """Euclidean distance of all weights, a minimum spanning tree, its longest edges cut until there are so many families."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    edges: list[tuple[float, str, str]] = []
    for names, floats in _alike(models):
        flat = torch.stack([torch.cat([tensor.flatten() for tensor in one]) for one in floats]).double()
        table = torch.cdist(flat, flat).numpy() + 1e-6  # scipy takes what is nearly zero for no edge
        tree = minimum_spanning_tree(table).tocoo()
        edges += [(float(value), names[a], names[b]) for a, b, value in zip(tree.row, tree.col, tree.data, strict=True)]
    kept = sorted(edges)[: max(0, len(models) - families)]
    return [Predicted(a, b, is_directed=False) for _, a, b in kept]


def mother(models: Mapping[str, Mapping[str, Tensor]], families: int) -> list[Predicted]:
    """MoTHer (arXiv:2405.18432): Ward's clusters on mean absolute differences, in each a minimum arborescence of `D + .3 mean(D) T`.

    `D` is the largest of the layers' min-max-normalised largest differences, `T[i, j] = 1` where j has the larger kurtosis. The paper
    sums kurtosis over square matrices, of which these models have none: all matrices are taken. Families are shared out over
    architectures by Ward's heights.
    """
    import networkx as nx

    edges: list[Predicted] = []
    for names, floats, labels in _clusters(models, families):
        matrices = [[tensor for tensor in one if tensor.ndim > 1] for one in floats]
        kurtosis = np.array([sum(_kurtosis(tensor) for tensor in one) for one in matrices])
        distance = np.max([_normalised(torch.stack([one[at].flatten() for one in matrices])) for at in range(len(matrices[0]))], 0)
        for label in set(labels):
            members = [at for at in range(len(names)) if labels[at] == label]
            if len(members) < 2:
                continue
            part = distance[np.ix_(members, members)]
            wide = kurtosis[members][None] > kurtosis[members][:, None]
            cost = part + 0.3 * part.mean() * wide
            graph = nx.DiGraph()
            graph.add_weighted_edges_from((a, b, cost[a, b]) for a in range(len(members)) for b in range(len(members)) if a != b)
            tree = nx.minimum_spanning_arborescence(graph)
            edges += [Predicted(names[members[a]], names[members[b]]) for a, b in tree.edges]
    return edges


def _alike(models: Mapping[str, Mapping[str, Tensor]]) -> list[tuple[list[str], list[Floats]]]:
    """Models whose tensors have the same shapes, in the order of their names."""
    groups: dict[tuple[torch.Size, ...], tuple[list[str], list[Floats]]] = {}
    for name, tensors in models.items():
        floats = _floats(tensors)
        names, values = groups.setdefault(tuple(tensor.shape for tensor in floats), ([], []))
        names.append(name)
        values.append(floats)
    return list(groups.values())


def _clusters(models: Mapping[str, Mapping[str, Tensor]], families: int) -> list[tuple[list[str], list[Floats], list[int]]]:
    """Cut all architectures' Ward trees at one height, so that there are as many clusters as families."""
    from scipy.cluster.hierarchy import fcluster, linkage

    trees = []
    for names, floats in _alike(models):
        flat = torch.stack([torch.cat([tensor.flatten() for tensor in one if tensor.ndim > 1]) for one in floats])
        table = torch.cdist(flat, flat, p=1).double() / flat.shape[1]
        upper = table[tuple(torch.triu_indices(len(names), len(names), 1))].numpy()
        trees.append((names, floats, linkage(upper, "ward") if len(names) > 1 else np.zeros((0, 4))))
    heights = np.sort(np.concatenate([tree[:, 2] for _, _, tree in trees]))
    top = heights[len(models) - families - 1] if len(models) > families else -1.0
    return [(names, floats, fcluster(tree, top, "distance").tolist() if len(names) > 1 else [1]) for names, floats, tree in trees]


def _normalised(flat: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    table = torch.cdist(flat, flat, p=float("inf")).double().numpy()
    return np.asarray((table - table.min()) / max(float(table.max() - table.min()), 1e-12))


def _kurtosis(tensor: Tensor) -> float:
    centred = tensor - tensor.mean()
    return (centred**4).mean().item() / max((centred**2).mean().item() ** 2, 1e-24)
