"""Checkpoints elsewhere are opened from their headers, read by range, cached, and refused in one line."""

import os
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weightspace as ws
from tests.hub.loopback_store import HubError
from tests.remote.hubs import Hub
from weightspace.errors import FormatError
from weightspace.remote import client
from weightspace.remote.file import cache_folder
from weightspace.remote.hub import HubAddress

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setattr(client, "PAUSES", (0.01, 0.01))


def header_size(path: Path) -> int:
    with path.open("rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


class TestHub:
    def test_opens_from_the_header_alone(self, hub: Hub) -> None:
        folder = hub.model("lab/toy", width=300)
        ws.open("hf:lab/toy")
        assert hub.bytes_of("model.safetensors") == header_size(folder / "model.safetensors")

    def test_holds_what_the_file_holds(self, hub: Hub) -> None:
        folder = hub.model("lab/toy")
        there, here = ws.open("hf:lab/toy"), ws.open(folder / "model.safetensors")
        assert there.id == here.id and dict(there.info) == dict(here.info)
        assert torch.equal(there["fc.weight"], here["fc.weight"])

    def test_reads_one_tensor_by_range_and_once(self, hub: Hub) -> None:
        hub.model("lab/toy", width=300)
        opened = ws.open("hf:lab/toy")
        hub.settings.sent.clear()
        for _ in range(2):
            assert opened["fc.bias"].shape == (300,)
        assert hub.bytes_of("model.safetensors") == 1200
        assert pickle.loads(pickle.dumps(opened)).id == opened.id

    def test_a_new_commit_is_another_file(self, hub: Hub) -> None:
        hub.model("lab/toy", 0)
        old = ws.open("hf:lab/toy")
        first = hub.api.model_info("lab/toy").sha
        hub.model("lab/toy", 1)
        new = ws.open("hf:lab/toy")
        assert old.id != new.id and ws.open(f"hf:lab/toy@{first}").id == old.id

    def test_shards_are_put_together(self, hub: Hub) -> None:
        parts = {f"model-0000{at}-of-00002.safetensors": {f"w{at}": np.full(3, at, np.float32)} for at in (1, 2)}
        hub.model("lab/big", files=parts)
        assert list(ws.open("hf:lab/big")) == ["w1", "w2"]

    def test_a_file_may_be_named(self, hub: Hub) -> None:
        hub.model("lab/two", files={f"{name}.safetensors": {name: np.ones(2, np.float32)} for name in ("one", "other")})
        assert list(ws.open("hf:lab/two/other.safetensors")) == ["other"]
        with pytest.raises(
            FormatError, match=r"holds 2 safetensors files, such as one\.safetensors, other\.safetensors; add the file's name"
        ):
            ws.open("hf:lab/two")

    def test_a_missing_shard_is_said(self, hub: Hub) -> None:
        hub.model("lab/part", files={"model-00001-of-00002.safetensors": {"w": np.ones(2, np.float32)}})
        with pytest.raises(FormatError, match="shard 2 of 2 is missing"):
            ws.open("hf:lab/part")

    def test_a_tensor_in_two_shards_is_refused(self, hub: Hub) -> None:
        hub.model("lab/twice", files={f"model-0000{at}-of-00002.safetensors": {"w": np.ones(2, np.float32)} for at in (1, 2)})
        with pytest.raises(FormatError, match="tensor 'w' lies in two shards"):
            ws.open("hf:lab/twice")

    def test_what_is_not_there_or_closed_is_said_in_one_line(self, hub: Hub) -> None:
        with pytest.raises(FormatError, match="hf:lab/absent: is not there, or not for this user; check the name"):
            ws.open("hf:lab/absent")
        hub.api.create_repo("lab/empty")
        with pytest.raises(FormatError, match="holds no safetensors, the only format that is read from afar"):
            ws.open("hf:lab/empty")

    @pytest.mark.parametrize("address", ["hf:", "hf:a/b/../c@x@y", "hf:/etc/passwd", "hf:a b/c"])
    def test_no_address(self, address: str) -> None:
        with pytest.raises(FormatError, match="is no address on the Hub"):
            ws.open(address)

    @pytest.mark.parametrize("address", ["hf:lab/toy@", "hf:toy@", "hf:datasets/lab/toy@", "hf:lab/toy@/model.safetensors"])
    def test_no_revision(self, address: str) -> None:
        with pytest.raises(FormatError, match=r"^'hf:.*' names no revision after the @; write one, as in hf:org/name@main, or leave"):
            ws.open(address)

    @pytest.mark.parametrize("text", ["hf:lab/toy", "hf:gpt2", "hf:lab/toy@v1", "hf:datasets/lab/zoo@abc/weights/x.safetensors"])
    def test_addresses_are_printed_as_they_are_read(self, text: str) -> None:
        assert str(HubAddress.parse(text)) == text

    def test_nobody_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(FormatError, match=r"the Hub does not answer .*; try again later"):
            ws.open("hf:lab/toy")


class TestFaults:
    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_passing_trouble_is_tried_again(self, hub: Hub, status: int) -> None:
        hub.model("lab/toy")
        left = {"/api/models/lab/toy": 1, "model.safetensors": 1}

        def fault(method: str, path: str) -> HubError | None:
            for ending in left:
                if path.endswith(ending) and left[ending]:
                    left[ending] -= 1
                    return HubError(status, "not now", headers={"Retry-After": "0"})
            return None

        object.__setattr__(hub.settings, "fault", fault)
        assert len(ws.open("hf:lab/toy")) == 2 and left == dict.fromkeys(left, 0)

    @pytest.mark.parametrize(
        ("status", "said"),
        [
            (403, "access is refused; ask its owner"),
            (401, "is not there, or not for this user"),
            (404, "is not there"),
            (500, "does not answer"),
        ],
    )
    def test_lasting_trouble_is_said_and_not_asked_for_ever(self, hub: Hub, status: int, said: str) -> None:
        hub.model("lab/toy")
        asked = []

        def fault(method: str, path: str) -> HubError | None:
            asked.append(path)
            return HubError(status, "no", headers={"Retry-After": "0"})

        object.__setattr__(hub.settings, "fault", fault)
        with pytest.raises(FormatError, match=said) as caught:
            ws.open("hf:lab/toy")
        assert "\n" not in str(caught.value) and len(asked) <= (1 if status in (401, 403, 404) else 3)

    def test_a_body_that_breaks_off_is_an_error_and_nothing_of_it_is_kept(self, hub: Hub) -> None:
        hub.model("lab/toy", width=300)
        opened = ws.open("hf:lab/toy")
        object.__setattr__(hub.settings, "fault", lambda method, path: 100 if path.endswith("safetensors") else None)
        with pytest.raises(FormatError, match="hf:lab/toy"):
            opened["fc.weight"]
        object.__setattr__(hub.settings, "fault", lambda method, path: None)
        assert opened["fc.weight"].shape == (300, 300)
        assert not list(cache_folder().rglob("*.new"))

    def test_without_a_cache_it_is_read_again(self, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        hub.model("lab/toy")
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("WEIGHTSPACE_CACHE", str(tmp_path / "file"))
        opened = ws.open("hf:lab/toy")
        hub.settings.sent.clear()
        for _ in range(2):
            assert opened["fc.bias"].shape == (8,)
        assert hub.bytes_of("model.safetensors") == 64


class TestBuckets:
    def test_an_object_store_is_read_by_range(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WEIGHTSPACE_CACHE", str(tmp_path / "cache"))
        tensors = {"w": np.arange(12, dtype=np.float32).reshape(3, 4)}
        save_file(tensors, tmp_path / "model.safetensors")
        system = fsspec.filesystem("memory")
        system.pipe("/lab/model.safetensors", (tmp_path / "model.safetensors").read_bytes())
        for address in ("memory://lab/model.safetensors", "memory://lab"):
            opened = ws.open(address)
            assert torch.equal(opened["w"], torch.from_numpy(tensors["w"])) and opened.id == ws.open(tmp_path / "model.safetensors").id

    def test_what_is_not_there_is_said(self) -> None:
        with pytest.raises(FormatError, match=r"memory://nowhere/x\.safetensors: is not there; check the address"):
            ws.open("memory://nowhere/x.safetensors")

    def test_an_unknown_scheme_is_said(self) -> None:
        with pytest.raises(FormatError, match="abc://x"):
            ws.open("abc://x/y.safetensors")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEIGHTSPACE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("WEIGHTSPACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "weightspace" and os.sep in str(cache_folder())
