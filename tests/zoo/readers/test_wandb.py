import json
import random
import struct
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from weightspace.errors import RecordError
from weightspace.zoo.metrics import Metric
from weightspace.zoo.readers import read_runs
from weightspace.zoo.readers.wandb_log import BLOCK, fields, records
from weightspace.zoo.runs.run import Run

SECONDS = 1_767_225_600  # 2026-01-01
START = datetime(2026, 1, 1, tzinfo=UTC)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*parts: tuple[int, int | str | bytes]) -> bytes:
    out = b""
    for number, value in parts:
        raw = value.encode() if isinstance(value, str) else value
        out += varint(number << 3) + varint(raw) if isinstance(raw, int) else varint(number << 3 | 2) + varint(len(raw)) + raw
    return out


def items(number: int, values: dict[str, object], is_nested: bool = False) -> list[tuple[int, bytes]]:
    return [(number, message((2 if is_nested else 1, key), (16, json.dumps(value)))) for key, value in values.items()]


def checksum(data: bytes) -> int:
    plain = zlib.crc32(data)
    return (((plain >> 15) | (plain << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def log(payloads: list[bytes]) -> bytes:
    """The framing of wandb 0.31.0: a head of 7 bytes, then pieces that no block of 32 KiB splits."""
    out = bytearray(b":W&B\xe1\xbe\x00")
    for payload in payloads:
        rest, is_first = payload, True
        while is_first or rest:
            left = BLOCK - len(out) % BLOCK
            if left < 7:
                out += bytes(left)
                left = BLOCK
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if is_first else (4 if not rest else 3)
            out += struct.pack("<IHB", checksum(bytes([kind]) + piece), len(piece), kind) + piece
            is_first = False
    return bytes(out)


def history(step: int, **values: object) -> bytes:
    row = {**values, "_step": step, "_timestamp": SECONDS + step, "_runtime": 0.1}
    return message((2, message(*items(1, row, is_nested=True), (2, message((1, step)) if step else b""))))


def payloads() -> list[bytes]:
    config = message(*items(1, {"_wandb": {}, "lr": 0.001, "seed": 7, "opt": {"name": "adam"}, "output_dir": "/out/a"}))
    run = ((1, "8b2vc3o8"), (3, "digits"), (4, config), (8, "first"), (10, "blue"), (10, "new"), (17, message((1, SECONDS))))
    entry = message((1, "m.pt"), (2, "digest"), (4, 100), (6, "/staging/x"))
    return [
        message((1, 1), (21, message((1, message((1, "0.31.0")))))),
        message((1, 2), (17, message(*run))),
        message((26, message((6, "train.py"), (11, "/work")))),
        message((7, message((2, message((1, SECONDS))), *items(3, {"gpu.0.temp": 50.0})))),
        history(0, **{"val/loss": 1}),
        history(1, **{"val/loss": 0.5, "nested": {"a": 2}, "text": "x", "long": "y" * 70_000}),
        history(2, bad=float("nan"), inf=float("inf")),
        message((3, message(*items(1, {"val/loss": 0.5, "best": 0.25, "_runtime": 1})))),
        message((8, message((3, "model"), (4, "weights"), (12, message((4, entry)))))),
        message((8, message((3, "job"), (12, message((4, message((1, "code.py")))))))),
        message((18, b"")),
    ]


def offline(root: Path, content: bytes) -> Path:
    path = root / "wandb" / "offline-run-20260101_000000-8b2vc3o8" / "run-8b2vc3o8.wandb"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def check(run: Run) -> None:
    assert (run.key, run.name, run.source, run.seed, run.status) == ("wandb:digits/8b2vc3o8", "first", "wandb", 7, "finished")
    assert run.hyperparameters == {"lr": 0.001, "seed": 7, "output_dir": "/out/a", "opt.name": "adam"}
    assert run.tags == {"project": "digits", "tags": "blue, new", "program": "train.py", "root": "/work"}
    assert (run.started, run.ended) == (START, START + timedelta(seconds=2))
    assert run.metrics == (
        Metric("system.gpu.0.temp", 50.0, None, None, START),
        Metric("loss", 1.0, "val", 0, START),
        Metric("loss", 0.5, "val", 1, START + timedelta(seconds=1)),
        Metric("nested.a", 2.0, None, 1, START + timedelta(seconds=1)),
        Metric("best", 0.25),
    )
    assert run.artifacts == ("m.pt", "/staging/x")
    assert run.notes == ("2 values that are NaN or infinite were left out",)


def test_an_offline_run_is_read_from_any_folder_above(tmp_path: Path) -> None:
    path = offline(tmp_path, log(payloads()))
    (tmp_path / "wandb" / "latest-run").symlink_to(path.parent)
    for source in (path, path.parent, tmp_path / "wandb", tmp_path):
        (run,) = read_runs(source)
        check(run)


def test_files_beside_fill_gaps(tmp_path: Path) -> None:
    path = offline(tmp_path, log([payloads()[1], message((18, message((1, 1))))]))
    files = path.parent / "files"
    files.mkdir()
    (files / "config.yaml").write_text("wandb_version: 1\nlr: {desc: null, value: 9}\nextra: {desc: null, value: 3}\n")
    (files / "wandb-summary.json").write_text('{"test_accuracy": 0.9, "_step": 3}')
    (files / "wandb-metadata.json").write_text("{broken")
    (run,) = read_runs(tmp_path)
    assert run.status == "failed" and run.hyperparameters["lr"] == 0.001 and run.hyperparameters["extra"] == 3
    assert run.metrics == (Metric("accuracy", 0.9, "test"),)
    assert len(run.notes) == 1 and "wandb-metadata.json" in run.notes[0]


def test_records_may_span_blocks(tmp_path: Path) -> None:
    path = tmp_path / "run-x.wandb"
    sizes = [0, 1, BLOCK - 7 - 7 - 7 - 1, 3, BLOCK, 3 * BLOCK + 5, BLOCK - 20, 9]
    wanted = [bytes([at]) * size for at, size in enumerate(sizes)]
    path.write_bytes(log(wanted))
    assert list(records(path)) == wanted


def test_a_killed_run_is_read_up_to_its_last_whole_record(tmp_path: Path) -> None:
    whole = log(payloads())
    path = offline(tmp_path, whole[:-3])
    (run,) = read_runs(path)
    assert run.status is None and run.ended is None and len(run.metrics) == 5 and "no end" in run.notes[0]


@pytest.mark.parametrize("seed", range(20))
def test_damage_never_escapes(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    raw = bytearray(log(payloads()))
    for _ in range(chance.choice([1, 5])):
        raw[chance.randrange(7, len(raw))] ^= 1 << chance.randrange(8)
    path = offline(tmp_path, bytes(raw))
    (run,) = read_runs(path)
    assert any("damaged" in note or "no end" in note for note in run.notes)
    for payload in payloads():  # and past the checksums
        broken = bytearray(payload)
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        path.write_bytes(log([bytes(broken)]))
        (run,) = read_runs(path)
        assert all("\n" not in note for note in run.notes)


@pytest.mark.parametrize("raw", [b"\x0a\xff\xff\xff\xff\x7f", b"\xff" * 11, b"\x0b", b"\x09\x00", b"\x0a"])
def test_no_field_reaches_beyond_its_message(raw: bytes) -> None:
    with pytest.raises(RecordError):
        list(fields(raw))


def test_another_file_is_no_log(tmp_path: Path) -> None:
    path = offline(tmp_path, b"something else")
    with pytest.raises(RecordError, match="no tracker's records"):
        list(read_runs(path))
