"""Statistics of a tensor that cannot be: what mean, deviation, norms and extremes of the same numbers owe each other."""

from collections.abc import Sequence

_SLACK = 1e-3  # sums over float32 are good to five digits at the worst
_PAIRS = (
    ("its shape does not have its number of elements", "numel is distinct from coalesce(list_product(shape)::bigint, 1)"),
    ("a count is negative or larger than the tensor", "least(num_zero, num_nan, num_inf, numel, nbytes) < 0 or num_zero + num_nan + num_inf > numel"),
    ("its hash is none", "hash is null or octet_length(hash) <> 32"),
    ("its dtype or shape is missing", "dtype is null or shape is null or list_contains(list_transform(shape, lambda n: n is null or n < 0), true)"),
    ("a statistic is not finite", "not (isfinite(coalesce(minimum, 0)) and isfinite(coalesce(maximum, 0)) and isfinite(coalesce(mean, 0)) and isfinite(coalesce(std, 0))"
     " and isfinite(coalesce(l1, 0)) and isfinite(coalesce(l2, 0)) and isfinite(coalesce(skewness, 0)) and isfinite(coalesce(kurtosis, 0)))"),
    ("its minimum lies above its maximum", "minimum > maximum"),
    ("its mean lies outside its extremes", "mean < minimum - slack or mean > maximum + slack"),
    ("its deviation cannot be", "std < 0 or std > (maximum - minimum) / 2 + slack"),
    ("its norms cannot be", "l1 < 0 or l2 < 0 or l1 < abs(mean) * counted * (1 - eps) - tiny or l1 > counted * largest * (1 + eps) + tiny"
     " or (l2 is not null and (l2 < largest * (1 - eps) - tiny or l2 > sqrt(counted) * largest * (1 + eps) + tiny or l1 < l2 * (1 - eps) - tiny))"),
    ("its norm, mean and deviation do not fit together",
     "l2 between 1e-100 and 1e100 and abs(l2 * l2 - counted * (std * std + mean * mean)) > eps * l2 * l2"),
    ("its skewness and kurtosis do not fit together", "kurtosis < (skewness * skewness + 1) * (1 - eps) - eps"),
    ("it has statistics of no elements", "counted = 0 and coalesce(minimum, maximum, mean, std, l1, l2) is not null"),
    ("its statistics are missing in part", "(minimum is null) <> (maximum is null) or (num_zero is null) <> (num_nan is null) or (num_nan is null) <> (num_inf is null)"
     " or (num_zero is null and minimum is not null)"),
)  # fmt: skip
_WORDS = {
    "counted": "(numel - num_nan - num_inf)",
    "largest": "greatest(abs(minimum), abs(maximum))",
    "slack": f"({_SLACK} * greatest(abs(minimum), abs(maximum)) + 1e-300)",
    "eps": str(_SLACK),
    "tiny": "1e-150",
}


def _spelled(condition: str) -> str:
    for word, meaning in _WORDS.items():
        condition = condition.replace(word, meaning)
    return condition


IMPOSSIBLE = "case " + " ".join(f"when {_spelled(condition)} then '{what}'" for what, condition in _PAIRS) + " end"
"""SQL over a row of `tensors`: what cannot be about it, or NULL."""

NAMES = ("num_zero", "num_nan", "num_inf", "minimum", "maximum", "mean", "std", "l1", "l2", "skewness", "kurtosis")


def differing(known: Sequence[int | float | None], measured: Sequence[int | float | None]) -> str | None:
    """The first statistic by name in which a row differs from what was just measured, beyond what another order of sums explains.

    Args:
        known: as `NAMES`, from the catalog.
        measured: the same, from the weights.
    """
    largest = max((abs(value) for value in measured[3:5] if value is not None), default=0.0)
    if known[0] is None:
        return None  # quantised where nothing could expand it, and now something can
    for name, old, new in zip(NAMES, known, measured, strict=True):
        if new is None and measured[0] is None:
            continue
        if (old is None) != (new is None):
            return name
        if old is None or new is None:
            continue
        scale = {"mean": largest, "std": largest}.get(name, max(abs(old), abs(new)))
        slack = 0.0 if name in NAMES[:5] else _SLACK * scale if name not in ("skewness", "kurtosis") else 0.02 * (1 + scale)
        if abs(old - new) > slack:
            return name
    return None
