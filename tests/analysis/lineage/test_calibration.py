"""The arithmetic of the calibration of lineage, which `tests.benchmarks.lineage_calibration` prints for whole zoos."""

import pytest

from tests.benchmarks.lineage_calibration import Stated, binned, expected_error, table


def test_what_comes_true_as_often_as_stated_has_no_error() -> None:
    assert expected_error([Stated("drift", 0.75, at < 3) for at in range(4)]) == 0
    assert expected_error([]) == 0


def test_errors_of_bins_count_by_their_models() -> None:
    stated = [Stated("drift", 0.8, True)] * 3 + [Stated("drift", 0.2, True)]
    assert [(name, count) for name, _, _, count in binned(stated)] == [("0.1 to 0.3", 1), ("0.7 to 0.9", 3)]
    assert expected_error(stated) == pytest.approx((3 * 0.2 + 0.8) / 4)


def test_certainty_lies_in_the_last_bin_and_each_evidence_has_its_rows() -> None:
    rows = list(table([Stated("drift (finetune)", 1.0, True), Stated("pruning (pruned)", 0.999, False)]))
    assert rows[2:] == [
        "| drift (finetune) | 0.99 to 1 | 1.000 | 1.000 | 1 |",
        "| pruning (pruned) | 0.99 to 1 | 0.999 | 0.000 | 1 |",
        "| all | 0.99 to 1 | 1.000 | 0.500 | 2 |",
    ]
