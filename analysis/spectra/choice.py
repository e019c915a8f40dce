"""Which measures are taken, and of which layers."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from weightspace.analysis.layers import Layer
from weightspace.analysis.layers import layers as layers_of
from weightspace.analysis.measure import Measure, measures
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, UnknownNameError

Settings = Mapping[str, Mapping[str, Any]]
"""Settings of measures, by the measure's name."""


def chosen_measures(names: Sequence[str], settings: Settings) -> dict[str, Measure]:
    """Look measures of a matrix up, and see that settings are theirs.

    Raises:
        UnknownNameError: there is no such measure, or a measure has no such setting.
        AnalysisError: one is not of matrices.
    """
    for name in names:
        if measures[name].of != "matrix":
            known = ", ".join(one.name for one in measures.values() if one.of == "matrix")
            raise AnalysisError(f"measure '{name}' is of a {measures[name].of}, expected one of a matrix; choose among {known}")
        for key in settings.get(name, {}):
            if key not in measures[name].settings:
                raise UnknownNameError.of(f"setting of measure '{name}'", key, measures[name].settings)
    return {name: measures[name] for name in names}


def chosen_layers(checkpoint: Checkpoint, patterns: Sequence[str] | None, embeddings: bool) -> list[Layer]:
    """The layers whose names fit one of several patterns.

    Raises:
        AnalysisError: none does.
    """
    everything = layers_of(checkpoint, embeddings=True)
    found = [
        one
        for one in everything
        if (patterns is None or any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns))
        and (embeddings or one.kind != "embedding" or one.name in (patterns or ()))
    ]
    if not found:
        what = "no layer" if patterns is None else f"no layer that fits {' or '.join(map(repr, patterns))}"
        seen = ", ".join(one.name for one in everything[:6]) or "no weight with two axes"
        raise AnalysisError(f"{checkpoint.path or 'the checkpoint'} has {what}; it has {seen}{' …' if len(everything) > 6 else ''}")
    return found
