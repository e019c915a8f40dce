"""Digests of tasks: another batch, loss or module is another task, another run of the same code is not."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from weightspace.cli.digest import function_digest, task_digest
from weightspace.task import Task


def task(inputs: torch.Tensor | None = None) -> Task:
    return Task.classification(nn.Linear(2, 2), torch.eye(2) if inputs is None else inputs, torch.tensor([0, 1]))


class Batches:
    """Batches that count how often they are read."""

    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.reads += 1
        yield torch.eye(2), torch.tensor([0, 1])


def halved(scale: float, outputs: torch.Tensor, batch: object) -> torch.Tensor:
    return outputs.mean() * scale


def test_the_same_task_made_again_has_the_same_digest_whatever_its_weights() -> None:
    assert task_digest(task()) == task_digest(task())


def test_what_a_task_digest_judges_by_is_in_its_digest() -> None:
    plain = task()
    wider = nn.Linear(2, 2)
    wider.register_buffer("mask", torch.ones(2), persistent=False)
    others = [
        task(torch.eye(2) * 2),
        task(torch.eye(2).bfloat16()),
        replace(plain, metrics={}),
        replace(plain, loss=partial(halved, 0.5)),
        replace(plain, loss=partial(halved, 0.25)),
        replace(plain, module=nn.Linear(2, 2, bias=False)),
        replace(plain, module=wider),
        replace(plain, batches=[{"x": torch.eye(2), "n": 1}]),
        replace(plain, batches=[{"x": torch.eye(2), "n": 2}]),
        replace(plain, batches=[torch.tensor(1.0)]),
    ]
    assert len({task_digest(one) for one in [plain, *others]}) == 1 + len(others)


def test_batches_are_read_once() -> None:
    batches = Batches()
    task_digest(replace(task(), batches=batches))
    assert batches.reads == 1


def test_a_function_is_its_module_and_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = set()
    for scale, other in ((1, 1), (2, 1), (2, 2)):
        Path("digested_inner.py").write_text(f"SCALE = {scale}\ndef build():\n    return SCALE\n")
        Path("digested_outer.py").write_text(f"from digested_inner import build\nOTHER = {other}\n")
        for name in ("digested_inner", "digested_outer"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        found.add(function_digest("digested_outer:build"))
    assert len(found) == 3
