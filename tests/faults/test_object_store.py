"""An object store that fails: a checkpoint is read by range, or refused in one line, and read when the trouble is over."""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weightspace as ws
from tests.faults.columns import COLUMNS, STALL, Column, Fault
from tests.faults.proxy import proxy
from weightspace.errors import FormatError
from weightspace.remote import client

ADDRESS = "s3://models/lab/model.safetensors"
# What a store of objects does not say, or says in another way.
APART = ("another range", "Content-Length too small", "stale ETag", "redirect")
USED = [one for one in COLUMNS if not one.name.startswith(APART)]
CELLS = [(column, once) for column in USED for once in (True, False)]
CHOSEN = random.Random(9).sample(range(len(CELLS)), 8)


@pytest.fixture(scope="module")
def store() -> Iterator[int]:
    """The port of a store with a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, ip_address="127.0.0.1", verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@pytest.fixture
def tensors() -> dict[str, Any]:
    drawn = np.random.default_rng(0)
    return {"w": drawn.normal(size=(30, 4)).astype(np.float32), "b": drawn.normal(size=3).astype(np.float32)}


@pytest.fixture
def raw(tmp_path: Path, tensors: dict[str, Any]) -> bytes:
    save_file(tensors, tmp_path / "model.safetensors")
    return (tmp_path / "model.safetensors").read_bytes()


class Waits:
    """Waits that are counted and not waited for."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.real, self.seconds = real, 0.0

    def __call__(self, seconds: float) -> None:
        self.seconds += seconds

    async def later(self, seconds: float, result: object = None) -> object:
        self.seconds += seconds
        return await self.real(0, result)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    made = Waits(asyncio.sleep)
    monkeypatch.setattr("time.sleep", made)
    monkeypatch.setattr(asyncio, "sleep", made.later)
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: int, raw: bytes) -> Callable[[str], None]:
    """Makes s3:// mean a store at an address, with a model in it."""
    monkeypatch.setenv("WEIGHTSPACE_CACHE", str(tmp_path / "cache"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    monkeypatch.setitem(fsspec.config.conf, "s3", {})  # before it is changed, so that it is as it was afterwards

    def at(url: str) -> None:
        fsspec.config.conf["s3"] = {"endpoint_url": url}
        fsspec.filesystem("s3").clear_instance_cache()

    at(f"http://127.0.0.1:{store}")
    system = fsspec.filesystem("s3")
    if not system.exists("models"):
        system.mkdir("models")
    system.pipe("models/lab/model.safetensors", raw)
    return at


def read() -> tuple[list[str], list[float]]:
    opened = ws.open(ADDRESS)
    return sorted(opened), opened["b"].tolist()


@pytest.mark.parametrize(
    ("column", "is_once"),
    [
        pytest.param(*cell, id=f"{cell[0].name}-{'once' if cell[1] else 'for ever'}", marks=() if at in CHOSEN else pytest.mark.slow)
        for at, cell in enumerate(CELLS)
    ],
)
def test_a_checkpoint_is_read_or_refused(
    column: Column,
    is_once: bool,
    store: int,
    asked: Callable[[str], None],
    waits: Waits,
    tensors: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if column.name == "slow":  # elsewhere a busy machine may take its time
        monkeypatch.setattr(client, "QUIET", STALL / 4)
    met: list[str] = []
    is_over: list[bool] = []

    def fault(method: str, path: str) -> Fault | None:
        if is_over or (is_once and met) or "model.safetensors" not in path:
            return None
        met.append(path)
        return column.fault(path)

    with proxy(store, fault) as url:
        asked(url)
        try:
            assert read() == (["b", "w"], tensors["b"].tolist()) or column.name == "other bytes"
            assert is_once or not column.is_passing
        except FormatError as error:
            said = str(error)
            assert said.startswith(ADDRESS) and "; " in said and "\n" not in said, said
            assert not (is_once and column.is_passing), said
        assert met and waits.seconds < 300 and len(met) < 60
        is_over.append(True)
        asked(url)
        assert read() == (["b", "w"], tensors["b"].tolist())


def test_a_store_that_nobody_runs(asked: Callable[[str], None], waits: Waits) -> None:
    asked("http://127.0.0.1:9")
    with pytest.raises(
        FormatError, match=r"s3://models/lab/model\.safetensors: cannot be read \(.*; check the address and the credentials"
    ):
        ws.open(ADDRESS)
    assert waits.seconds < 300


@pytest.mark.parametrize("address", ["memory://faults/model.safetensors", ADDRESS])
def test_a_file_that_changes_between_header_and_tensor_is_noticed(
    address: str, asked: Callable[[str], None], store: int, raw: bytes, tensors: dict[str, Any]
) -> None:
    asked(f"http://127.0.0.1:{store}")
    system, path = fsspec.core.url_to_fs(address)
    system.pipe(path, raw)
    opened = ws.open(address)
    system.pipe(path, raw[:-4] + bytes(4))
    with pytest.raises(FormatError, match="has changed since it was looked at; open it again"):
        opened["b"]
    system.pipe(path, raw)
    assert torch.equal(ws.open(address)["b"], torch.from_numpy(tensors["b"]))
