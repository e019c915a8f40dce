"""Pickles that are no torch file are named for what they are and never loaded."""

import pickle
import subprocess
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from weightspace.errors import FormatError
from weightspace.formats import open_checkpoint, sniff


def refused(path: Path, message: str, reason: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.reason == reason and str(path) in str(caught.value)


@pytest.mark.parametrize("packing", ["zlib", "gzip", "bz2", "xz", "lzma", None])
def test_joblib_files_need_code(tmp_path: Path, packing: str | None) -> None:
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    joblib.dump(model, tmp_path / "m.joblib", compress=(packing, 3) if packing else 0)
    refused(
        tmp_path / "m.joblib",
        "a pickle( packed by \\w+)? that needs code to load .*LogisticRegression.*save the weights as safetensors",
        "needs-code",
    )


class Runs:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.canary)],)


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickles_run_nothing(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([Runs(tmp_path / "canary")], protocol))
    refused(tmp_path / "a.pkl", r"a pickle that would run code: (subprocess|commands)\.call; do not load it", "needs-code")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": [1, 2]}, protocol))
    refused(tmp_path / "a.pkl", "a pickle of plain Python data without tensors", "unsupported")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"a": np.ones(3)}, protocol))
    refused(tmp_path / "b.pkl", "a pickle of numpy arrays; save the arrays with numpy.savez instead", "unsupported")


def test_an_unpacking_bomb_is_not_unpacked(tmp_path: Path) -> None:
    joblib.dump(b"\0" * (1 << 25), tmp_path / "bomb", compress=("zlib", 9))
    refused(tmp_path / "bomb", "a pickle packed by zlib", "unsupported")


def test_other_packed_files_are_not_pickles(real_checkpoints: Path) -> None:
    assert sniff(real_checkpoints / "mnist" / "t10k-images-idx3-ubyte.gz") is None
    refused(real_checkpoints / "mtcnn" / "mtcnn_pnet.lz4", "a pickle packed by lz4 that needs code to load", "needs-code")
