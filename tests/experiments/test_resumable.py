"""Experiments are ended and run again, share their work, and report what is there, however little."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from weightspace.experiments import neumeta
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, known, perform, share_option, shared
from weightspace.experiments.tables import with_interval


def test_lines_are_kept_and_known(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    assert known(results) == [] and not is_known(results, {"seed": 0})
    keep(results, [{"seed": 0, "arm": "a", "x": 0.5}])
    keep(results, [{"seed": 1, "arm": "a", "x": 1.5}, {"seed": 1, "arm": "b", "x": 2.5}])
    assert [row["x"] for row in known(results)] == [0.5, 1.5, 2.5]
    assert is_known(results, {"seed": 1, "arm": "b"}) and not is_known(results, {"seed": 0, "arm": "b"})


def test_parts_of_the_work_are_all_of_it() -> None:
    assert list(shared(range(7), "0/1")) == list(range(7))
    assert sorted([*shared(range(7), "0/3"), *shared(range(7), "1/3"), *shared(range(7), "2/3")]) == list(range(7))


def test_the_command_line_measures_or_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(options: argparse.Namespace) -> None:
        keep(options.results, [{"seed": seed} for seed in shared(range(options.seeds), options.share)])

    def report(rows: Lines) -> list[str]:
        return [f"seeds {[row['seed'] for row in rows]}"]

    def told(*asked: str) -> str:
        monkeypatch.setattr(sys, "argv", ["experiment", "--results", str(tmp_path / "r.jsonl"), *asked])
        parser = command_line("What it asks.\n\nMore of it.")
        share_option(parser)
        assert parser.description == "What it asks."
        perform(parser, run, report)
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    try:
        assert told("--seeds", "4", "--share", "1/2") == ""
        assert told("--report") == "seeds [1, 3]\n"
    finally:
        torch.set_num_threads(threads)


def test_values_are_shown_with_their_interval() -> None:
    assert (with_interval([]), with_interval([0.5]), with_interval([0.5], 1, scale=100.0)) == ("", "0.500", "50.0")
    assert with_interval([1.0, 2.0, 3.0], 2) == "2.00 ± 2.48"


def _row(part: str, method: str, seed: int, **more: Any) -> dict[str, Any]:
    widths = neumeta.PARTS[part][1]
    return {
        "part": part,
        "method": method,
        "seed": seed,
        "accuracy": {str(w): 0.5 for w in widths},
        "milliseconds": 2.0,
        "cpu": 3.0,
        **more,
    }


@pytest.mark.parametrize("part", list(neumeta.PARTS))
def test_the_report_on_widths_takes_what_is_there(part: str) -> None:
    first = next(iter(neumeta.VARIANTS[part]))
    [_, table, bars] = list(neumeta.report([_row(part, first, 0)]))
    assert table.startswith(f"| width | {first} |") and bars.count("\n") == 3  # one method, though there are more
    assert "nan" not in bars
    more = [*neumeta.report([_row(part, first, 0), _row(part, "from scratch", 0)])]
    assert "0.000" in more[2] and "| 2.0 | 3 |" in more[2]
