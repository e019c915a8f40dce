"""Sharded checkpoints: the index and its shards checked against each other, and what they claim of a folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weightspace as ws
from weightspace.errors import FormatError
from weightspace.formats import formats
from weightspace.formats import sniff as sniff_format

A, B, C = (np.full((2, 3), value, np.float32) for value in (1, 2, 3))
INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def sharded(folder: Path, weight_map: dict[str, Any] | None = None, text: str | None = None, index: str = INDEX) -> Path:
    save_file({"a": A, "b": B}, folder / ONE, {"format": "pt"})
    save_file({"c": C}, folder / TWO, {"format": "pt"})
    weight_map = {"a": ONE, "b": ONE, "c": TWO} if weight_map is None else weight_map
    (folder / index).write_text(text or json.dumps({"metadata": {"total_size": 72}, "weight_map": weight_map}))
    return folder / index


@pytest.mark.parametrize("by_folder", [False, True])
def test_an_index_or_its_folder_opens_all_shards(tmp_path: Path, by_folder: bool) -> None:
    index = sharded(tmp_path)
    found = ws.open(tmp_path if by_folder else index)
    assert sorted(found) == ["a", "b", "c"] and found.format == "sharded"
    assert found["c"].tolist() == C.tolist()
    assert found.files == (index, tmp_path / ONE, tmp_path / TWO)
    assert found.metadata == {"format": "pt", "index": {"total_size": 72}}


def test_shards_of_torch_files_open_alike(tmp_path: Path) -> None:
    torch.save({"a": torch.tensor(A), "b": torch.tensor(B)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"c": torch.tensor(C)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00001-of-00002.bin", "c": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "other").mkdir()
    assert ws.open(tmp_path).id == ws.open(sharded(tmp_path / "other")).id


def test_the_index_is_found_by_its_content(tmp_path: Path) -> None:
    sharded(tmp_path, index="renamed")
    assert sorted(ws.open(tmp_path / "renamed")) == ["a", "b", "c"]
    (tmp_path / "config.json").write_text('{"hidden": 3}')
    assert sniff_format(tmp_path / "config.json") is None


@pytest.mark.parametrize(
    ("weight_map", "reason", "says"),
    [
        ({"a": ONE, "b": ONE, "c": TWO, "d": TWO}, "missing", f"puts the tensor 'd' into '{TWO}', which does not hold it"),
        ({"a": ONE, "c": TWO}, "corrupt", f"does not list the tensor 'b' of '{ONE}'"),
        ({"a": ONE, "b": ONE, "c": "gone.safetensors"}, "missing", "the shard 'gone.safetensors' is not there; bring all shards together"),
        ({"a": "../x.safetensors"}, "hostile", "outside its own folder"),
        ({"a": "/etc/passwd"}, "hostile", "outside its own folder"),
        ({"a": INDEX}, "hostile", f"the shard '{INDEX}' is another index"),
        ({"a": "notes.txt"}, "hostile", "the shard 'notes.txt' is of no known format"),
        ({"a": 3}, "corrupt", "expected a weight_map from tensor names to shard names"),
        ({}, "corrupt", "expected a weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path, weight_map: dict[str, Any], reason: str, says: str) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    index = sharded(tmp_path, weight_map)
    with pytest.raises(FormatError) as caught:
        ws.open(index)
    assert says in str(caught.value) and caught.value.reason == reason and "\n" not in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"c": C, "a": B}, tmp_path / TWO)
    with pytest.raises(FormatError, match=f"the tensor 'a' lies in two shards, '{ONE}' and '{TWO}'"):
        ws.open(index)


def test_a_key_that_stands_twice_in_the_index_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path, text=f'{{"weight_map": {{"a": "{ONE}", "a": "{TWO}"}}}}')
    with pytest.raises(FormatError, match="the key 'a' stands twice"):
        ws.open(index)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / TWO).write_bytes((tmp_path / TWO).read_bytes()[:-1])
    with pytest.raises(FormatError, match=TWO):
        ws.open(index)


def test_a_folder_claims_the_index_and_its_shards(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    claims = formats["sharded"].claims
    assert claims is not None
    (tmp_path / "other.npz").write_bytes(b"")
    assert claims(tmp_path) == claims(index) == {index, tmp_path / ONE, tmp_path / TWO}
    index.write_text("{")
    assert claims(index) == {index}


def test_an_index_of_torch_files_gives_way_to_a_whole_safetensors_file(tmp_path: Path) -> None:
    sharded(tmp_path, index="pytorch_model.bin.index.json")
    save_file({"whole": A}, tmp_path / "model.safetensors")
    assert list(ws.open(tmp_path)) == ["whole"]
