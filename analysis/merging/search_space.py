"""A space of recipes: a recipe in which some values are ranges or choices, written as `{search: [low, high]}` or `{choose: [a, b]}`."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from weightspace.errors import MergeError, close_names, one_line

DIGITS = 6  # of a number that is tried: recipes stay readable, and a last bit that machines disagree on makes no other try

Point = npt.NDArray[np.float64]
"""One place in a space, from 0 to 1 along each of its dimensions."""

Points = npt.NDArray[np.float64]
"""Several places, a row for each."""


@dataclass(frozen=True)
class Dimension:
    """One value of a recipe that is looked for.

    Attributes:
        name: where it stands, as in `models[1].parameters.weight`.
        choices: what it may be; empty for a number.
        low: smallest number.
        high: largest.
        is_log: whether the search is even in the logarithm.
        is_integer: whether it is a whole number.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    is_integer: bool = False

    @property
    def count(self) -> float:
        """How many values it may have."""
        return float(len(self.choices)) or (self.high - self.low + 1 if self.is_integer else math.inf)

    @property
    def _ends(self) -> tuple[float, float]:
        """Of the scale that is searched evenly; a whole number stands for all that round to it."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.is_integer else (self.low, self.high)
        return (math.log(low), math.log(high)) if self.is_log else (low, high)

    def at(self, share: float) -> Any:
        """The value at a share, from 0 to 1, of the way along."""
        if self.choices:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        low, high = self._ends
        along = low + share * (high - low)
        value = math.exp(along) if self.is_log else along
        rounded = round(value) if self.is_integer else float(f"{value:.{DIGITS}g}")
        return type(rounded)(min(max(rounded, self.low), self.high))

    def coordinates(self, shares: Point) -> Points:
        """Numbers from 0 to 1 whose distance says how alike the values at some shares are: one for a number, one for each choice."""
        if not self.choices:
            return shares[:, None]
        chosen: Points = np.eye(len(self.choices))[np.minimum((shares * len(self.choices)).astype(int), len(self.choices) - 1)]
        return chosen


@dataclass(frozen=True)
class Space:
    """All recipes that a recipe with ranges and choices stands for.

    Attributes:
        recipe: as it was written.
        dimensions: what is looked for, in the order in which it stands there.
    """

    recipe: Mapping[str, Any] = field(repr=False)
    dimensions: tuple[Dimension, ...]

    @property
    def count(self) -> float:
        """How many recipes it holds."""
        return math.prod((one.count for one in self.dimensions), start=1.0)

    def at(self, point: Point) -> dict[str, Any]:
        """The values at a point."""
        return {one.name: one.at(float(share)) for one, share in zip(self.dimensions, point, strict=True)}

    def coordinates(self, points: Points) -> Points:
        """Numbers whose distance says how alike the values at some points are, a row for each point."""
        return np.concatenate([one.coordinates(points[:, at]) for at, one in enumerate(self.dimensions)], axis=1)

    def fill(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Put values in the places of the ranges and choices.

        Raises:
            MergeError: a value is missing, or there is no such place.
        """
        names = [one.name for one in self.dimensions]
        for name in values:
            if name not in names:
                raise MergeError(f"the recipe has nothing to search at '{one_line(name, 80)}'{close_names(name, names)}")
        for name in names:
            if name not in values:
                raise MergeError(f"no value for '{one_line(name, 80)}', which the recipe searches; give it one")
        filled: dict[str, Any] = _filled(self.recipe, "", values)
        return filled


def key_of(values: Mapping[str, Any]) -> str:
    """Write values as canonical JSON: equal values, equal text."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def space(recipe: Mapping[str, Any]) -> Space:
    """Find what a recipe leaves open.

    `{search: [low, high]}` stands for a number between two ends, both included; `log: true` searches evenly in its logarithm,
    `integer: true` for a whole number. `{choose: [a, b, c]}` stands for one of several values.

    Raises:
        MergeError: a range or choice that cannot be searched, or none in the recipe; the message says where.

    Example:
        >>> found = space({"models": [{"model": "a", "parameters": {"weight": {"search": [0, 1]}}}]})
        >>> found.fill({"models[0].parameters.weight": 0.5})
        {'models': [{'model': 'a', 'parameters': {'weight': 0.5}}]}
    """
    dimensions = tuple(_dimension(given, place) for given, place in _open(recipe, ""))
    if not dimensions:
        raise MergeError("the recipe leaves nothing open; write {search: [low, high]} or {choose: [a, b]} in the place of a value")
    return Space(recipe, dimensions)


def _inner(given: Any, place: str) -> Iterator[tuple[Any, str, Any]]:
    """What a mapping or list holds: key, where it stands, value."""
    if isinstance(given, Mapping):
        yield from ((key, f"{place}.{key}" if place else str(key), value) for key, value in given.items())
    elif isinstance(given, list | tuple):
        yield from ((at, f"{place}[{at}]", value) for at, value in enumerate(given))


def _is_open(given: Any) -> bool:
    return isinstance(given, Mapping) and ("search" in given or "choose" in given)


def _open(given: Any, place: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    if _is_open(given):
        yield given, place
        return
    for _, inner, value in _inner(given, place):
        yield from _open(value, inner)


def _filled(given: Any, place: str, values: Mapping[str, Any]) -> Any:
    if _is_open(given):
        return values[place]
    made = {key: _filled(value, inner, values) for key, inner, value in _inner(given, place)}
    return made if isinstance(given, Mapping) else list(made.values()) if isinstance(given, list | tuple) else given


def _dimension(given: Mapping[str, Any], place: str) -> Dimension:
    known = ("search", "log", "integer") if "search" in given else ("choose",)
    for key in given:
        if key not in known:
            raise MergeError(f"{place} has the unknown key '{one_line(str(key), 60)}'{close_names(str(key), known)}")
    if "choose" in given:
        return Dimension(place, choices=_choices(given["choose"], place))
    low, high = _range(given["search"], place)
    flags = {name: given.get(name, False) for name in ("log", "integer")}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise MergeError(f"{place}: {name} is {one_line(repr(flag), 60)}; expected true or false")
    if flags["log"] and low <= 0:
        raise MergeError(f"{place}: a logarithmic search starts at {low:g}; expected an end above 0")
    if flags["integer"] and not (low.is_integer() and high.is_integer()):
        raise MergeError(f"{place}: a search for whole numbers goes from {low:g} to {high:g}; expected whole ends")
    return Dimension(place, low=low, high=high, is_log=flags["log"], is_integer=flags["integer"])


def _choices(given: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise MergeError(f"{place}: choose is {one_line(repr(given), 60)}; expected a list of values")
    try:
        key_of({place: given})
    except TypeError:
        raise MergeError(f"{place}: choose is {one_line(repr(given), 60)}; expected plain numbers, words, lists and mappings") from None
    return tuple(given)


def _range(given: Any, place: str) -> tuple[float, float]:
    try:
        if any(isinstance(end, bool) for end in given):
            raise ValueError
        low, high = map(float, given)  # YAML takes 1e-5 for a word
    except (TypeError, ValueError):
        low = high = math.nan
    if not (-math.inf < low < high < math.inf):
        raise MergeError(f"{place}: search is {one_line(repr(given), 60)}; expected [low, high], two numbers with low < high")
    return low, high
