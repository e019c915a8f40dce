"""The corpus: small real checkpoints of every registered format, made by the libraries that people make them with."""

import io
import json
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gguf
import h5py
import joblib
import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from safetensors.numpy import save_file
from torch.distributed.tensor import Replicate

import weightspace as ws
from tests.formats import (
    test_compact,
    test_deepspeed,
    test_distcp,
    test_fsdp_ranks,
    test_gguf,
    test_keras_h5,
    test_onnx,
    test_sharded,
    test_torchscript,
)
from tests.zoo.trees import arrays
from weightspace.checkpoint import Checkpoint
from weightspace.zoo.store.writing import Same, Stored

STATE = {name: torch.from_numpy(array) for name, array in arrays(0).items()} | {"half": torch.ones(3).bfloat16()}


@dataclass(frozen=True)
class Sample:
    """One checkpoint in memory.

    Attributes:
        opens: path, relative to the sample's folder, of what is opened; empty for the folder itself.
        files: the bytes of each file, by relative path; None for a folder in a file's place.
    """

    opens: str
    files: Mapping[str, bytes | None]

    def write(self, folder: Path) -> Path:
        """Write the files into a folder and say what to open."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if data is None else path.write_bytes(data)
        return folder / self.opens if self.opens else folder


Maker = Callable[[Path], Path]
makers: dict[str, list[Maker]] = {}


def maker(format: str) -> Callable[[Maker], Maker]:
    """Register a function that writes one checkpoint into an empty folder and returns what to open."""

    def register(make: Maker) -> Maker:
        makers.setdefault(format, []).append(make)
        return make

    return register


def samples(format: str, scratch: Path) -> list[Sample]:
    """Make all samples of a format."""
    made = []
    for number, make in enumerate(makers[format]):
        folder = scratch / f"{format}-{number}"
        folder.mkdir(parents=True)
        opens = make(folder).relative_to(folder).as_posix()
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        made.append(Sample("" if opens == "." else opens, files))
    return made


@maker("safetensors")
def _safetensors(folder: Path) -> Path:
    save_file(arrays(0), folder / "m.safetensors", metadata={"format": "np", "alias": "first.bias"})
    return folder / "m.safetensors"


@maker("torch")
def _torch(folder: Path) -> Path:
    torch.save(STATE, folder / "m.pt")
    return folder / "m.pt"


@maker("torch")
def _trainer(folder: Path) -> Path:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    sum(one.sum() for one in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "args": {"lr": 0.1}, "acc": np.float64(0.5)}
    torch.save(state, folder / "checkpoint.pth.tar")
    return folder / "checkpoint.pth.tar"


@maker("torch-legacy")
def _legacy(folder: Path) -> Path:
    torch.save(STATE, folder / "m.pth", _use_new_zipfile_serialization=False)
    return folder / "m.pth"


@maker("torch-legacy")
def _legacy_views(folder: Path) -> Path:
    whole = torch.arange(12.0)
    state = {"model": {"a": whole[2:8].view(2, 3).T, "b": whole, "c": torch.nn.Parameter(torch.ones(2, 2))}, "step": 1}
    torch.save(state, folder / "m.bin", _use_new_zipfile_serialization=False, pickle_protocol=4)
    return folder / "m.bin"


@maker("torchscript")
def _torchscript(folder: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(test_torchscript.Net().eval()).save(str(folder / "net.pt"))  # type: ignore[no-untyped-call]
    return folder / "net.pt"


@maker("distcp")
def _distcp(folder: Path) -> Path:
    return test_distcp.saved({"model": dict(STATE), "step": 7}, folder)


@maker("deepspeed")
def _stage2(folder: Path) -> Path:
    test_deepspeed.write_stage2(folder, 2)
    return folder


@maker("deepspeed")
def _stage3(folder: Path) -> Path:
    test_deepspeed.write_stage3(folder, 2)
    return folder


@maker("fsdp")
def _fsdp(folder: Path) -> Path:
    return test_fsdp_ranks.saved(folder, torch.arange(2))


@maker("fsdp")
def _fsdp_mesh(folder: Path) -> Path:
    return test_fsdp_ranks.saved(folder, torch.arange(4).reshape(2, 2), (Replicate(),))


@maker("compact")
def _compact(folder: Path) -> Path:
    """A model of a store beside the parent that it differs from: packed differences, raw bytes and a reference."""
    save_file(arrays(0), folder / "parent.safetensors")
    parent = ws.open(folder / "parent.safetensors")
    lies = folder / parent.id[:2] / f"{parent.id}.safetensors"
    lies.parent.mkdir()
    (folder / "parent.safetensors").rename(lies)
    parent = ws.open(lies)
    first, second, *others = parent.info
    changed = {name: torch.from_numpy(array + np.float32(1e-3)) for name, array in arrays(0).items()} | {first: parent[first]}
    tuned = Checkpoint.of(changed)
    kept: dict[str, Stored | Same] = {first: Same(parent.id, first), second: Stored(is_packed=False)}
    kept |= {name: Stored(True, (parent.id, name), parent.storages[name]) for name in others}
    with ThreadPoolExecutor(1) as pool:
        return test_compact.place(folder, tuned, kept, pool)


@maker("gguf")
def _gguf(folder: Path) -> Path:
    weights = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    q8, q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0
    tensors = {"w": weights, "q8": (gguf.quants.quantize(weights, q8), q8), "q4": (gguf.quants.quantize(weights, q4), q4)}
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_float32("eps", 0.5)
    for name, array in tensors.items():
        writer.add_tensor(name, array[0], raw_dtype=array[1]) if isinstance(array, tuple) else writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "m.gguf"


@maker("gguf")
def _gguf_split(folder: Path) -> Path:
    test_gguf.written(folder / "m.gguf", {f"t{number}": np.full((4, 8), number, np.float32) for number in range(4)}, split_max_tensors=2)
    return folder / "m-00001-of-00002.gguf"


@maker("npy")
def _npy(folder: Path) -> Path:
    np.save(folder / "m.npy", np.asfortranarray(np.arange(12.0).reshape(3, 4)))
    return folder / "m.npy"


@maker("npz")
def _npz(folder: Path) -> Path:
    np.savez(folder / "m.npz", words=np.array(["a", "bc"]), **arrays(0))  # type: ignore[arg-type]
    return folder / "m.npz"


@maker("npz")
def _packed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "m.npz", big=np.arange(5, dtype=">i4"), turned=np.asfortranarray(np.ones((3, 4))), **arrays(0))  # type: ignore[arg-type]
    return folder / "m.npz"


@maker("onnx")
def _onnx(folder: Path) -> Path:
    typed = helper.make_tensor("typed", 7, (4,), [1, 2, 3, 400])
    nodes = [helper.make_node("Constant", [], ["c"], value=test_onnx.tensor("inner")), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(nodes, "g", [], [], initializer=[test_onnx.tensor("raw"), typed])
    onnx.save_model(helper.make_model(graph), str(folder / "m.onnx"))
    return folder / "m.onnx"


@maker("onnx")
def _onnx_external(folder: Path) -> Path:
    graph = helper.make_graph([], "g", [], [], initializer=[numpy_helper.from_array(array, name) for name, array in arrays(0).items()])
    onnx.save_model(helper.make_model(graph), str(folder / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
    return folder / "m.onnx"


@maker("keras_h5")
def _keras_h5(folder: Path) -> Path:
    path = test_keras_h5.keras_file(folder / "m.weights.h5")
    with h5py.File(path, "a") as file:
        file.create_dataset("packed", data=np.arange(200.0).reshape(20, 10), compression="gzip", chunks=(7, 5), shuffle=True)
    return path


@maker("keras")
def _keras(folder: Path) -> Path:
    with tempfile.TemporaryDirectory() as beside, zipfile.ZipFile(folder / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.3.3"}))
        archive.writestr("config.json", json.dumps({"class_name": "Lambda", "config": {"function": ["4wAAAA==", None, None]}}))
        archive.write(test_keras_h5.keras_file(Path(beside) / "inner.h5"), "model.weights.h5")
    return folder / "m.keras"


@maker("sharded")
def _sharded(folder: Path) -> Path:
    test_sharded.sharded(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny", "auto_map": {"AutoModel": "evil.Model"}}))
    return folder


@maker("sharded")
def _sharded_torch(folder: Path) -> Path:
    torch.save({"a": torch.ones(2, 3)}, folder / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.ones(4)}, folder / "pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": weight_map}))
    return folder / "pytorch_model.bin.index.json"


@maker("model_folder")
def _model_folder(folder: Path) -> Path:
    torch.save(STATE, folder / "pytorch_model.bin")
    config = {"architectures": ["Tiny"], "auto_map": {"AutoModel": "modeling.Evil"}, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@maker("model_folder")
def _adapter(folder: Path) -> Path:
    weights = {f"base.layer.lora_{side}.weight": np.ones((2, 3), np.float32) for side in "AB"}
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "base_model_name_or_path": "a/b"}))
    return folder


@maker("pickle")
def _joblib(folder: Path) -> Path:
    joblib.dump({"weights": np.arange(5.0)}, folder / "m.joblib", compress=("zlib", 3))
    return folder / "m.joblib"


@maker("pickle")
def _plain_pickle(folder: Path) -> Path:
    stream = io.BytesIO()
    pickle.dump({"weights": np.arange(5.0), "names": ["a", {"b": (1, 2.5)}]}, stream, protocol=4)
    (folder / "m.pkl").write_bytes(stream.getvalue())
    return folder / "m.pkl"
