"""The same weights in every container have one id, and no container's header needs a heavy import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import h5py
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

import weightspace as ws

RANDOM = np.random.default_rng(0)
WEIGHTS: dict[str, Any] = {
    "conv.weight": RANDOM.normal(size=(4, 3, 5)).astype(np.float32),
    "conv.bias": RANDOM.normal(size=4).astype(np.float32),
    "norm.running_var": np.asfortranarray(RANDOM.normal(size=(3, 4))),
    "half": RANDOM.normal(size=(2, 2)).astype(np.float16),
    "norm.num_batches_tracked": np.array([7], np.int64),
}


def containers(folder: Path) -> dict[str, Path]:
    """Write the weights into every container that can hold them."""
    made = {name: folder / name for name in ("w.pt", "legacy.pt", "w.safetensors", "w.npz", "packed.npz", "w.onnx", "w.h5", "w.gguf")}
    tensors = {name: torch.tensor(array) for name, array in WEIGHTS.items()}
    torch.save(tensors, made["w.pt"])
    torch.save(tensors, made["legacy.pt"], _use_new_zipfile_serialization=False)
    save_file({name: np.ascontiguousarray(array) for name, array in WEIGHTS.items()}, made["w.safetensors"])
    np.savez(made["w.npz"], **WEIGHTS)
    np.savez_compressed(made["packed.npz"], **dict(reversed(WEIGHTS.items())))
    graph = helper.make_graph([], "g", [], [], initializer=[numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()])
    onnx.save_model(helper.make_model(graph), str(made["w.onnx"]))
    with h5py.File(made["w.h5"], "w") as file:
        for name, array in WEIGHTS.items():
            file[name] = array
    writer = gguf.GGUFWriter(made["w.gguf"], "none")
    for name, array in WEIGHTS.items():
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made["shards"] = folder / "shards"
    made["shards"].mkdir()
    names = list(WEIGHTS)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, held in parts.items():
        save_file({name: np.ascontiguousarray(WEIGHTS[name]) for name in held}, made["shards"] / shard)
    weight_map = {name: shard for shard, held in parts.items() for name in held}
    (made["shards"] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return containers(tmp_path_factory.mktemp("containers"))


def test_one_id_in_every_container(made: dict[str, Path]) -> None:
    ids = {name: ws.open(path).id for name, path in made.items()}
    assert set(ids.values()) == {ws.Checkpoint.of({name: torch.tensor(array) for name, array in WEIGHTS.items()}).id}, ids


def test_one_changed_bit_changes_the_id(made: dict[str, Path], tmp_path: Path) -> None:
    same = ws.open(made["w.npz"]).id
    changed = {name: array.copy() for name, array in WEIGHTS.items()}
    changed["conv.bias"].view(np.uint32)[0] ^= 1
    np.savez(tmp_path / "changed.npz", **changed)
    assert ws.open(tmp_path / "changed.npz").id != same


def test_opening_and_hashing_imports_nothing_heavy(made: dict[str, Path]) -> None:
    """In a process of its own: this one has everything loaded."""
    paths = [str(path) for path in made.values()]
    code = (
        "import sys, weightspace as ws\n"
        f"ids = {{ws.open(path).id for path in {paths!r}}}\n"
        "print(len(ids), sorted({'torch', 'onnx', 'h5py', 'transformers', 'gguf', 'pandas'} & set(sys.modules)))"
    )
    root = str(Path(ws.__file__).resolve().parent.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1 []", "")
