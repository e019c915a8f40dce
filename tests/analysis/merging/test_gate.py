"""The gate: rules that a merged model must keep."""

from pathlib import Path
from typing import Any

import pytest

from weightspace.analysis.merging.gate import Gate
from weightspace.errors import MergeError


def failures(rules: dict[str, Any], values: dict[str, float], *parents: dict[str, float]) -> list[str]:
    return list(Gate.read(rules).failures(values, parents))


@pytest.mark.parametrize(
    ("rule", "value", "parents", "said"),
    [
        ({"min": 0.9}, 0.9, [], None),
        ({"min": 0.9}, 0.89, [], "q is 0.89, below 0.9"),
        ({"max": 0}, 0.0, [], None),
        ({"max": 0}, 3.0, [], "q is 3, above 0"),
        ({"min": 1, "max": 2}, 2.5, [], "q is 2.5, above 2"),
        ({"min": 0.9, "of": "best"}, 0.8, [0.95, 0.5], "q is 0.8, below 0.855 (0.9 of the best parent's 0.95)"),
        ({"min": 1, "of": "worst"}, 0.6, [0.95, 0.5], None),
        ({"min": 1, "of": "mean"}, 0.7, [0.95, 0.5], "q is 0.7, below 0.725 (1 of the mean parent's 0.725)"),
        ({"max": 1.1, "of": "best"}, 0.6, [0.95, 0.5], "q is 0.6, above 0.55 (1.1 of the best parent's 0.5)"),
        ({"max": 1.1, "of": "worst"}, 1.0, [0.95, 0.5], None),
    ],
)
def test_a_rule_bounds_a_quantity(rule: dict[str, Any], value: float, parents: list[float], said: str | None) -> None:
    assert failures({"q": rule}, {"q": value}, *({"q": one} for one in parents)) == ([] if said is None else [said])


@pytest.mark.parametrize("rule", [{"min": 0}, {"max": 0}, {"min": 0.5, "of": "mean"}, {"max": 2, "of": "best"}])
def test_no_number_passes_no_rule(rule: dict[str, Any]) -> None:
    assert len(failures({"q": rule}, {"q": float("nan")}, {"q": 1.0})) == 1


@pytest.mark.parametrize("rule", [{"min": 0.9, "of": "best"}, {"max": 1.1, "of": "worst"}])
def test_no_result_passes_against_parents_without_numbers(rule: dict[str, Any]) -> None:
    for parents in ((float("nan"), 0.1), (0.1, float("nan"))):
        assert failures({"q": rule}, {"q": 0.05}, *({"q": one} for one in parents))


def test_shares_of_nothing_bound_where_they_should() -> None:
    assert failures({"q": {"min": 0.9, "of": "best"}}, {"q": 0.1}, {"q": 0.0}) == []
    assert failures({"q": {"max": 1.1, "of": "best"}}, {"q": 0.1}, {"q": 0.0}) == ["q is 0.1, above 0 (1.1 of the best parent's 0)"]


def test_shares_of_a_negative_value_bound_on_the_right_side() -> None:
    assert failures({"score": {"min": 0.9, "of": "best"}}, {"score": -1.0}, {"score": -1.0}) == []
    assert failures({"score": {"min": 0.9, "of": "best"}}, {"score": -1.2}, {"score": -1.0}) != []
    assert failures({"loss": {"max": 1.1, "of": "best"}}, {"loss": -1.0}, {"loss": -1.0}) == []


def test_every_rule_is_looked_at() -> None:
    assert len(failures({"a": {"min": 1}, "b": {"max": 1}, "c": {"min": 0}}, {"a": 0.0, "b": 2.0, "c": 1.0})) == 2


def test_what_rules_ask_for() -> None:
    assert not Gate.read({"nonfinite": {"max": 0}, "warnings": {"max": 0}}).asks_evaluation
    assert Gate.read({"accuracy": {"min": 0}}).asks_evaluation and not Gate.read({"accuracy": {"min": 0}}).asks_parents
    assert Gate.read({"accuracy": {"min": 0, "of": "best"}}).asks_parents


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"q": 1}, "the rules: the rule for 'q' is 1; expected min, max or both, and of if they are shares"),
        ({"q": {}}, "the rules: the rule for 'q' is {}; expected min, max or both"),
        ({"q": {"least": 1}}, "the rules: the rule for 'q' is {'least': 1}; expected min, max or both"),
        ({"q": {"min": "high"}}, "the rules: min of 'q' is 'high'; expected a number"),
        ({"q": {"min": True}}, "the rules: min of 'q' is True; expected a number"),
        ({"q": {"min": float("nan")}}, "the rules: min of 'q' is nan; expected a number"),
        ({"q": {"max": 1, "of": "all"}}, "the rules: of 'q' is 'all'; expected one of best, worst, mean"),
        ({"q": {"min": 2, "max": 1}}, "the rules: the rule for 'q' has min 2 above max 1; no value passes"),
    ],
)
def test_rules_that_are_none(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(MergeError) as raised:
        Gate.read(rules)
    assert str(raised.value).startswith(said)


def test_rules_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("accuracy: {min: 0.9}\n")
    assert Gate.read(tmp_path / "rules.yaml") == Gate.read({"accuracy": {"min": 0.9}})
    (tmp_path / "none.yaml").write_text("{}\n")
    with pytest.raises(MergeError, match=r"none.yaml holds no rules; write lines such as accuracy: \{min: 0.9\}"):
        Gate.read(tmp_path / "none.yaml")
    with pytest.raises(MergeError, match=r"nowhere.yaml cannot be read as a set of rules"):
        Gate.read(tmp_path / "nowhere.yaml")


def test_what_was_not_measured_is_said() -> None:
    with pytest.raises(MergeError, match=r"the rules speak of 'acuracy', which was not measured; did you mean 'accuracy'\?"):
        failures({"acuracy": {"min": 1}}, {"accuracy": 1.0})
    with pytest.raises(MergeError, match=r"the rule for 'q' is about the parents' value, and none was measured; leave out of"):
        failures({"q": {"min": 1, "of": "best"}}, {"q": 1.0})
