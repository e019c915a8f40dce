"""Keras HDF5 against h5py: layouts, encodings, optimizer state, the .keras archive, and files that h5py would choke on."""

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

import weightspace as ws
from weightspace.containers import isolated
from weightspace.errors import FormatError, MissingDependencyError

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(6, 4)).astype(np.float32)


def keras_file(path: Path, **more: Any) -> Path:
    """Lay a file out as Keras 3 does."""
    with h5py.File(path, "w", **more) as file:
        file.attrs["keras_version"], file.attrs["backend"] = "3.3.3", "torch"
        file["layers/dense/vars/0"] = KERNEL
        file["layers/dense/vars/1"] = np.zeros(4, np.float32)
        file["optimizer/vars/0"] = np.array(17)
        file["optimizer/vars/1"] = KERNEL
    return path


def expected(value: Any) -> bytes:
    array = np.asarray(value)
    return array.tobytes() if array.dtype.kind == "V" else array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_weights_are_read_and_optimizer_state_stands_apart(tmp_path: Path) -> None:
    found = ws.open(keras_file(tmp_path / "model.weights.h5"))
    assert list(found) == ["layers/dense/vars/0", "layers/dense/vars/1"] and found.num_params == 28
    assert list(found.extras) == ["optimizer/vars/0", "optimizer/vars/1"]
    np.testing.assert_array_equal(found["layers/dense/vars/0"].numpy(), KERNEL)
    assert found.metadata == {"keras_version": "3.3.3", "backend": "torch"}


def test_every_layout_and_encoding_gives_the_numbers_that_h5py_gives(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["contiguous"] = KERNEL
        file["big"] = RANDOM.normal(size=5).astype(">f4")
        file.create_dataset("gzip", data=RANDOM.normal(size=(100, 30)), compression="gzip", chunks=(7, 5), shuffle=True)
        file.create_dataset("lzf", data=RANDOM.normal(size=(30, 10)).astype(np.float16), compression="lzf")
        file.create_dataset("chunked", data=np.arange(1000).reshape(10, 100), chunks=(3, 30))
        file.create_dataset("unwritten", (10, 10), "f4", chunks=(5, 5), fillvalue=2.5)
        file["scalar"], file["flags"], file["empty"] = 3.5, np.array([True, False]), np.zeros((0, 3), np.float32)
        file["complex"] = np.array([1 + 2j], np.complex64)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        low = h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((3,)), compact)
        low.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1.0, 2.0, 3.0]))
        file.create_dataset("half", data=np.array([1.5, -2], ml_dtypes.bfloat16)).attrs["dtype"] = "bfloat16"
        odd = h5py.h5t.IEEE_F32LE.copy()
        odd.set_fields(31, 23, 8, 10, 13)
        odd.set_precision(32)
        odd.set_ebias(100)
        strange = h5py.h5d.create(file.id, b"strange", odd, h5py.h5s.create_simple((2,)))
        strange.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1.0, -0.5], np.float32))
        file["words"], file["record"] = "hello", np.zeros(2, [("a", "f4")])
    found = ws.open(path)
    with h5py.File(path) as file:
        names = sorted(set(file) - {"words", "record"})
        assert sorted(found) == names
        for name in names:
            assert bytes(found.raw(name)) == expected(file[name][()]), name
    assert found.info["half"].dtype == "BF16" and found["half"].tolist() == [1.5, -2.0]
    assert found.info["flags"].dtype == "BOOL" and found.metadata["skipped"] == ["record", "words"]


def test_one_child_decodes_many_small_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        for number in range(20):
            file.create_dataset(f"{number:02d}", data=np.full((8, 8), number, np.float32), compression="gzip")
    runs: list[str] = []
    plain = isolated.run

    def counted(target: str, *arguments: Any, **options: Any) -> bytearray:
        runs.append(target)
        return plain(target, *arguments, **options)

    monkeypatch.setattr(isolated, "run", counted)
    found = ws.open(path)
    assert [tensor[0, 0].item() for tensor in found.state_dict().values()] == list(range(20))
    assert len(runs) == 2 and found["07"][0, 0] == 7


def test_a_dataset_under_two_names_is_tied_and_a_group_inside_itself_ends(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file["a/w"] = KERNEL
        file["b"] = file["a/w"]
        file["a/loop"] = file["a"]
    found = ws.open(path)
    assert set(found) == {"a/w", "b"} and found.num_params == KERNEL.size
    assert {one.alias_of for one in found.info.values()} > {None}


def with_link(kind: Any) -> Any:
    def make(file: h5py.File) -> None:
        file["w"] = KERNEL
        file["link"] = kind

    return make


def outside(file: h5py.File) -> None:
    file.create_dataset("w", (2,), "f8", external=[("/etc/hostname", 0, 16)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "w", (2,))
    file.create_virtual_dataset("w", layout)


def vast(file: h5py.File) -> None:
    file.create_dataset("w", (1 << 40,), "f8", chunks=(1024,))


@pytest.mark.parametrize(
    ("make", "reason", "says"),
    [
        (with_link(h5py.SoftLink("/w")), "unsupported", "'link' is a soft link"),
        (with_link(h5py.ExternalLink("/etc/passwd", "/w")), "unsupported", "'link' is an external link"),
        (outside, "unsupported", "dataset 'w' keeps its numbers in other files"),
        (virtual, "unsupported", "dataset 'w' keeps its numbers in other files"),
        (vast, "hostile", r"claims 8796093022208 bytes from 0 stored ones"),
    ],
)
def test_what_leads_out_of_the_file_is_refused_in_one_line(tmp_path: Path, make: Any, reason: str, says: str) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(FormatError, match=says) as caught:
        ws.open(path)
    assert caught.value.reason == reason and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_keras_archive_holds_the_same_weights(tmp_path: Path, compression: int) -> None:
    inner = keras_file(tmp_path / "inner.h5")
    with h5py.File(inner, "a") as file:
        file.create_dataset("layers/more/vars/0", data=np.ones((50, 50)), compression="gzip")
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.3.3", "date_saved": "today"}))
        archive.writestr("config.json", json.dumps({"class_name": "Sequential"}))
        archive.write(inner, "model.weights.h5")
    found = ws.open(path)
    assert found.format == "keras" and found.id == ws.open(inner).id
    assert found.metadata["date_saved"] == "today" and json.loads(found.metadata["model_config"]) == {"class_name": "Sequential"}


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = keras_file(tmp_path / "w.h5").read_bytes()
    for length in (600, len(whole) - 1):
        (tmp_path / "t.h5").write_bytes(whole[:length])
        with pytest.raises(FormatError) as caught:
            ws.open(tmp_path / "t.h5")
        assert "t.h5" in str(caught.value) and "\n" not in str(caught.value)


def mutate(tmp_path: Path, steps: int) -> int:
    whole, random, path, refused = keras_file(tmp_path / "w.h5").read_bytes(), np.random.default_rng(3), tmp_path / "m.h5", 0
    for _ in range(steps):
        broken = bytearray(whole)
        for at in random.integers(8, len(whole), 20):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken)
        try:
            assert ws.open(path).id
        except FormatError as error:
            refused += 1
            assert "\n" not in str(error)
    return refused


def test_mutated_files_give_a_checkpoint_or_one_clear_error(tmp_path: Path) -> None:
    mutate(tmp_path, 4)


@pytest.mark.slow
def test_many_mutated_files_give_a_checkpoint_or_one_clear_error(tmp_path: Path) -> None:
    assert mutate(tmp_path, 300) > 30


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keras_file(tmp_path / "w.h5")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'h5py', which is not installed; pip install 'weightspace\[keras\]'"):
        ws.open(path)


def test_a_long_model_config_is_cut(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "w.h5")
    with h5py.File(path, "a", libver="latest") as file:
        file.attrs["model_config"] = "x" * 200_000
    assert len(ws.open(path).metadata["model_config"]) == (1 << 16) + 1


def test_real_files_agree_with_h5py(real_checkpoints: Path) -> None:
    paths = sorted(real_checkpoints.rglob("*.hdf5"))
    assert len(paths) == 3
    for path in paths:
        found = ws.open(path)
        assert found.num_params == 462_717 and found.metadata["keras_version"] == "2.1.5"
        with h5py.File(path) as file:
            for name in found:
                assert bytes(found.raw(name)) == expected(file[name][()]), name
