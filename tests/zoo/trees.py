"""A tree of checkpoints as people have them, for trials of a whole ingest: formats, runs, copies, large, broken and odd ones."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Arrays = dict[str, npt.NDArray[np.float32]]
SHARD = "model-{:05d}-of-00002.safetensors"


def arrays(seed: int, width: int = 5) -> Arrays:
    """A little network; its second layer is shared by every third seed, as fine-tunes share layers."""
    drawn, shared = np.random.default_rng(seed), np.random.default_rng(seed % 3)
    return {
        "first.weight": drawn.normal(size=(width, 4)).astype(np.float32),
        "first.bias": drawn.normal(size=width).astype(np.float32),
        "second.weight": shared.normal(size=(3, width)).astype(np.float32),
    }


def make_tree(root: Path, *, small: int = 60, large: int = 2, large_width: int = 200_000, first: int = 0) -> Path:
    """Write the tree; the same arguments give the same files, another `first` seed other weights in most of them."""
    writers = (_safetensors, _torch, _legacy, _npz, _sharded)
    for number in range(small):
        # Every seventh has the weights of the one before it, in another container.
        seed = number - 1 if number % 7 == 6 else number
        writers[number % len(writers)](root / f"group-{number % 4}" / f"net-{number:04d}", arrays(first + seed))
    for number in range(small // 4):
        folder = root / f"told/model-{number:03d}"
        _safetensors(folder / "model", arrays(first + 1000 + number))
        (folder / "metrics.json").write_text(json.dumps({"test": {"accuracy": number / 100, "loss": 1.0}}))
        (folder / "README.md").write_text(f"---\nlicense: {('mit', 'apache-2.0')[number % 2]}\nbase_model: some/base\n---\n")
    for step in range(1, small // 6 + 1):
        folder = root / f"run-{step % 2}/checkpoint-{10 * step}"
        _safetensors(folder / "model", arrays(first + 2000 + step))
        state = {"global_step": 10 * step, "log_history": [{"eval_loss": 1 / step, "step": 10 * step}]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    for number in range(large):
        _safetensors(root / f"group-1/net-00{number}5-large", arrays(first + 3000 + number, large_width))
    _broken(root / "broken")
    return root


def _safetensors(stem: Path, weights: Arrays) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, stem.with_suffix(".safetensors"))


def _torch(stem: Path, weights: Arrays) -> None:
    import torch  # here, because processes that only ingest do without

    stem.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(array) for name, array in weights.items()}, stem.with_suffix(".pt"))


def _legacy(stem: Path, weights: Arrays) -> None:
    import torch

    stem.parent.mkdir(parents=True, exist_ok=True)
    state_dict = {name: torch.from_numpy(array) for name, array in weights.items()}
    torch.save(state_dict, stem.with_suffix(".pth"), _use_new_zipfile_serialization=False)


def _npz(stem: Path, weights: Arrays) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    np.savez(stem.with_suffix(".npz"), **weights)  # type: ignore[arg-type]


def _sharded(stem: Path, weights: Arrays) -> None:
    stem.mkdir(parents=True)
    weight_map = {name: SHARD.format(1 + (name == "second.weight")) for name in weights}
    for shard in sorted(set(weight_map.values())):
        save_file({name: array for name, array in weights.items() if weight_map[name] == shard}, stem / shard)
    (stem / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def _broken(folder: Path) -> None:
    folder.mkdir()
    _safetensors(folder / "cut", arrays(1))
    (folder / "cut.safetensors").write_bytes((folder / "cut.safetensors").read_bytes()[:-3])
    (folder / "junk.pth").write_bytes(b"not a checkpoint at all")
    (folder / "absurd.safetensors").write_bytes((1 << 39).to_bytes(8, "little") + b"{}")
    _safetensors(folder / "nan", {"w": np.array([1, np.nan, np.inf], np.float32)})
    (folder / "notes.txt").write_text("no weights")


def make_contested(folder: Path) -> None:
    """Write copies whose neighbours say different things: what the catalog keeps must not depend on where a batch ended."""
    for name, licence, accuracy in (("a", None, 0.1), ("b", "mit", 0.2), ("c", "apache-2.0", 0.3)):
        _safetensors(folder / name / "model", arrays(5000))
        (folder / name / "metrics.json").write_text(json.dumps({"test": {"accuracy": accuracy}}))
        card = f"license: {licence}" if licence else "base_model: some/base"
        (folder / name / "README.md").write_text(f"---\n{card}\n---\n")
