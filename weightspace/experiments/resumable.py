"""Experiments that may be ended and run again: results kept line by line, and the command line that they share."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Lines = Sequence[Mapping[str, Any]]
"""What was measured so far, a mapping for each line."""


def known(results: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def is_known(results: Path, here: Mapping[str, Any]) -> bool:
    """Whether there is a line of this work."""
    return any(all(row[key] == value for key, value in here.items()) for row in known(results))


def keep(results: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add lines."""
    with results.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def command_line(told: str) -> argparse.ArgumentParser:
    """The options of every such experiment.

    Args:
        told: the module's docstring.
    """
    parser = argparse.ArgumentParser(description=told.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--report", action="store_true", help="print tables of what was measured so far")
    parser.add_argument("--seeds", type=int, default=5)
    return parser


def share_option(parser: argparse.ArgumentParser) -> None:
    """The option that lets several processes measure beside each other."""
    parser.add_argument("--share", default="0/1", help="which of how many parts of the work")


def shared(work: Sequence[Any], share: str) -> Sequence[Any]:
    """A part of the work, told as `0/2`."""
    own, parts = map(int, share.split("/"))
    return work[own::parts]


def perform(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], report: Callable[[Lines], Iterable[str]]) -> None:
    """Read the options; measure what is not known yet, or report."""
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.report:
        print("\n".join(report(known(options.results))))
    else:
        run(options)
