"""Settings of generators: their types and bounds, whoever wrote them."""

import math
import re
from typing import Any

import pytest

from tests.analysis.generation.materials import conditions, material
from weightspace.analysis.generation import fit, generators
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.settings import BOUNDS, Bounds, expect_settings
from weightspace.errors import GenerationError

WHOLE = "expected a whole number from"


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("flow", {"steps": 2.5}, "setting 'steps' of generator 'flow' is 2.5; expected a whole number from 0 on"),
        ("flow", {"steps": -1}, "is -1; expected a whole number"),
        ("flow", {"steps": True}, "is True; expected a whole number"),
        ("flow", {"learning_rate": math.nan}, "setting 'learning_rate' of generator 'flow' is nan; expected a number from 0 on"),
        ("flow", {"learning_rate": -0.1}, "is -0.1; expected a number from 0 on"),
        ("flow", {"temperature": math.nan}, "is nan; expected a number from 0 on"),
        ("flow", {"temperature": -1.0}, "is -1.0; expected a number from 0 on"),
        ("flow", {"temperature": 10**400}, "expected a number from 0 on"),
        ("flow", {"batch_size": 0}, f"is 0; {WHOLE} 1 to 16,777,216"),
        ("flow", {"hidden": 0}, f"is 0; {WHOLE} 1 to"),
        ("flow", {"blocks": -1}, f"is -1; {WHOLE} 0 to 1,000"),
        ("flow", {"solver_steps": 10**9}, f"is 1000000000; {WHOLE} 1 to 10,000"),
        ("flow", {"solver": 3}, "is 3; expected a word"),
        ("flow", {"pace": 1}, "generator 'flow' has no setting 'pace'; expected one of: hidden"),
        ("noise", {"relative": "yes"}, "is 'yes'; expected True or False"),
        ("mip", {"depth": None}, f"is None; {WHOLE} 0 to"),
        ("mlp", {"beta": "strong"}, "is 'strong'; expected a number from 0 on or None"),
        ("mlp", {"together": 0}, f"is 0; {WHOLE} 1 to"),
        ("ghn", {"virtual_edges": 0.5}, "is 0.5; expected True or False or a whole number from 0 to"),
        ("lora", {"eta": 1.5}, "is 1.5; expected a number from 0 to 1"),
        ("neumeta", {"groups": "fc1"}, "is 'fc1'; expected a list of names or None"),
    ],
)
def test_settings_that_are_none_are_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(GenerationError, match=re.escape(said)) as caught:
        fit(name, material(generators[name]), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(generators))
def test_every_default_is_within_its_bounds(name: str) -> None:
    expect_settings(generators[name], generators[name].settings)


def test_every_bound_is_of_a_setting() -> None:
    known = {setting for kind in generators.values() for setting in kind.settings}
    assert BOUNDS.keys() <= known


def test_bounds_may_leave_out_their_least() -> None:
    assert [Bounds(0, 1, is_open=True).hold(value) for value in (0.0, 1e-9, 1, 1.1)] == [False, True, True, False]
    assert Bounds().hold(-3) and not Bounds().hold(math.inf)


def test_a_hypernetwork_may_have_no_hidden_layer() -> None:
    target = material(generators["mip"]).target
    made = make("mip", target, (1,), {"depth": 0})
    assert made.change.shape == (target.numel, 2)
    fit("mip", material(generators["mip"], conditions(1)), depth=0, steps=1)
