"""Large square assignment problems on a sparse core: the few entries a row that matter, with a proof that the others do not.

After A. Volgenant, Linear and semi-assignment problems: a core oriented approach (Computers & Operations Research 23, 1996). A short
auction (D. Bertsekas, 1979) finds prices of the columns at which most rows want different ones. Entries that are then near the best of
their row make the core, which scipy solves. Prices for its solution (shortest paths over the core) show whether any entry outside
would help: if so it joins the core, if not the solution is the best of the whole problem.
"""

import numpy as np
import numpy.typing as npt

Cost = npt.NDArray[np.floating]
Index = npt.NDArray[np.int64]

PER_ROW = 10  # entries of the core, on average
ROUNDS = 20  # of the auction, which ends before when at most UNSOLD of the rows are left
UNSOLD = 0.05
CROWDED = 0.6  # of the rows still free after one round: too many want the same columns (ties, low rank), and a core gains nothing
ATTEMPTS = 4
EXACT = 1e-12  # of the largest cost or price: what float64 sums are known to


def solve_core(cost: Cost) -> Index | None:
    """Assign rows to columns at the least total cost.

    Args:
        cost: shape (n, n), finite.

    Returns:
        The column of each row, the best there is up to the rounding of float64; None where a dense solver does better.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    if len(cost) <= 4 * PER_ROW:
        return None
    work = np.empty_like(cost)  # one for all passes: fresh memory costs as much as the arithmetic
    start = _auction(cost, work)
    if start is None:
        return None
    prices, assigned = start
    n, rows = len(cost), np.arange(len(cost))
    inside = _near_best(cost, prices, work)
    inside[rows, assigned] = True  # so that the core has a full assignment
    limit = int(np.count_nonzero(inside))
    if limit > 4 * PER_ROW * n:
        return None
    low, high = float(cost.min()), float(cost.max())
    peak = max(high, -low)
    for _ in range(ATTEMPTS):
        i, j = np.divmod(np.flatnonzero(inside), n)
        values = cost[i, j].astype(np.float64)
        core = csr_array((values - low + peak, (i, j)), shape=(n, n))  # all above zero, since zeros would be dropped
        assigned = np.asarray(min_weight_full_bipartite_matching(core)[1], np.int64)
        own = cost[rows, assigned].astype(np.float64)
        proved = _prove(i, j, values, own, assigned, prices, peak)
        if proved is None:
            return None
        prices = proved
        i, j = _better_outside(cost, prices, own - prices[assigned], inside, peak, work)
        if not len(i):
            return assigned
        if len(i) > limit / 2:
            return None
        inside[i, j] = True
    return None


def _auction(cost: Cost, work: Cost) -> tuple[Cost, Index] | None:
    """Prices at which most rows have a column of their own, and an assignment that agrees with these; None where too many collide."""
    n = len(cost)
    prices = np.zeros(n, cost.dtype)
    owner = np.full(n, -1)
    free = np.arange(n)
    for k in range(ROUNDS):
        reduced = work[: len(free)]
        np.take(cost, free, axis=0, out=reduced)
        reduced -= prices
        wanted, bidder = reduced.argmin(1), np.arange(len(free))
        best = reduced[bidder, wanted]
        reduced[bidder, wanted] = np.inf
        offer = reduced.min(1) - best  # what may be added to the price before the second best column is as good
        order = np.argsort(offer, kind="stable")
        winner = np.full(n, -1)
        winner[wanted[order]] = order  # of all that want a column the last written, which is the highest offer
        sold = np.flatnonzero(winner >= 0)
        prices[sold] -= offer[winner[sold]]
        owner[sold] = free[winner[sold]]
        has_column = np.zeros(n, bool)
        has_column[owner[owner >= 0]] = True
        free = np.flatnonzero(~has_column)
        if k == 0 and len(free) > CROWDED * n:
            return None
        if len(free) <= UNSOLD * n:
            break
    owner[owner < 0] = free
    assigned = np.empty(n, np.int64)
    assigned[owner] = np.arange(n)
    return prices, assigned


def _near_best(cost: Cost, prices: Cost, work: Cost) -> npt.NDArray[np.bool_]:
    """The entries whose reduced cost is nearest to the least of their row, about `PER_ROW` a row."""
    slack = np.subtract(cost, prices, out=work)
    slack -= slack.min(1)[:, None]
    sample = slack[:: max(1, len(cost) // 64)]
    nearest = PER_ROW * len(sample)
    near: npt.NDArray[np.bool_] = slack <= np.partition(sample.ravel(), nearest)[nearest]
    return near


def _prove(i: Index, j: Index, values: Cost, own: Cost, assigned: Index, prices: Cost, peak: float) -> Cost | None:
    """Lower the prices until, within the core, no row has a cheaper column than its own: the shortest paths of Bellman and Ford."""
    by_column = np.argsort(j, kind="stable")
    i, j, values = i[by_column], j[by_column], values[by_column]
    first = np.searchsorted(j, np.arange(len(own)))
    source, step = assigned[i], values - own[i]
    prices = prices.astype(np.float64)
    exact = EXACT * max(peak, float(np.abs(prices).max()))
    for _ in range(len(own)):
        lowered = np.minimum(np.minimum.reduceat(prices[source] + step, first), prices)
        if (prices - lowered).max() <= exact:
            return prices
        prices = lowered
    return None


def _better_outside(cost: Cost, prices: Cost, own: Cost, inside: npt.NDArray[np.bool_], peak: float, work: Cost) -> tuple[Index, Index]:
    """The entries outside the core that are cheaper at these prices than their row's own."""
    size = max(peak, float(np.abs(prices).max()))
    # In the costs' own precision first, with room for its rounding; what remains is few, and looked at in float64.
    reduced = np.subtract(cost, prices.astype(cost.dtype), out=work)
    near = reduced < (own + 8 * np.finfo(np.float32).eps * size).astype(cost.dtype)[:, None]
    near &= ~inside
    i, j = np.divmod(np.flatnonzero(near), len(cost))
    better = cost[i, j] - prices[j] < own[i] - EXACT * size
    return i[better], j[better]
