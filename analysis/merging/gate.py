"""Rules that a merged model must keep before it may enter the catalog."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isinf, isnan, nan
from pathlib import Path
from typing import Any

from weightspace.analysis.merging.method import Between
from weightspace.analysis.merging.recipe_text import document
from weightspace.errors import MergeError, close_names, one_line

OF = ("best", "worst", "mean")


@dataclass(frozen=True)
class Rule:
    """Bounds on one quantity.

    Attributes:
        quantity: a metric of the evaluation, or `nonfinite` or `warnings` of the merge itself.
        bounds: the values that pass, or shares of the parents' value.
        of: `best`, `worst` or `mean` of the parents' values, which the bounds are shares of; None for plain bounds.
    """

    quantity: str
    bounds: Between
    of: str | None = None


@dataclass(frozen=True)
class Gate:
    """Rules, all of which must hold.

    Example:
        >>> gate = Gate.read({"accuracy": {"min": 0.9, "of": "best"}})
        >>> list(gate.failures({"accuracy": 0.8}, [{"accuracy": 0.95}]))
        ["accuracy is 0.8, below 0.855 (0.9 of the best parent's 0.95)"]
    """

    rules: tuple[Rule, ...]

    @classmethod
    def read(cls, source: Path | str | Mapping[str, Any]) -> "Gate":
        """Read rules: for each quantity `min`, `max` or both, and `of` where they are shares of what the parents have.

        Raises:
            MergeError: they are no rules.
        """
        if isinstance(source, Mapping):
            return cls(tuple(_rule(str(key), value, "the rules") for key, value in source.items()))
        where, found = document(source, "set of rules")
        if not found:
            raise MergeError(f"{where} holds no rules; write lines such as accuracy: {{min: 0.9}}")
        return cls(tuple(_rule(str(key), value, where) for key, value in found.items()))

    @property
    def asks_parents(self) -> bool:
        """Whether the parents have to be evaluated too."""
        return any(rule.of for rule in self.rules)

    @property
    def asks_evaluation(self) -> bool:
        """Whether anything but the merge itself has to be looked at."""
        return any(rule.quantity not in ("nonfinite", "warnings") for rule in self.rules)

    def failures(self, values: Mapping[str, float], parents: Sequence[Mapping[str, float]] = ()) -> Iterator[str]:
        """Say which rules do not hold, one line each.

        Args:
            values: of the result.
            parents: of each model that went in.

        Raises:
            MergeError: a rule is about a quantity that was not measured.
        """
        for rule in self.rules:
            if rule.quantity not in values:
                raise MergeError(
                    f"the rules speak of '{one_line(rule.quantity, 60)}', which was not measured{close_names(rule.quantity, values)}"
                )
            value, reference, said = values[rule.quantity], 1.0, ""
            if rule.of:
                known = [one[rule.quantity] for one in parents if rule.quantity in one]
                if not known:
                    raise MergeError(f"the rule for '{rule.quantity}' is about the parents' value, and none was measured; leave out of")
                reference = _of(rule, known)
            low, high = _share(rule.bounds.low, reference), _share(rule.bounds.high, reference)
            if not low <= value <= high:  # NaN is on neither side
                is_low = not value > high
                share = rule.bounds.low if is_low else rule.bounds.high
                said = f" ({share:g} of the {rule.of} parent's {reference:.4g})" if rule.of else ""
                yield f"{rule.quantity} is {value:.4g}, {'below' if is_low else 'above'} {low if is_low else high:.4g}{said}"


def _share(bound: float, reference: float) -> float:
    """A share of the parents' value; of a negative one as much is granted on the same side."""
    if isinf(bound):
        return bound
    return (2 - bound if reference < 0 else bound) * reference


def _of(rule: Rule, known: Sequence[float]) -> float:
    """The parents' value; the best is the greatest where the rule has a least share, the least where it has but a greatest."""
    if any(map(isnan, known)):
        return nan
    if rule.of == "mean":
        return sum(known) / len(known)
    more_is_better = rule.bounds.low != float("-inf")
    return max(known) if (rule.of == "best") == more_is_better else min(known)


def _rule(quantity: str, given: Any, where: str) -> Rule:
    if not isinstance(given, Mapping) or not set(given) <= {"min", "max", "of"} or not set(given) & {"min", "max"}:
        raise MergeError(
            f"{where}: the rule for '{one_line(quantity, 60)}' is {one_line(repr(given), 60)}; expected min, max or both, and of if they are shares"
        )
    for key in ("min", "max"):
        if key in given and (isinstance(given[key], bool) or not isinstance(given[key], int | float) or given[key] != given[key]):
            raise MergeError(f"{where}: {key} of '{one_line(quantity, 60)}' is {one_line(repr(given[key]), 60)}; expected a number")
    if given.get("of") not in (None, *OF):
        raise MergeError(f"{where}: of '{one_line(quantity, 60)}' is {one_line(repr(given['of']), 60)}; expected one of {', '.join(OF)}")
    if given.get("min", float("-inf")) > given.get("max", float("inf")):
        raise MergeError(
            f"{where}: the rule for '{one_line(quantity, 60)}' has min {given['min']:g} above max {given['max']:g}; no value passes"
        )
    return Rule(quantity, Between(float(given.get("min", "-inf")), float(given.get("max", "inf"))), given.get("of"))
