"""Rounded copies: each value of the child hangs on the parent's value alone, and there are fewer of them."""

from weightspace import dtypes
from weightspace.analysis.lineage.comparison import Comparison
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.evidence import Finding, evidence
from weightspace.analysis.lineage.probability import CERTAIN

ENOUGH = 64  # elements that have to keep their order, so that chance does not
LOST = 0.01  # of the distinct values that rounding takes at least: changes of the size of rounding errors keep the order, too
_CAST_BITS = 16


@evidence("rounding")
def rounding(pair: Comparison) -> Finding | None:
    """A cast or a quantisation: the one with more distinct values, the more information, is the parent."""
    if sum(one.size for one in pair.changed) < ENOUGH:
        return None
    forward = all(one.second_rounded for one in pair.changed)
    backward = all(one.first_rounded for one in pair.changed)
    values = [sum(one.values[side] for one in pair.changed) for side in (0, 1)]
    if forward and backward:
        forward = values[1] <= values[0]
    elif not forward and not backward:
        return None
    parent, child = values if forward else values[::-1]
    name = pair.second if forward else pair.first
    cast = _cast(pair, 1 if forward else 0)
    if not cast and child > (1 - LOST) * parent:
        return None
    text = f"{name.name} is the other {f'cast to {cast}' if cast else 'rounded'}: {parent} distinct values became {child}"
    reason = Reason("rounding", text, {"values in parent": float(parent), "values in child": float(child)})
    return Finding("cast" if cast else "quantised", CERTAIN, CERTAIN if forward else 1 - CERTAIN, reason, is_exact=True)


def _types(pair: Comparison, side: int) -> set[str]:
    entry, sketch = (pair.first, pair.second)[side], pair.sketches[side]
    return {entry.checkpoint.info[sketch.names[place[side]]].dtype for place in pair.places}


def _bits(pair: Comparison, side: int) -> int:
    return min((round(8 * dtypes.num_bytes(dtypes.dtype(one), (256,)) / 256) for one in _types(pair, side)), default=0)


def _cast(pair: Comparison, child: int) -> str:
    """The narrower float type that the child is stored in, if that is what sets it apart."""
    narrower = sorted(_types(pair, child) - _types(pair, 1 - child))
    floats = [one for one in narrower if dtypes.dtype(one).kind == "float"]
    return floats[0] if floats and _bits(pair, child) < _bits(pair, 1 - child) else ""
