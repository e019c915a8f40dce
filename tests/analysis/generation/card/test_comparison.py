"""Who wins is who is better at equal novelty, chosen on validation and judged on test, and the verdict says so."""

import math
from dataclasses import replace

import pytest
import torch

from weightspace.analysis.generation.card.comparison import (
    Comparison,
    at_novelty,
    compare,
    difference,
    is_as_novel,
    of_one_size,
    sized,
    strongest,
    verdict,
)
from weightspace.analysis.generation.card.judging import Judged
from weightspace.analysis.generation.card.rows import Entry, Row


def judged(*scores: float) -> Judged:
    """Networks with these scores."""
    return Judged("accuracy", torch.tensor(scores, dtype=torch.float64))


def entry(method: str, score: float, iou: float, *, validation: float | None = None, value: float | None = None) -> Entry:
    """A row whose networks all have one score."""
    row = Row(
        method, "sigma", value, 2, score=score, iou=iou, validation_score=score if validation is None else validation, validation_iou=iou
    )
    return Entry(row, judged(score, score), True)


OWN = entry("generator", 0.6, 0.5)
ZOO = Row("zoo", score=0.7, iou=0.55)


class TestEqualNovelty:
    """What may be compared."""

    def test_a_baseline_that_is_less_novel_does_not_count(self) -> None:
        assert compare(OWN, [entry("noise", 0.9, 0.8)]) == ()

    def test_the_setting_is_chosen_on_validation(self) -> None:
        lucky, best = entry("noise", 0.69, 0.4, validation=0.5, value=0.4), entry("noise", 0.61, 0.45, validation=0.6, value=0.3)
        [found] = compare(OWN, [lucky, best, entry("noise", 0.9, 0.9, value=0.1)])
        assert found.row.value == 0.3
        assert found.difference == pytest.approx(-0.01)

    def test_the_strongest_method_on_validation_comes_first(self) -> None:
        found = compare(OWN, [entry("noise", 0.3, 0.4), entry("mean", 0.5, 0.4), entry("gaussian", 0.4, 0.5)])
        assert [one.row.method for one in found] == ["mean", "gaussian", "noise"]

    def test_a_little_less_novel_is_equal(self) -> None:
        assert is_as_novel(Row("noise", validation_iou=0.505), OWN.row)
        assert not is_as_novel(Row("noise", validation_iou=0.52), OWN.row)

    def test_without_classes_distances_are_compared(self) -> None:
        own = Row("generator", distance=10.0)
        assert is_as_novel(Row("noise", distance=9.95), own)
        assert is_as_novel(Row("noise", distance=30.0), own)
        assert not is_as_novel(Row("noise", distance=9.0), own)
        assert not is_as_novel(Row("noise"), own)


class TestSizes:
    """Networks of one size are compared, and others labelled."""

    def test_only_rivals_of_the_generators_size_stand_against_it(self) -> None:
        own, full, cut, no_rival = (
            replace(one, row=replace(one.row, parameters=size))
            for one, size in (
                (OWN, 27),
                (entry("noise", 0.9, 0.4), 63),
                (entry("pruned", 0.4, 0.4), 27),
                (entry("retrieval", 0.9, 0.4), 27),
            )
        )
        assert of_one_size(own, [full, cut, replace(no_rival, is_rival=False)]) == [cut]

    def test_others_are_labelled_in_the_verdict(self) -> None:
        own, zoo = replace(OWN.row, parameters=1027), replace(ZOO, parameters=63000)
        other = Comparison(Row("retrieval", score=0.2, parameters=63000), 0.4, 0.01)
        said = verdict(own, zoo, [], "accuracy", [other])
        assert "the zoo's own mean 0.700, of 63,000 parameters instead of 1,027; " in said
        assert "retrieval is beaten (accuracy 0.200, of 63,000 parameters instead of 1,027, the generator 0.600" in said
        assert sized(own, own) == sized(Row("noise"), own) == ""


class TestSetting:
    """The least setting that is novel enough."""

    def test_is_found_by_bisection(self) -> None:
        found = at_novelty(lambda value: 1 - value, 0.63, [0.1, 0.2, 0.4, 0.8])
        assert found is not None
        assert 0.37 <= found <= 0.37 + 0.2 / 2**6

    def test_below_the_first_value_is_found_from_nothing(self) -> None:
        found = at_novelty(lambda value: 1 - value, 0.98, [0.1, 0.2])
        assert found is not None
        assert 0.02 <= found <= 0.02 + 0.1 / 2**6

    def test_is_none_where_nothing_is_novel_enough(self) -> None:
        assert at_novelty(lambda value: 1 - value, 0.1, [0.1, 0.2]) is None


class TestDifference:
    """The error of a difference."""

    def test_is_over_networks(self) -> None:
        value, error = difference(judged(0.5, 0.7), judged(0.4))
        assert value == pytest.approx(0.2)
        assert error == pytest.approx(math.sqrt(0.02 / 2))

    def test_is_over_examples_that_both_saw(self) -> None:
        wrong = torch.tensor([[True, False, True, False]])
        same = Judged("accuracy", torch.tensor([0.5]), wrong)
        other = Judged("accuracy", torch.tensor([0.5]), ~wrong)
        assert difference(same, same) == (0.0, 0.0)
        paired = torch.tensor([-1.0, 1.0, -1.0, 1.0])
        assert difference(same, other)[1] == pytest.approx(math.sqrt(float(paired.var()) / 4))

    @pytest.mark.parametrize(("value", "winner"), [(0.05, "generator"), (-0.05, "baseline"), (0.01, None), (-0.01, None), (math.nan, None)])
    def test_within_two_errors_nobody_wins(self, value: float, winner: str | None) -> None:
        assert Comparison(Row("noise"), value, 0.01).winner == winner


class TestVerdict:
    """The sentence."""

    def test_the_generator_wins(self) -> None:
        said = verdict(OWN.row, ZOO, [Comparison(entry("noise", 0.5, 0.5, value=0.2).row, 0.1, 0.01)], "accuracy")
        assert said == (
            "The generator wins: at equal novelty (max-IoU 0.500) 'noise, sigma 0.2' reaches accuracy 0.500, the generator 0.600 "
            "(difference +0.100 ± 0.010), the zoo's own mean 0.700."
        )

    def test_a_baseline_wins(self) -> None:
        said = verdict(OWN.row, ZOO, [Comparison(Row("mean", "of", 0.0, score=0.65), -0.05, 0.01)], "accuracy")
        assert said.startswith("The baseline mean wins: at equal novelty (max-IoU 0.500) 'mean of all' reaches accuracy 0.650")

    def test_nobody_wins(self) -> None:
        said = verdict(OWN.row, ZOO, [Comparison(Row("gaussian", score=0.61), -0.01, 0.01)], "accuracy")
        assert said.startswith("No difference: at equal novelty")

    @pytest.mark.parametrize(("lead", "said"), [(0.0, "No difference: "), (-0.1, "The baseline noise wins: ")])
    def test_one_baseline_that_is_not_beaten_decides(self, lead: float, said: str) -> None:
        beaten = Comparison(Row("mean", score=0.5), 0.1, 0.01)
        assert verdict(OWN.row, ZOO, [beaten, Comparison(Row("noise", score=0.6), lead, 0.01)], "accuracy").startswith(said)

    def test_newer_and_better_than_all_wins(self) -> None:
        best = Comparison(entry("mean", 0.5, 0.8, value=0.0).row, 0.1, 0.01)
        assert verdict(OWN.row, ZOO, [], "accuracy", best=best) == (
            "The generator wins: it is newer (max-IoU 0.500) than any baseline at any setting tried, of which 'mean of all' reaches "
            "accuracy 0.500, the generator 0.600 (difference +0.100 ± 0.010), the zoo's own mean 0.700."
        )

    def test_newer_and_no_better_does_not_win(self) -> None:
        best = Comparison(entry("mean", 0.6, 0.8, value=0.0).row, 0.0, 0.01)
        said = verdict(OWN.row, ZOO, [], "accuracy", best=best)
        assert said.startswith("The generator does not win: it is newer (max-IoU 0.500) than any baseline")

    def test_without_baselines_nothing_stands_beside(self) -> None:
        said = verdict(OWN.row, ZOO, [], "accuracy")
        assert said == "Nothing stands beside the generator's accuracy of 0.600, the zoo's own mean 0.700."

    def test_the_strongest_is_chosen_on_validation_whatever_its_novelty(self) -> None:
        found = strongest(OWN, [entry("noise", 0.7, 0.9, validation=0.5), entry("mean", 0.65, 0.95, validation=0.6)])
        assert found is not None
        assert (found.row.method, round(found.difference, 6)) == ("mean", -0.05)
        assert strongest(OWN, []) is None

    def test_novelty_was_not_measured(self) -> None:
        assert verdict(Row("generator", score=0.6), ZOO, [], "accuracy") == (
            "The generator reaches accuracy 0.600, the zoo 0.700; novelty was not measured."
        )

    def test_without_a_zoo_it_stands_beside_training(self) -> None:
        none, beside = Row("zoo", missing="no checkpoints given"), Comparison(Row("trained from scratch", score=0.65), -0.05, 0.01)
        assert verdict(OWN.row, none, [], "accuracy", [beside]) == (
            "Trained from scratch is better (accuracy 0.650, the generator 0.600, difference -0.050 ± 0.010)."
        )
        assert verdict(OWN.row, none, [], "accuracy") == ("Nothing stands beside the generator's accuracy of 0.600: no checkpoints given.")

    def test_retrieval_is_told_too(self) -> None:
        beside = Comparison(Row("retrieval", score=0.2), 0.4, 0.01)
        assert verdict(OWN.row, ZOO, [], "accuracy", [beside]).endswith(
            "; retrieval is beaten (accuracy 0.200, the generator 0.600, difference +0.400 ± 0.010)."
        )
