"""Tables of models that are added to a zoo on the Hub: what they say takes the place of what it said of the same, the rest stays."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from weightspace.errors import FormatError
from weightspace.zoo.exchange.checking import check_tables

_OF = {
    "models": ("id", "models"), "tensors": ("hash", "tensors"), "model_tensors": ("model", "models"), "runs": ("key", "runs"),
    "files": ("model", "models"), "metrics": ("model", "models"), "tags": ("model", "models"), "edges": ("child", "models"),
    "measurements": ("model", "models"), "pair_measurements": ("a", "models"), "embeddings": ("model", "models"),
}  # fmt: skip
"""By which column a row belongs to what, and to what."""

_ELSE = {"metrics": ("run", "runs"), "measurements": ("tensor", "tensors")}
"""The same for rows that belong to no model."""

_KEYS = {"models": "id", "tensors": "hash", "runs": "key"}


def joined(ours: Mapping[str, pa.Table], theirs: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Add tables to others; rows about our models, tensors and runs are ours alone.

    Args:
        ours: of the models that are pushed.
        theirs: of the zoo that is there; empty where there is none.

    Raises:
        CatalogError, FormatError: what is there are no tables of a zoo.
    """
    check_tables(theirs)
    known = {what: ours[what][key] for what, key in _KEYS.items()}
    made = {}
    for name, table in ours.items():
        kept = theirs[name].filter(_is_theirs(name, theirs[name], known)) if name in theirs else table.slice(0, 0)
        try:
            both = pa.concat_tables([table, kept.select(table.column_names).cast(table.schema)])
        except (pa.ArrowException, KeyError):
            raise FormatError(
                f"table '{name}' of the zoo that is there has other columns", reason="unsupported", advice="push the whole zoo again"
            ) from None
        made[name] = both.sort_by(_order(both))  # so that the same rows are the same file
    return made


def _is_theirs(name: str, table: pa.Table, known: Mapping[str, pa.ChunkedArray]) -> pa.ChunkedArray:
    column, what = _OF[name]
    is_ours = pc.is_in(table[column], value_set=known[what].combine_chunks())
    if name == "pair_measurements":  # of two models; ours where both are
        is_ours = pc.and_(is_ours, pc.is_in(table["b"], value_set=known[what].combine_chunks()))
    if name == "edges":
        is_ours = pc.and_(is_ours, pc.is_in(table["parent"], value_set=known[what].combine_chunks()))
    if name in _ELSE:
        other, kind = _ELSE[name]
        alone = pc.and_(pc.is_null(table[column]), pc.is_in(table[other], value_set=known[kind].combine_chunks()))
        is_ours = pc.or_(is_ours, alone)
    return pc.invert(is_ours)


def _order(table: pa.Table) -> list[tuple[str, str]]:
    """By every column that can be sorted by, so that the same rows are the same table."""
    sortable = [one.name for one in table.schema if not pa.types.is_nested(one.type)]
    return [(name, "ascending") for name in sortable]


__all__ = ["joined"]
