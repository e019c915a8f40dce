"""What goes wrong while a merge is made: disks, devices, files that change; nothing is left under the final name."""

import errno
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import weightspace as ws
from tests.analysis.merging.bench import Bench, content, written
from tests.analysis.merging.small_models import decoder, folder
from weightspace.analysis.merging import merge
from weightspace.analysis.merging import write as writing
from weightspace.cli.main import app
from weightspace.errors import FormatError, MergeError


def test_nan_in_an_input_is_a_warning(bench: Bench) -> None:
    bad = torch.tensor([1.0, float("nan"), float("inf"), 1.0])
    recipe = bench.linear(bench.model("a"), bench.model("b", **{"model.norm.weight": bad}))
    result = CliRunner().invoke(
        app, ["merge", str(written(recipe, bench.place)), "-o", "out"], catch_exceptions=False, env={"COLUMNS": "2000"}
    )
    assert result.exit_code == 0
    assert "2 elements of 1 tensors are NaN or infinite, first in 'model.norm.weight'" in result.stderr

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((bench.place / "out" / "merge.json").read_text(), parse_constant=refuse)


def test_a_disk_without_room_is_told_before_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = bench.linear()
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))  # type: ignore[attr-defined]
    with pytest.raises(MergeError, match=r"out: the result takes [\d,]+ bytes and the disk has 5 free; make room, or write elsewhere"):
        merge(recipe, bench.place / "out")
    assert not list(bench.place.glob("*out*"))


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond a size, as a disk that runs full does."""
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_a_file_that_cannot_grow_leaves_nothing_and_goes_on_later(out: str, bench: Bench, small_files: Callable[[int], None]) -> None:
    recipe = bench.linear(bench.model("a", w=torch.ones(100, 100)))
    before = content(bench.place)
    small_files(8000)
    with pytest.raises(
        MergeError, match=rf"{out}: cannot be written \({os.strerror(errno.EFBIG)}\); check the folder, .* goes on where it stopped"
    ):
        merge(recipe, bench.place / out)
    small_files(1 << 30)
    assert content(bench.place) == before and not (bench.place / out).exists()
    assert merge(recipe, bench.place / out)["w"].equal(torch.ones(100, 100))
    assert not list(bench.place.glob(".*"))


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_a_disk_that_runs_full_leaves_nothing(out: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, whole = bench.linear(), os.pwritev

    def full(descriptor: int, raw: Any, at: int) -> int:
        if at > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(descriptor, raw, at)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(MergeError, match=r"cannot be written \(No space left on device\)"):
        merge(recipe, bench.place / out)
    assert not (bench.place / out).exists()
    monkeypatch.undo()
    merge(recipe, bench.place / out)


def test_a_folder_that_cannot_be_written_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    recipe = bench.linear()
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(MergeError, match=r"out: cannot be written \(Permission denied\); check the folder"):
        merge(recipe, bench.place / "out")


def test_a_file_that_changes_while_it_is_merged_is_an_error(bench: Bench) -> None:
    recipe = bench.linear()
    path = bench.place / "b.safetensors"
    with pytest.raises(FormatError, match=r"b.safetensors: changed while it was being read; open it again when it is complete"):
        merge(recipe, bench.place / "out", shard_bytes=1, progress=lambda _: os.utime(path, ns=(0, 0)))
    assert not (bench.place / "out").exists()


def test_a_device_that_is_not_there_is_one_line(bench: Bench) -> None:
    recipe = written(bench.linear(), bench.place)
    for device in ("nonsense", "cuda:99"):
        result = CliRunner().invoke(
            app, ["merge", str(recipe), "-o", "out", "--device", device], catch_exceptions=False, env={"COLUMNS": "2000"}
        )
        assert result.exit_code == 1
        assert re.search(rf"device '{device}' cannot be used \(.*\); name one that this machine has, such as cpu", result.stderr)
        assert not (bench.place / "out").exists()


def test_hostile_names_are_shown_escaped(bench: Bench) -> None:
    odd = {"\x1b[31mred\nline": torch.ones(2)}
    with pytest.raises(MergeError) as raised:
        merge(bench.linear(bench.model("a", odd), bench.model("b", {"w": torch.ones(2)})), bench.place / "out")
    assert str(raised.value).isprintable()


def test_a_config_that_is_damaged_is_one_line(bench: Bench) -> None:
    place = folder(decoder(2, 0), bench.place / "model", {})
    (place / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config.json: its JSON is damaged"):
        merge(bench.linear(str(place)), bench.place / "out")


def test_what_is_merged_can_be_opened(bench: Bench) -> None:
    assert ws.open(merge(bench.linear(), bench.place / "out").path or "").kind == "full"
