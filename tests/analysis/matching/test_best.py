"""The best of what a search comes past."""

import math

import torch

from weightspace.analysis.matching.best import Actions, Best
from weightspace.analysis.matching.pair import Local

KEEP, SWAP = {"h": Local(torch.tensor([0, 1]))}, {"h": Local(torch.tensor([1, 0]))}
TURN = {"h": Local(torch.tensor([1, 0]), torch.tensor([-1.0, 1.0]))}


def test_the_highest_is_kept_and_repeats_are_not_measured() -> None:
    measured: list[Actions] = []
    heights = iter([1.0, 3.0, 2.0])

    def height(actions: Actions) -> float:
        measured.append(actions)
        return next(heights)

    best = Best(height, KEEP)
    for shown in (KEEP, SWAP, SWAP, TURN):
        best.look(shown)
    assert best.objective == [1.0, 1.0, 3.0, 3.0, 3.0]
    assert best.actions["h"] is SWAP["h"]
    assert len(measured) == 3
    assert best.run("done", 4).stopped == "done"


def test_what_is_no_number_is_the_lowest() -> None:
    heights = iter([math.nan, -5.0, math.nan])
    best = Best(lambda _: next(heights), KEEP)
    for shown in (SWAP, TURN):
        best.look(shown)
    assert best.objective == [-math.inf, -5.0, -5.0]
    assert best.actions["h"] is SWAP["h"]
