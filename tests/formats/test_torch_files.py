"""Torch files of both kinds against torch.load: every dtype, view and nesting, and refusals in one line."""

import argparse
import json
import pickle
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weightspace.checkpoint import Checkpoint
from weightspace.containers import torch_tree
from weightspace.errors import FormatError
from weightspace.formats import open_checkpoint, safetensors

Save = Callable[[Any], Path]
DTYPES = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 complex64 complex128 "
    "int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"
).split()


@pytest.fixture(params=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Save with torch, in its zip format or the one before 1.6."""

    def write(value: Any, protocol: int = 2) -> Path:
        path = tmp_path / "file.pt"
        torch.save(value, path, _use_new_zipfile_serialization=request.param == "zip", pickle_protocol=protocol)
        return path

    return write


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def agrees(checkpoint: Checkpoint, state_dict: Mapping[str, torch.Tensor]) -> None:
    assert list(checkpoint) == list(state_dict)
    for name, tensor in state_dict.items():
        assert checkpoint[name].dtype == tensor.dtype and checkpoint[name].shape == tensor.shape
        assert bytes(checkpoint.raw(name)) == raw(tensor), name


def refused(path: Path, message: str, reason: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        open_checkpoint(path)
    assert caught.value.reason == reason
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def example() -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2), "count": torch.tensor(7)}


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes(save: Save, name: str) -> None:
    tensor = torch.arange(48, dtype=torch.uint8).remainder(2).view(getattr(torch, name)).reshape(3, -1)
    checkpoint = open_checkpoint(save({"w": tensor}))
    agrees(checkpoint, {"w": tensor})
    assert checkpoint.id == Checkpoint.of({"w": tensor}).id


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(save: Any, protocol: int) -> None:
    agrees(open_checkpoint(save(example(), protocol)), example())


def test_the_same_weights_have_one_id(save: Save, tmp_path: Path) -> None:
    other = safetensors.save(example(), tmp_path / "other.safetensors")
    assert open_checkpoint(save(example())).id == open_checkpoint(other).id
    changed = example()
    changed["fc.bias"][0] = 1.0000001
    assert open_checkpoint(save(changed)).id != open_checkpoint(other).id


def test_views_empties_and_scalars(save: Save) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "t": base.t(),
        "slice": base[1:3, 2:5],
        "row": base[2],
        "every": base[::2, ::3],
        "empty": base[:0],
        "scalar": base[1, 1],
        "none": torch.empty(0, 3),
    }
    agrees(open_checkpoint(save(views)), views)
    assert not any(one.alias_of for one in open_checkpoint(save(views)).info.values())


def test_ties_are_aliases_and_equal_copies_are_not(save: Save) -> None:
    weight = torch.ones(3, 3)
    checkpoint = open_checkpoint(save({"a": weight, "b": weight, "c": weight.clone(), "d": weight[:2], "e": weight.t()}))
    assert {name: one.alias_of for name, one in checkpoint.info.items()} == {"a": None, "b": "a", "c": None, "d": None, "e": None}
    assert checkpoint.num_params == 9 + 9 + 6 + 9


def test_parameters_buffers_and_subclasses(save: Save) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    with_state = torch.nn.Parameter(torch.ones(3))
    with_state.note = "kept by torch"  # type: ignore[attr-defined]
    buffer = torch.nn.Buffer(torch.ones(4))
    values = {"p": parameter, "s": with_state, "b": buffer, "n": np.arange(5, dtype=np.float32)}
    agrees(open_checkpoint(save(values)), {"p": parameter, "s": with_state, "b": buffer, "n": torch.arange(5.0)})


NESTINGS: list[tuple[Any, str, list[str]]] = [
    ({"state_dict": "S", "epoch": 3}, "state_dict", []),
    ({"model": "S", "model_ema": "E"}, "model", ["model_ema"]),
    ({"params_ema": "S", "params": "E"}, "params_ema", ["params"]),
    ({"generator": "S", "discriminator": "E"}, "generator", ["discriminator"]),
    ({"ema": "E", "state_dict": "S"}, "state_dict", ["ema"]),
    ({"model": {"state_dict": "S"}, "other": {"x.y": "T"}}, "model.state_dict", ["other"]),
    ({"my_net": "S", "epoch": 3}, "my_net", []),
    (["S", {"lr": 1}], "0", []),
]


@pytest.mark.parametrize(("shape", "key", "others"), NESTINGS)
def test_nested_state_dicts_are_found(save: Save, shape: Any, key: str, others: list[str]) -> None:
    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner) for inner in value]
        return {"S": example(), "E": {"e.weight": torch.zeros(2)}, "T": torch.zeros(3)}.get(value, value)

    checkpoint = open_checkpoint(save(fill(shape)))
    agrees(checkpoint, example())
    assert checkpoint.metadata["state_dict_key"] == key
    assert checkpoint.metadata.get("other_state_dicts", []) == others
    assert checkpoint.id == Checkpoint.of(example()).id


def test_dictionaries_of_plain_tensors_are_flattened(save: Save) -> None:
    checkpoint = open_checkpoint(save({"enc": {"0": {"w": torch.ones(2)}}, "dec": {"w": torch.zeros(3)}, "layers": [torch.ones(1)]}))
    assert list(checkpoint) == ["enc.0.w", "dec.w", "layers.0"]
    assert "state_dict_key" not in checkpoint.metadata
    assert list(open_checkpoint(save(torch.ones(2)))) == ["tensor"]
    assert list(open_checkpoint(save([torch.ones(2), torch.ones(3)]))) == ["0", "1"]


def test_two_tensors_under_one_name_are_refused(save: Save) -> None:
    refused(save({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}), "two tensors are named 'a.b'", "corrupt")


def test_training_state_is_kept_apart(save: Save) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.25)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "epoch": 3,
        "best_acc": torch.tensor(0.5),
        "loss": float("nan"),
        "rng_state": torch.get_rng_state(),
        "args": argparse.Namespace(depth=20, out=Path("runs/a"), scale=np.float64(0.5)),
        "history": list(range(1000)),
        "note": "x" * 5000,
    }
    checkpoint = open_checkpoint(save(saved))
    agrees(checkpoint, model.state_dict())
    assert "optimizer_state_dict.state.0.exp_avg" in checkpoint.extras and "rng_state" in checkpoint.extras
    assert checkpoint.extras["optimizer_state_dict.state.0.exp_avg"].shape == (2, 3)
    said = checkpoint.metadata
    assert (said["epoch"], said["best_acc"], said["loss"]) == (3, 0.5, "nan")
    assert said["args"] == {"depth": 20, "out": "runs/a", "scale": 0.5}
    assert said["optimizer_state_dict"]["param_groups"][0]["lr"] == 0.25
    assert len(said["history"]) == 101 and said["history"][-1] == "… 900 more" and len(said["note"]) == 1000
    assert len(json.dumps(said, allow_nan=False)) < 10_000


def test_optimizer_state_alone_is_a_trainer_checkpoint(save: Save) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], momentum=0.9)
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    checkpoint = open_checkpoint(save(optimizer.state_dict()))
    assert checkpoint.kind == "trainer" and list(checkpoint) == ["state.0.momentum_buffer"]
    assert open_checkpoint(save({"optimizer": optimizer.state_dict(), "epoch": 1})).kind == "trainer"
    assert open_checkpoint(save({"python": (3, (1, 2)), "cpu": torch.get_rng_state()})).kind == "trainer"


def test_numbers_beside_a_state_dict_are_metadata(save: Save) -> None:
    checkpoint = open_checkpoint(save({"model": {"weight": torch.ones(2)}, "best_acc": torch.tensor(0.5)}))
    assert list(checkpoint) == ["weight"] and checkpoint.metadata["best_acc"] == 0.5
    assert list(open_checkpoint(save({"weight": torch.ones(2), "scale": torch.tensor(0.5)}))) == ["weight", "scale"]


def test_prefixes_and_adapters_are_recognised(save: Save) -> None:
    wrapped = open_checkpoint(save({"state_dict": {"module.fc.weight": torch.ones(1)}}))
    assert list(wrapped) == ["module.fc.weight"] and wrapped.metadata["wrapper_prefix"] == "module."
    assert wrapped.kind == "full"
    assert open_checkpoint(save({"q.lora_A": torch.ones(1, 2), "q.lora_B": torch.ones(2, 1)})).kind == "adapter"


class Callback:
    """A class that only this test knows."""

    def __init__(self) -> None:
        self.best = 0.75


def test_foreign_objects_beside_the_state_dict_are_named_and_not_made(save: Save) -> None:
    checkpoint = open_checkpoint(save({"state_dict": example(), "callback": Callback()}))
    agrees(checkpoint, example())
    assert checkpoint.metadata["foreign_globals"] == [f"{__name__}.Callback"]
    assert checkpoint.metadata["callback"] == {"class": f"{__name__}.Callback", "best": 0.75}


def test_foreign_objects_among_the_weights_are_refused(save: Save) -> None:
    message = "holds under 'x' a whole pickled object of class .*Callback, which needs its code to load; where it was made, save"
    refused(save({"state_dict": {**example(), "x": Callback()}}), message, "needs-code")


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_modules_are_refused(save: Save) -> None:
    refused(save(torch.nn.Linear(2, 2)), r"a whole pickled object of class torch.nn.modules.linear.Linear.*state_dict\(\)", "needs-code")
    refused(save({"model": torch.nn.Linear(2, 2), "epoch": 1}), "holds under 'model' a whole pickled object", "needs-code")


def test_files_without_tensors_are_refused(save: Save) -> None:
    refused(save({"epoch": 3, "lr": [0.1]}), "it holds no tensors; name a file of weights", "unsupported")


def test_quantized_tensors_give_their_codes(save: Save) -> None:
    with warnings.catch_warnings(action="ignore"):  # torch calls quantized dtypes deprecated
        one = torch.quantize_per_tensor(torch.tensor([0.0, 0.5, 1.0]), 0.5, 3, torch.quint8)
        many = torch.quantize_per_channel(torch.ones(2, 2), torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 0, torch.qint8)
    checkpoint = open_checkpoint(save({"one": one, "many": many}))
    assert torch.equal(checkpoint["one"], one.int_repr()) and torch.equal(checkpoint["many"], many.int_repr())
    said = checkpoint.metadata["quantized"]
    assert said["one"] == {"scheme": "per_tensor_affine", "scale": 0.5, "zero_point": 3}
    assert said["many"]["scheme"] == "per_channel_affine" and said["many"]["axis"] == 0


def test_tensors_without_dense_bytes_are_refused(save: Save) -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (3,), check_invariants=True)
    refused(save({"w": sparse}), r"tensor 'w' is sparse, expected a dense one; save tensor.to_dense\(\)", "unsupported")
    refused(save({"w": torch.ones(2, device="meta")}), "tensor 'w' is on the meta device and has no values", "unsupported")
    refused(save({"w": torch.ones(2, dtype=torch.complex64).conj()}), "tensor 'w' is saved as the lazy conjugate", "unsupported")
    checkpoint = open_checkpoint(save({"state_dict": example(), "other": {"s": sparse}}))
    agrees(checkpoint, example())


def test_expanded_views_are_bombs(save: Save) -> None:
    refused(save({"w": torch.ones(1).expand(1 << 38)}), "claims 1099511627776 bytes from 4 stored ones by repeating them", "hostile")


class Runs:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.canary)],)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_hostile_pickles_run_nothing(save: Any, protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for value in ({"state_dict": example(), "x": Runs(canary)}, {"w": Runs(canary), **example()}, Runs(canary)):
        refused(save(value, protocol), "its pickle would run code: (subprocess|commands).call; do not load it", "needs-code")
    assert not canary.exists()


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    torch.save(example(), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    refused(tmp_path / "b.pt", "its tensors are in big-endian order, expected little", "unsupported")


def test_a_repacked_compressed_file_reads_the_same(tmp_path: Path) -> None:
    torch.save(example(), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))
    agrees(open_checkpoint(tmp_path / "b.pt"), example())


def test_storages_must_have_the_size_that_the_pickle_claims(tmp_path: Path) -> None:
    torch.save(example(), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:-4] if name.endswith("data/0") else old.read(name))
    refused(
        tmp_path / "b.pt", "tensor 'fc.weight' cannot be read: storage '0' claims 6 elements of F32, its member has 20 bytes", "truncated"
    )
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "c.pt", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/0"):
                new.writestr(name, old.read(name))
    refused(tmp_path / "c.pt", "its archive has no member 'a/data/0'", "missing")


def test_truncated_files(save: Save) -> None:
    path = save(example())
    whole = path.read_bytes()
    for size in (len(whole) - 5, len(whole) // 2, 200):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError) as caught:
            open_checkpoint(path)
        assert caught.value.reason == "truncated", (size, caught.value)


def test_endless_repetition_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tree, "MAX_NODES", 10_000)
    torch.save({"t": torch.ones(1)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):  # a list of two references to a list of two references to ... one tensor
                data = data[: data.index(b"cXtorch") if b"cXtorch" in data else -2]
                _, tensor = data.split(b"X\x01\x00\x00\x00t", 1)
                tensor = re.sub(rb"^q.", b"", tensor.removesuffix(b"s"), flags=re.DOTALL)
                data = (
                    b"\x80\x02"
                    + tensor
                    + b"".join(b"r\x00\x01\x00%c0(j\x00\x01\x00%cj\x00\x01\x00%cl" % (n, n, n) for n in range(60))
                    + b"."
                )
            new.writestr(name, data)
    refused(tmp_path / "b.pt", "its pickle repeats itself without end", "hostile")


def test_opening_does_not_import_torch(tmp_path: Path) -> None:
    torch.save(example(), tmp_path / "a.pt")
    program = (
        "import sys\nfrom weightspace.formats import open_checkpoint\n"
        f"print(open_checkpoint({str(tmp_path / 'a.pt')!r}).id, 'torch' in sys.modules, 'h5py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["False", "False"]


def test_mutated_files_fail_in_one_line(save: Save, tmp_path: Path) -> None:
    path = save({"state_dict": example(), "epoch": 3})
    whole = path.read_bytes()
    drawn = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(whole)
        for at in drawn.integers(0, len(whole), drawn.integers(1, 5)):
            changed[at] = drawn.integers(256)
        path.write_bytes(changed[: drawn.integers(len(whole) // 2, len(whole) + 1)] if drawn.random() < 0.2 else changed)
        try:
            checkpoint = open_checkpoint(path)
            for name in checkpoint:
                checkpoint.raw(name)
        except FormatError as error:
            assert "\n" not in str(error) and str(path) in str(error)


REAL = {
    "akamaster/resnet56_cifar10.th": None,
    "distiller/resnet20_dense.pth.tar": 274_042,
    "drfrankenstein/resnet20_cifar10_seed0.pt": 274_042,
    "drfrankenstein/tiny10_cifar10_seed00.pt": 87_418,
    "outlier-exposure/baseline_epoch_9.pt": 21_840,
    "microsoft-lora/roberta_base_lora_mnli.bin": 887_811,
    "rwkv8/251105_reverse_L2.pth": 39_564,
    "mtcnn/facenet_pnet.pt": 6_632,
    "inr_orbit/orbit_000.pth": 1_185,
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_have_the_parameters_that_their_manifest_states(real_checkpoints: Path, name: str) -> None:
    checkpoint = open_checkpoint(real_checkpoints / name)
    assert REAL[name] in (None, checkpoint.num_params)
    assert checkpoint.kind == ("adapter" if "lora" in name else "full")


def test_every_real_torch_file_agrees_with_torch_load(real_checkpoints: Path) -> None:
    paths = [path for path in sorted(real_checkpoints.rglob("*")) if path.suffix in (".pt", ".pth", ".th", ".bin", ".tar")]
    alike = [path for path in paths if path.parent.name == "inr_orbit"]
    assert len(alike) == 256 and len(paths) - len(alike) > 20
    for path in [*(path for path in paths if path not in alike), *alike[::32]]:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        agrees(open_checkpoint(path), loaded.get("state_dict", loaded))


def test_plain_pickles_have_no_torch_in_them(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": [1]}))
    refused(tmp_path / "a.pt", "a pickle of plain Python data without tensors", "unsupported")
