"""The plane of a zoo's map: models as points in two dimensions, by principal components of embeddings or of weight statistics."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weightspace.zoo.plotting import principal_axes
from weightspace.zoo.query import Connection, arrow

Vectors = npt.NDArray[np.float64]

_NEWEST = """\
select metanet, version, count(*) as models from embeddings where model_id in (select unnest(?))
group by all order by models desc, max(rowid) desc limit 1"""

# What weights look like in a few numbers: size, scale, shape of their distribution, sparsity. Of finite tensors alone.
_STATISTICS = """\
select model_id, ln(1 + sum(numel)) as size, ln(1 + count(*)) as tensors, ln(1e-9 + sqrt(sum(l2 * l2) / sum(numel))) as scale,
       avg(ln(1e-9 + std)) as spread, avg(ln(1e-9 + greatest(abs(minimum), abs(maximum)))) as largest,
       sum(num_zero) / sum(numel) as zeros, avg(ln(1 + kurtosis)) as kurtosis, avg(skewness) as skewness
from model_tensors join tensors using (tensor_id)
where model_id in (select unnest(?)) and alias_of is null and numel > 0 and l2 is not null group by model_id"""


@dataclass(frozen=True)
class Plane:
    """Points of a map.

    Attributes:
        model_ids: which models have a place.
        points: their places.
        source: what the map is made of, for people.
        axes: what the axes say.
    """

    model_ids: tuple[int, ...]
    points: Vectors
    source: str
    axes: tuple[str, str]


def plane(connection: Connection, model_ids: Sequence[int]) -> Plane:
    """Give models places: by the metanet that embeds most of them, else by statistics of their weights."""
    newest = arrow(connection, _NEWEST, [list(model_ids)]).to_pylist()
    if newest:
        chosen = newest[0]
        rows = arrow(
            connection,
            "select model_id, vector from embeddings where metanet = ? and version = ? and model_id in (select unnest(?)) order by model_id",
            [chosen["metanet"], chosen["version"], list(model_ids)],
        )
        vectors = np.array(rows["vector"].to_pylist(), dtype=np.float64)
        return _plane(rows["model_id"].to_pylist(), vectors, f"embeddings of the metanet '{chosen['metanet']}'")
    rows = arrow(connection, f"{_STATISTICS} order by model_id", [list(model_ids)])
    columns = [rows[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in rows.column_names[1:]]
    ranks = np.stack([_ranks(np.nan_to_num(column, posinf=0.0, neginf=0.0)) for column in columns], axis=1)
    return _plane(rows["model_id"].to_pylist(), ranks, "statistics of the weights (ranks of size, norm, spread, kurtosis, zeros)")


def _ranks(values: Vectors) -> Vectors:
    """Ranks from -1 to 1, equal values at their mean rank: one network of another kind must not push all others into a corner."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - (counts + 1) / 2
    return (middles[places] / max(len(values) - 1, 1) * 2 - 1).astype(np.float64)


def _plane(model_ids: Sequence[int], vectors: Vectors, source: str) -> Plane:
    """Project onto the first two principal components; models that are all alike share one point."""
    if not len(vectors):
        return Plane((), np.zeros((0, 2)), source, ("", ""))
    varies = bool((vectors != vectors[0]).any())
    points, shares = principal_axes(vectors) if varies else (np.zeros((len(vectors), 2)), np.zeros(2))
    first, second = (f"component {number} ({share:.0%} of the variance)" for number, share in enumerate(shares, 1))
    return Plane(tuple(model_ids), points, source, (first, second))
