"""Writing: what appears is complete, and a merge that was killed, stopped or left without room goes on to the same bytes."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from tests.analysis.merging.small_models import decoder, write
from weightspace.analysis.merging import Progress, execute, merge
from weightspace.analysis.merging.health import Measuring
from weightspace.analysis.merging.write import Writer, growing, shards
from weightspace.checkpoint import TensorInfo
from weightspace.errors import MergeError

SHARD = 300  # bytes: a dozen shards

Moment = Callable[[], None]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe with chance in it, which keeps its parents."""
    paths = [str(write(decoder(3, at), tmp_path / f"m{at}")) for at in range(3)]
    return {
        "merge_method": "dare_ties",
        "base_model": paths[0],
        "models": paths[1:],
        "parameters": {"weight": 0.5, "density": 0.5},
        "keep": "all",
    }


def files(place: Path) -> dict[str, bytes]:
    """A result and what lies beside it, by name."""
    folder = place if place.is_dir() else place.parent
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and (place.is_dir() or path.name.startswith(place.stem) or f"{place.stem}." in str(path))
    }


def run_killed(recipe: dict[str, Any], out: Path, at: int | None, force: bool = False) -> int:
    """Merge in a process that kills itself at its `at`-th step on the disk; returns how many steps there were, where it lived."""
    read, tell = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def counted(work: Callable[..., Any]) -> Callable[..., Any]:
            def step(*given: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if at == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return work(*given, **named)

            return step

        try:
            for owner, names in (
                (os, ("pwrite", "pwritev", "fsync", "truncate")),
                (Path, ("rename", "replace", "unlink", "mkdir", "rmdir")),
            ):
                for name in names:
                    setattr(owner, name, counted(getattr(owner, name)))
            merge(recipe, out, shard_bytes=SHARD, force=force)
            os.write(tell, str(count).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(read) as told:
        said = told.read()
    os.waitpid(child, 0)
    return int(said) if said else 0


def killed_again_and_again(recipe: dict[str, Any], tmp_path: Path, name: str, tries: int | None) -> None:
    reference = tmp_path / "whole" / name
    reference.parent.mkdir()
    merge(recipe, reference, shard_bytes=SHARD)
    expected = files(reference)
    (tmp_path / "count").mkdir()
    steps = run_killed(recipe, tmp_path / "count" / name, None)
    assert steps > 20
    moments = range(1, steps + 1) if tries is None else random.Random(0).sample(range(1, steps + 1), tries)
    for moment in moments:
        place = tmp_path / f"killed{moment}"
        place.mkdir()
        assert run_killed(recipe, place / name, moment) == 0
        if (place / name).exists():  # it was killed after the result had its name
            assert ws.open(place / name).id == ws.open(reference).id
        merge(recipe, place / name, shard_bytes=SHARD, force=(place / name).exists())
        assert files(place / name) == expected, f"killed at step {moment} of {steps}"
        assert not [path for path in place.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_merge_killed_at_random_moments_goes_on_to_the_same_bytes(name: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    killed_again_and_again(recipe, tmp_path, name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_merge_killed_at_every_moment_goes_on_to_the_same_bytes(name: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    killed_again_and_again(recipe, tmp_path, name, None)


def test_a_merge_killed_while_it_replaces_another_leaves_one_of_them_or_none(recipe: dict[str, Any], tmp_path: Path) -> None:
    before, after = {**recipe, "seed": 1}, {**recipe, "seed": 2}
    ids = {merge(before).id, merge(after).id}
    (tmp_path / "count").mkdir()
    merge(before, tmp_path / "count" / "out", shard_bytes=SHARD)
    steps = run_killed(after, tmp_path / "count" / "out", None, force=True)
    for moment in random.Random(1).sample(range(steps - 20, steps + 1), 3):
        place = tmp_path / f"killed{moment}"
        place.mkdir()
        merge(before, place / "out", shard_bytes=SHARD)
        run_killed(after, place / "out", moment, force=True)
        assert not (place / "out").exists() or ws.open(place / "out").id in ids
        merge(after, place / "out", shard_bytes=SHARD, force=True)
        assert ws.open(place / "out").id == merge(after).id
        assert [path.name for path in place.iterdir()] == ["out"]


class Stop(Exception):  # noqa: N818 - it is no error
    """Ends a merge from outside."""


def stopped(recipe: dict[str, Any], out: Path, after: int, kind: type[BaseException] = Stop, **how: Any) -> None:
    """Begin a merge and stop it when so many tensors are done."""

    def tell(progress: Progress) -> None:
        if progress.done == after:
            raise kind

    with pytest.raises(kind):
        merge(recipe, out, progress=tell, **{"shard_bytes": SHARD, **how})
    assert not out.exists()


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.safetensors")}


def test_finished_shards_are_not_written_again(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped(recipe, out, 7)
    before, told = stamps(growing(out)), list[Progress]()
    assert len(before) >= 3
    merge(recipe, out, shard_bytes=SHARD, progress=told.append)
    assert before.items() <= stamps(out).items()
    assert told[-1].done == told[-1].found and told[-1].bytes_done == told[-1].bytes_found
    assert ws.open(out).id == merge(recipe).id


def test_a_stop_by_the_user_can_be_resumed(recipe: dict[str, Any], tmp_path: Path) -> None:
    stopped(recipe, tmp_path / "out", 5, KeyboardInterrupt, jobs=2)
    assert merge(recipe, tmp_path / "out", shard_bytes=SHARD).id == merge(recipe).id
    assert not growing(tmp_path / "out").exists()


def test_a_stop_by_the_user_does_not_wait_for_a_large_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write({"w": torch.ones(1000, 100)}, tmp_path / "a"))
    add = Measuring.add

    begun, done = threading.Event(), threading.Event()

    def slowly(self: Measuring, *given: Any) -> None:
        begun.set()
        time.sleep(0.05)
        add(self, *given)

    monkeypatch.setattr(execute, "SLAB", 100)
    monkeypatch.setattr(Measuring, "add", slowly)

    def press() -> None:  # again, since Python loses an interrupt that comes while it calls back from C or tidies up
        begun.wait()
        while not done.wait(1):
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        try:
            merge({"merge_method": "linear", "models": [path], "parameters": {"weight": 1}}, tmp_path / "out.safetensors")
        finally:
            done.set()
    assert time.monotonic() - start < 20  # of 50


@pytest.mark.parametrize("changed", ["recipe", "input", "shards", "evidence"])
def test_anything_that_changed_starts_anew(changed: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    out, limit = tmp_path / "out", SHARD
    if changed == "evidence":
        squares = {name: tensor.square() for name, tensor in decoder(3, 7).items()}
        recipe = {"merge_method": "fisher", "models": recipe["models"], "parameters": {"fisher": str(write(squares, tmp_path / "e"))}}
    stopped(recipe, out, 7)
    if changed == "recipe":
        recipe = {**recipe, "seed": 9}
    elif changed == "input":
        write(decoder(3, 8), tmp_path / "m1")
    elif changed == "shards":
        limit = 500
    else:
        write({name: tensor.abs() for name, tensor in decoder(3, 9).items()}, tmp_path / "e")
    made = merge(recipe, out, shard_bytes=limit)
    merge(recipe, tmp_path / "fresh", shard_bytes=limit)
    assert made.id == ws.open(tmp_path / "fresh").id
    assert files(out) == files(tmp_path / "fresh")


def test_shards_of_one_name_cut_elsewhere_are_not_taken_over(tmp_path: Path) -> None:
    path = str(write({name: torch.full((10, 10), at + 1.0) for at, name in enumerate("abc")}, tmp_path / "m"))
    recipe = {"merge_method": "linear", "models": [path], "parameters": {"weight": 1}}
    stopped(recipe, tmp_path / "out", 2, shard_bytes=400)
    made = merge(recipe, tmp_path / "out", shard_bytes=800)
    assert [made[name][0, 0].item() for name in "abc"] == [1.0, 2.0, 3.0]
    assert sorted(path.name for path in (tmp_path / "out").glob("model*")) == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip


def test_a_damaged_note_of_a_shard_makes_it_again(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    stopped(recipe, out, 7)
    for note in growing(out).glob("model*.json"):
        note.write_text("{")
    assert merge(recipe, out, shard_bytes=SHARD).id == merge(recipe).id


def test_two_at_once_do_not_mix(recipe: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []

    def second(_: Progress) -> None:
        with pytest.raises(MergeError) as raised:
            merge(recipe, tmp_path / "out")
        said.append(str(raised.value))

    merge(recipe, tmp_path / "out", progress=second)
    assert set(said) == {f"{tmp_path / 'out'}: another merge is writing it; wait until it is finished, or choose another name"}


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_merge_is_replaced_when_asked(name: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "made"
    place.mkdir()
    merge(recipe, place / name)
    with pytest.raises(MergeError, match="exists already; choose another name, or replace it with --force"):
        merge(recipe, place / name)
    names = {path.name for path in place.rglob("*")}
    made = merge({**recipe, "seed": 3}, place / name, force=True)
    assert made.id == merge({**recipe, "seed": 3}).id
    assert {path.name for path in place.rglob("*")} == names


def test_what_was_there_comes_back_when_its_successor_cannot_be_placed(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first, rename = merge(recipe, out), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self == growing(out):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(MergeError, match=r"cannot be written \(Input/output error\)"):
        merge({**recipe, "seed": 4}, out, force=True)
    assert ws.open(out).id == first.id


def test_shards_are_cut_where_the_next_tensor_would_go_over() -> None:
    infos = [TensorInfo(name, "F32", (count,)) for name, count in (("a", 10), ("b", 10), ("c", 30), ("d", 1))]
    cut = shards(infos, {"z": "b"}, {}, 100, None)
    assert [list(one.info) for one in cut] == [["a", "b", "z"], ["c"], ["d"]]
    assert [one.name for one in cut] == [f"model-0000{at}-of-00003.safetensors" for at in (1, 2, 3)]
    (lone,) = shards(infos, {}, {}, None, "mine.safetensors")
    assert lone.name == "mine.safetensors" and lone.num_bytes == len(lone.head) + 204


def test_a_lock_that_is_given_back_lets_the_next_one_in(tmp_path: Path) -> None:
    cut = shards([TensorInfo("a", "F32", (1,))], {}, {}, None, None)
    for _ in range(2):
        with Writer(tmp_path / "out", cut, "x") as writer:
            assert writer.done(cut[0]) is None


def test_the_index_names_every_tensor_and_transformers_layout_holds(recipe: dict[str, Any], tmp_path: Path) -> None:
    import json

    merge(recipe, tmp_path / "out", shard_bytes=SHARD)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(decoder(3, 0))
    assert set(index["weight_map"].values()) == {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in decoder(3, 0).values())
