import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weightspace.analysis.merging.optimize import SEARCHES, Try, optimize
from weightspace.analysis.merging.search_space import Dimension, key_of, space
from weightspace.errors import MergeError, UnknownNameError

RECIPE = {
    "merge_method": "ties",
    "models": [
        {"model": "a", "parameters": {"weight": {"search": [0, 1]}}},
        {"model": "b", "parameters": {"weight": [{"search": [-1, 2]}, 0.5], "density": {"search": ["1e-4", 1], "log": True}}},
    ],
    "parameters": {"lambda": 1.0},
}
NAMES = ["models[0].parameters.weight", "models[1].parameters.weight[0]", "models[1].parameters.density"]


def bowl(recipe: dict[str, Any]) -> float:
    """A quadratic whose lowest value, 0, is at 0.3, 1.2 and 0.01."""
    first, second = (one["parameters"] for one in recipe["models"])
    return float((first["weight"] - 0.3) ** 2 + (second["weight"][0] - 1.2) ** 2 + 0.2 * (math.log10(second["density"]) + 2) ** 2)


def test_a_space_names_what_is_open_by_its_place() -> None:
    found = space(RECIPE)
    assert [one.name for one in found.dimensions] == NAMES
    assert found.dimensions[2] == Dimension(NAMES[2], low=1e-4, high=1.0, is_log=True)
    filled = found.fill(dict(zip(NAMES, (0.1, 0.2, 0.3), strict=True)))
    assert filled["models"][1]["parameters"] == {"weight": [0.2, 0.5], "density": 0.3}
    assert filled["models"][0] == {"model": "a", "parameters": {"weight": 0.1}}
    assert filled["parameters"] == {"lambda": 1.0} and "search" in str(RECIPE)


@given(shares=st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_values_lie_in_their_ranges(shares: list[float]) -> None:
    found = space({
        "x": {"search": [-2, 3.5]},
        "y": {"search": [1e-5, 0.1], "log": True},
        "n": {"search": [2, 5], "integer": True},
        "m": {"search": [1, 1000], "integer": True, "log": True},
        "c": {"choose": ["a", 1.5, True]},
    })  # fmt: skip
    values = dict(zip("xynmc", (one.at(share) for one, share in zip(found.dimensions, shares, strict=True)), strict=True))
    assert -2 <= values["x"] <= 3.5 and 1e-5 <= values["y"] <= 0.1 and values["c"] in ["a", 1.5, True]
    assert values["n"] in range(2, 6) and values["m"] in range(1, 1001) and {type(values["n"]), type(values["m"])} == {int}
    (numbers,) = found.coordinates(np.array([shares]))
    assert [*numbers[:4]] == shares[:4] and sorted(numbers[4:]) == [0, 0, 1]
    assert ["a", 1.5, True][numbers[4:].argmax()] == values["c"]


def test_the_ends_of_a_range_are_reached_and_whole_numbers_share_it_evenly() -> None:
    line = Dimension("x", low=-1.25, high=4.0)
    assert (line.at(0.0), line.at(0.5), line.at(1.0)) == (-1.25, 1.375, 4)
    log = Dimension("x", low=1e-4, high=1.0, is_log=True)
    assert (log.at(0.0), log.at(0.5), log.at(1.0)) == (1e-4, 1e-2, 1)
    whole, word = Dimension("x", low=0.0, high=3.0, is_integer=True), Dimension("x", choices=("a", "b"))
    drawn = [whole.at((at + 0.5) / 400) for at in range(400)]
    assert [drawn.count(one) for one in range(4)] == [100] * 4 and whole.count == 4
    assert [word.at(share) for share in (0.0, 0.49, 0.5, 1.0)] == ["a", "a", "b", "b"] and word.count == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"search": [1, 0]}, "p.x: search is [1, 0]; expected [low, high], two numbers with low < high"),
        ({"search": [1, 1]}, "p.x: search is [1, 1]; expected [low, high]"),
        ({"search": "wide"}, "p.x: search is 'wide'; expected [low, high]"),
        ({"search": ["low", "high"]}, "p.x: search is ['low', 'high']; expected [low, high]"),
        ({"search": [0, 1, 2]}, "p.x: search is [0, 1, 2]; expected [low, high]"),
        ({"search": [0, float("inf")]}, "p.x: search is [0, inf]; expected [low, high]"),
        ({"search": [False, True]}, "p.x: search is [False, True]; expected [low, high]"),
        ({"search": None}, "p.x: search is None; expected [low, high]"),
        ({"search": [0, 1], "log": True}, "p.x: a logarithmic search starts at 0; expected an end above 0"),
        ({"search": [0, 1], "log": 1}, "p.x: log is 1; expected true or false"),
        ({"search": [0.5, 2], "integer": True}, "p.x: a search for whole numbers goes from 0.5 to 2; expected whole ends"),
        ({"search": [0, 1], "lag": True}, "p.x has the unknown key 'lag'; did you mean 'log'? (known: search, log, integer)"),
        ({"search": [0, 1], "choose": [1]}, "p.x has the unknown key 'choose'"),
        ({"choose": []}, "p.x: choose is []; expected a list of values"),
        ({"choose": "ab"}, "p.x: choose is 'ab'; expected a list of values"),
        ({"choose": [{1, 2}]}, "p.x: choose is [{1, 2}]; expected plain numbers, words, lists and mappings"),
        (1.0, "the recipe leaves nothing open; write {search: [low, high]} or {choose: [a, b]} in the place of a value"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched(given: Any, expected: str) -> None:
    with pytest.raises(MergeError) as raised:
        space({"p": {"x": given}})
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_values_that_do_not_fit_the_space() -> None:
    found = space({"x": {"search": [0, 1]}})
    with pytest.raises(MergeError, match=r"nothing to search at 'y' \(known: x\)"):
        found.fill({"x": 0.5, "y": 1})
    with pytest.raises(MergeError, match="no value for 'x', which the recipe searches; give it one"):
        found.fill({})


@pytest.mark.parametrize(("method", "tries", "seeds"), [("differential_evolution", 60, 8), ("nelder_mead", 30, 2), ("gp", 24, 2)])
def test_a_search_finds_more_than_drawing(method: str, tries: int, seeds: int) -> None:
    def total(name: str) -> float:
        return sum(optimize(space(RECIPE), bowl, method=name, tries=tries, seed=seed).score for seed in range(seeds))

    assert total(method) < 0.5 * total("random")


def test_expected_improvement_comes_close() -> None:
    best = optimize(space(RECIPE), bowl, method="gp", tries=30)
    assert best.score < 1e-2 and best.recipe == space(RECIPE).fill(best.values) and bowl(dict(best.recipe)) == best.score


@pytest.mark.parametrize("method", SEARCHES)
def test_an_interrupted_search_goes_on_to_the_same_best(method: str) -> None:
    told: dict[str, float | None] = {}

    def evaluate(recipe: dict[str, Any]) -> float:
        if recipe["models"][0]["parameters"]["weight"] > 0.9:
            raise RuntimeError("too much")
        return bowl(recipe)

    def tell(made: Try) -> None:
        told[made.key] = made.score

    def interrupted(made: Try) -> None:
        tell(made)
        if len(told) == 11:
            raise KeyboardInterrupt

    whole = optimize(space(RECIPE), evaluate, method=method, tries=24, seed=1)
    with pytest.raises(KeyboardInterrupt):
        optimize(space(RECIPE), evaluate, method=method, tries=24, seed=1, on_try=interrupted)
    assert list(told) == [one.key for one in whole.tries[:11]]
    evaluated: list[Try] = []
    again = optimize(space(RECIPE), evaluate, method=method, tries=24, seed=1, known=dict(told), on_try=evaluated.append)
    assert len(evaluated) == 13 and evaluated == [*whole.tries[11:]]
    assert (again.values, again.score) == (whole.values, whole.score)
    assert [(one.key, one.score) for one in again.tries] == [(one.key, one.score) for one in whole.tries]
    assert len({one.key for one in whole.tries}) == 24


@pytest.mark.parametrize("method", SEARCHES)
def test_what_fails_is_told_and_the_search_goes_on(method: str) -> None:
    told: list[Try] = []

    def evaluate(recipe: dict[str, Any]) -> Any:
        x = recipe["x"]
        if x < 0.25:
            raise ValueError("below\nall")
        return math.nan if x < 0.5 else "much" if x > 0.95 else x

    best = optimize(space({"x": {"search": [0, 1]}}), evaluate, method=method, tries=25, on_try=told.append)
    assert best.tries == tuple(told) and len(told) == 25 and 0.5 <= best.score < 0.6
    said = {one.failure for one in told}
    assert None in said and said <= {
        None,
        "ValueError: below\\nall",
        "the evaluation returned nan",
        "ValueError: could not convert string to float: 'much'",
    }
    assert all((one.score is None) == (one.failure is not None) for one in told) and len(said) > 1


@pytest.mark.parametrize("method", SEARCHES)
def test_what_goes_wrong_beside_the_evaluation_comes_out_as_it_is(method: str) -> None:
    def refuse(made: Try) -> None:
        raise MergeError("no room for it")

    with pytest.raises(MergeError, match=r"^no room for it$"):
        optimize(space(RECIPE), bowl, method=method, tries=12, on_try=refuse)


@pytest.mark.parametrize("method", SEARCHES)
def test_when_all_fail_the_first_reason_is_said(method: str) -> None:
    def evaluate(recipe: dict[str, Any]) -> float:
        raise RuntimeError("no such data")

    with pytest.raises(
        MergeError, match=r"all 12 tries failed, the first with: RuntimeError: no such data; mend the evaluation or the ranges"
    ):
        optimize(space(RECIPE), evaluate, method=method, tries=12)


@pytest.mark.parametrize("method", SEARCHES)
def test_a_small_space_is_searched_once(method: str) -> None:
    recipe = {"n": {"search": [1, 3], "integer": True}, "word": {"choose": ["a", "b"]}}
    best = optimize(space(recipe), lambda found: found["n"] * (found["word"] == "a"), method=method, tries=100, maximize=True)
    assert best.recipe == {"n": 3, "word": "a"} and best.score == 3 and len(best.tries) == len({one.key for one in best.tries}) <= 6
    if method in ("random", "gp"):
        assert len(best.tries) == 6


@pytest.mark.parametrize("method", SEARCHES)
def test_the_highest_score_is_found_as_the_lowest_is(method: str) -> None:
    low = optimize(space(RECIPE), bowl, method=method, tries=15, seed=3)
    high = optimize(space(RECIPE), lambda recipe: -bowl(recipe), method=method, tries=15, seed=3, maximize=True)
    assert low.values == high.values and low.score == -high.score


def test_seeds_differ_and_repeat() -> None:
    def keys(seed: int) -> list[str]:
        return [one.key for one in optimize(space(RECIPE), bowl, method="random", tries=5, seed=seed).tries]

    assert keys(0) == keys(0) and not {*keys(0)}.intersection(keys(1))


def test_keys_are_canonical() -> None:
    assert key_of({"b": [1, "x"], "a": 0.1}) == '{"a":0.1,"b":[1,"x"]}' == key_of({"a": 0.1, "b": [1, "x"]})


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(
        UnknownNameError, match=r"no search method named 'genetic' \(known: random, differential_evolution, nelder_mead, gp\)"
    ):
        optimize(space(RECIPE), bowl, method="genetic")
    with pytest.raises(MergeError, match="expected at least 1 try, found 0; allow more"):
        optimize(space(RECIPE), bowl, tries=0)
    known: dict[str, float | None] = {key_of({"x": 1}): math.nan, key_of({"x": 2}): None}
    with pytest.raises(MergeError, match="all 2 tries failed, the first with: failed before"):
        optimize(space({"x": {"choose": [1, 2]}}), lambda recipe: 1.0, method="random", known=known)
