"""Small models of every kind of tensor, in every kind of container, and what each method is given to merge them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from weightspace.analysis.merging import MergeMethod

StateDict = dict[str, Tensor]

SETTINGS: Mapping[str, Any] = {
    "weight": (0.7, 0.4, 0.25),
    "density": (0.6, 0.5, 0.55),
    "score": (0.5, -0.2, 0.1),
    "epsilon": (0.1, 0.2, 0.15),
    "gamma": (0.1, 0.05, 0.0),
    "t": 0.3,
    "lambda": 0.8,
    "select_topk": 0.7,
    "scale": (1.5,),
}
"""Values of parameters, for each of three inputs where there is one for each."""


def model(seed: int, like: StateDict | None = None, size: float = 1.0) -> StateDict:
    """A state dict of tensors of many shapes, a scalar, an empty one and integers among them; near another one where that is given."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "embed.weight": (12, 6),
        "layers.0.w": (8, 6),
        "layers.0.b": (8,),
        "layers.1.w": (8, 6),
        "layers.1.b": (8,),
        "conv.weight": (4, 3, 2, 2),
        "norm.weight": (6,),
        "temperature": (),
        "empty": (0, 3),
        "head.weight": (12, 6),
    }
    made = {name: torch.randn(shape, generator=draw) * size for name, shape in shapes.items()}
    if like is not None:
        made = {name: like[name].to(tensor) + tensor for name, tensor in made.items()}
    return {**made, "steps": torch.tensor([3, 4])}


def family(count: int) -> tuple[StateDict, list[StateDict]]:
    """A base and models that were tuned from it."""
    base = model(0)
    return base, [model(at + 1, base, 0.1) for at in range(count)]


def write(tensors: StateDict, place: Path, container: str = "safetensors") -> Path:
    """Save a state dict in some container; the path is that of a file or of a folder."""
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    if container == "sharded":
        place.mkdir()
        names, half = list(tensors), len(tensors) // 2
        parts = {"model-00001-of-00002.safetensors": names[half:], "model-00002-of-00002.safetensors": names[:half]}
        for file, held in parts.items():
            save_file({name: tensors[name] for name in held}, place / file)
        index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
        return place
    path = place.with_suffix({"safetensors": ".safetensors", "torch": ".pt", "numpy": ".npz"}[container])
    if container == "safetensors":
        save_file(tensors, path)
    elif container == "torch":
        torch.save(tensors, path)
    else:
        np.savez(path, allow_pickle=False, **{name: tensor.numpy() for name, tensor in tensors.items()})
    return path


def folder(tensors: StateDict, place: Path, config: Mapping[str, Any]) -> Path:
    """Save a model as the Hub has one."""
    place.mkdir(parents=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(config))
    return place


def decoder(layers: int, seed: int, width: int = 4, tied: bool = False) -> StateDict:
    """A language model's tensors, by the names that Llama's have; tied ones have no head."""
    draw = torch.Generator().manual_seed(seed)
    made = {"model.embed_tokens.weight": torch.randn(10, width, generator=draw)}
    for at in range(layers):
        made[f"model.layers.{at}.self_attn.q_proj.weight"] = torch.randn(width, width, generator=draw)
        made[f"model.layers.{at}.mlp.up_proj.weight"] = torch.randn(2 * width, width, generator=draw)
        made[f"model.layers.{at}.input_layernorm.weight"] = torch.randn(width, generator=draw)
    made["model.norm.weight"] = torch.randn(width, generator=draw)
    return made if tied else {**made, "lm_head.weight": torch.randn(10, width, generator=draw)}


def settings_of(method: MergeMethod, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Values of a method's parameters: for each input, and for the whole."""
    known = {name: one for name, one in method.parameters.items() if name in SETTINGS}
    each = [{name: SETTINGS[name][at] for name, one in known.items() if one.is_each and at < len(SETTINGS[name])} for at in range(count)]
    return each, {name: _one(SETTINGS[name]) for name, one in known.items() if not one.is_each}


def _one(value: Any) -> Any:
    return value[0] / 1000 if isinstance(value, tuple) else value


def count_of(method: MergeMethod) -> int:
    """How many inputs to give a method: three, or as many as it takes."""
    low, high = method.inputs
    return min(3, high) if high is not None else max(3, low)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are equal bit for bit, NaN included."""
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].contiguous().reshape(-1).view(torch.uint8).equal(other[name].contiguous().reshape(-1).view(torch.uint8))
        for name in one
    )
