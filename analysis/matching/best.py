"""The best alignment that a search has come past."""

import math
from collections.abc import Callable, Mapping

import torch

from weightspace.analysis.matching.pair import Local
from weightspace.analysis.matching.search import Run

Actions = Mapping[str, Local]


class Best:
    """Keeps the highest of the alignments it is shown, so that what a search returns never falls."""

    def __init__(self, height: Callable[[Actions], float], start: Actions) -> None:
        """Begin with an alignment that is the least one gets.

        Args:
            height: what is to be large; no number counts as the lowest.
            start: what is done to each group.
        """
        self._height, self._last = height, start
        self.actions = start
        self.objective = [self._height_of(start)]

    def look(self, actions: Actions) -> None:
        """Compare one more alignment; one shown twice in a row is not measured again."""
        highest = self.objective[-1]
        if not _same(actions, self._last):
            self._last = dict(actions)
            height = self._height_of(actions)
            if height > highest:
                self.actions, highest = self._last, height
        self.objective.append(highest)

    def run(self, stopped: str, assignments: int) -> Run:
        """What the search amounts to.

        Args:
            stopped: why it ended.
            assignments: how many families it solved.
        """
        return Run(self.actions, tuple(self.objective), stopped, assignments)

    def _height_of(self, actions: Actions) -> float:
        height = self._height(actions)
        return -math.inf if math.isnan(height) else height


def _same(one: Actions, other: Actions) -> bool:
    """Whether two alignments send all members to the same places with the same signs."""
    return all(torch.equal(one[name].as_matrix, other[name].as_matrix) for name in one)
