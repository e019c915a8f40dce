"""One zoo's folder used under several paths, as machines that mount it do: what is inside it moves with it."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import CatalogError, FormatError
from weightspace.zoo import Zoo


def test_a_zoo_that_is_mounted_elsewhere_opens_its_models(tmp_path: Path) -> None:
    here = Zoo(tmp_path / "here")
    here.add({"w": torch.ones(3)}, "kept")
    (tmp_path / "here" / "run").mkdir()
    ws.save({"w": torch.zeros(3)}, tmp_path / "here" / "run" / "inside.safetensors")
    ws.save({"w": torch.full((3,), 2.0)}, tmp_path / "outside.safetensors")
    here.ingest([tmp_path / "here" / "run", tmp_path / "outside.safetensors"])
    shutil.move(tmp_path / "here", tmp_path / "there")
    there = Zoo(tmp_path / "there")
    assert sorted(there.files()["path"].to_pylist())[-1] == "run/inside.safetensors"
    sums = [float(there.open(name)["w"].sum()) for name in ("kept", "inside", "outside")]
    assert sums == [3.0, 0.0, 6.0]
    assert there.open(str(tmp_path / "there" / "run" / "inside.safetensors")).id == there.open("inside").id
    report = there.ingest([tmp_path / "there" / "run"])
    assert (report.unchanged, report.catalogued) == (1, 0)


def test_processes_under_several_paths_write_at_once(tmp_path: Path) -> None:
    Zoo(tmp_path / "here").create()
    for name in ("mount-a", "mount-b"):
        (tmp_path / name).symlink_to(tmp_path / "here")
    program = (
        "import sys, torch; from weightspace.zoo import Zoo\n"
        "for at in range(4): Zoo(sys.argv[1]).add({'w': torch.full((3,), float(sys.argv[2]) * 10 + at)}, f'{sys.argv[2]}-{at}', metrics={'n': at})"
    )
    places = [tmp_path / name for name in ("here", "mount-a", "mount-b")]
    writers = [subprocess.Popen([sys.executable, "-c", program, str(place), str(number)]) for number, place in enumerate(places)]
    assert [writer.wait(300) for writer in writers] == [0, 0, 0]
    zoo = Zoo(tmp_path / "mount-b")
    assert zoo.models()["name"].to_pylist() == [f"{number}-{at}" for number in range(3) for at in range(4)]
    assert all(zoo.open(name)["w"].sum() == 3 * (10 * int(name[0]) + int(name[-1])) for name in zoo.models()["name"].to_pylist())


def test_a_file_that_somebody_replaces_keeps_what_was_opened_or_says_so(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    path = tmp_path / "zoo" / "net.safetensors"
    path.parent.mkdir()
    ws.save({"w": torch.ones(1000)}, path)
    zoo.ingest(path)
    opened = zoo.open("net")
    tensor = opened["w"]
    ws.save({"w": torch.zeros(1000)}, tmp_path / "next.safetensors")
    (tmp_path / "next.safetensors").replace(path)  # as the zoo itself and careful programs do
    assert tensor.sum() == 1000  # a copy: no memory map that changes, or goes, under its reader
    with pytest.raises(FormatError, match="gone or has changed since"):
        zoo.open("net")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    zoo = Zoo(tmp_path)
    zoo.create()

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CatalogError, match=r"its file system has no locks .*; keep the zoo on another one"):
        zoo.models()
