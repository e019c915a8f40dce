"""The zoo's cache of tensors."""

import os
from pathlib import Path

import pytest
import torch

from weightspace.zoo import Zoo
from weightspace.zoo.cache import TensorCache


def test_what_is_put_in_comes_out_of_another_process_s_cache_of_the_same_folder(tmp_path: Path) -> None:
    TensorCache(tmp_path / "c")["k/svd"] = {"u": torch.ones(2, 3), "s": torch.arange(3.0)}
    cache = TensorCache(tmp_path / "c")
    assert "k/svd" in cache and list(cache) == ["k/svd"] and len(cache) == 1 and cache.num_bytes > 0
    assert torch.equal(cache["k/svd"]["s"], torch.arange(3.0)) and cache["k/svd"]["u"].shape == (2, 3)
    del cache["k/svd"]
    assert "k/svd" not in cache and cache.get("k/svd") is None
    with pytest.raises(KeyError):
        del cache["k/svd"]


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_what_is_damaged_counts_as_never_kept(tmp_path: Path, damage: bytes | None) -> None:
    cache = TensorCache(tmp_path)
    cache["k"] = {"s": torch.arange(3.0)}
    [path] = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4] if damage is None else damage)
    assert cache.get("k") is None and "k" not in cache
    cache["k"] = {"s": torch.arange(4.0)}
    assert len(cache["k"]["s"]) == 4


def test_a_zoo_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TensorCache(tmp_path)
    cache["k"] = {"s": torch.ones(2)}

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    assert cache["k"]["s"].tolist() == [1, 1]


def test_what_cannot_be_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    nowhere = TensorCache(tmp_path / "file")
    nowhere["k"] = {"s": torch.ones(2)}
    assert "k" not in nowhere and list(nowhere) == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = TensorCache(tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", full)
    cache["k"] = {"s": torch.ones(2)}
    assert "k" not in cache and not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_under_a_foreign_name_is_not_believed(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache["a"], cache["b"] = {"s": torch.zeros(1)}, {"s": torch.ones(1)}
    [first, second] = (cache._path(key) for key in "ab")
    second.write_bytes(first.read_bytes())
    assert cache.get("b") is None and cache["a"]["s"] == 0


def test_beyond_its_limit_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, limit=10_000)
    for at, key in enumerate("abc"):
        cache[key] = {"s": torch.zeros(1000)}  # 4,000 bytes and a header
        if key in cache:
            os.utime(cache._path(key), (at, at))
        cache.get("a")
    assert sorted(cache) == ["a", "c"]
    cache["large"] = {"s": torch.zeros(10_000)}
    assert list(cache) == ["large"]


def test_the_newest_stays_and_others_go_although_its_time_is_the_oldest(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path, limit=5_000)
    cache["old"] = {"s": torch.zeros(1000)}
    later = cache._path("old").stat().st_mtime + 3600
    os.utime(cache._path("old"), (later, later))
    cache["new"] = {"s": torch.zeros(1000)}
    assert list(cache) == ["new"]


def test_a_zoo_keeps_its_cache_in_its_house_and_one_that_does_not_exist_keeps_nothing(tmp_path: Path, tiny_zoo: Zoo) -> None:
    tiny_zoo.cache["k"] = {"s": torch.ones(1)}
    assert "k" in Zoo(tiny_zoo.folder).cache
    nowhere = Zoo(tmp_path / "nowhere")
    nowhere.cache["k"] = {"s": torch.ones(1)}
    assert not (tmp_path / "nowhere").exists() and "k" not in nowhere.cache
    assert tiny_zoo.ingest(tiny_zoo.folder).catalogued == 0
