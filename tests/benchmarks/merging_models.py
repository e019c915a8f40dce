"""Models to merge, made by code: a base in Llama's format and fine-tuned-looking variants of it, the same bytes on every machine."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


@dataclass(frozen=True)
class Size:
    """How large a model is; the rest follows Llama's proportions."""

    hidden: int
    intermediate: int
    layers: int = 4
    vocabulary: int = 32_000
    head: int = 64

    @property
    def heads(self) -> int:
        """Query heads; there is one key and value head for every four."""
        return self.hidden // self.head

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model, in the order of its layers."""
        narrow = self.hidden // 4
        layer = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }
        return {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            **{f"model.layers.{index}.{name}.weight": shape for index in range(self.layers) for name, shape in layer.items()},
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": (self.vocabulary, self.hidden),
        }


SIZES = {
    "parity": Size(256, 704, vocabulary=3000, head=16),  # 5 M parameters
    "small": Size(1024, 2816),  # 110.6 M parameters
    "large": Size(2560, 7040),  # 445.5 M parameters, four times as many
}

TUNED = {"code": (), "chat": (), "math": (), "roles": tuple(f"<|role_{index}|>" for index in range(8))}
"""The variants of the base, each with the tokens that it knows beyond the base's."""


def make(folder: Path, size: Size, names: Iterable[str] = ("base", *TUNED), dtype: torch.dtype = torch.bfloat16) -> None:
    """Write models as folders side by side: two shards with an index, config and tokenizer.

    Args:
        folder: where they go; what is already there is left alone.
        size: of all of them.
        names: `base` and variants of it.
        dtype: of all tensors.
    """
    for name in names:
        if not (folder / name / "config.json").exists():
            _make_one(folder / name, size, TUNED.get(name, ()), dtype)


def _make_one(folder: Path, size: Size, added: tuple[str, ...], dtype: torch.dtype) -> None:
    folder.mkdir(parents=True)
    shapes = list(size.shapes().items())
    half, total = len(shapes) // 2, 0
    weight_map: dict[str, str] = {}
    for shard, part in enumerate((shapes[:half], shapes[half:]), start=1):
        file = f"model-{shard:05d}-of-00002.safetensors"
        tensors = {
            name: _values(folder.name, shard * 1000 + index, name, shape, len(added)).to(dtype) for index, (name, shape) in enumerate(part)
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_tokenizer(folder, size.vocabulary, added)
    _write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _write(folder / "config.json", _config(size, len(added), dtype))  # last: a folder that has it is complete


def _values(model: str, index: int, name: str, shape: tuple[int, ...], added: int) -> torch.Tensor:
    """The base's values, and for a variant what fine-tuning would add: from 1% to 30% of them, in every third tensor with heavy tails."""
    torch.manual_seed(index)
    if len(shape) == 1:
        values, scale = 1 + 0.1 * torch.randn(shape), 0.1
    else:
        scale = 0.02 if "embed" in name else 1 / math.sqrt(shape[1])
        values = scale * torch.randn(shape)
    if model != "base":
        torch.manual_seed(10_000 * (1 + list(TUNED).index(model)) + index)
        change = torch.randn(shape)
        if index % 3 == 0:
            change *= torch.exp(0.8 * torch.randn(shape))
        values += change * scale * 0.01 * 30 ** torch.rand(()).item()
    if added and name in ("model.embed_tokens.weight", "lm_head.weight"):
        values = torch.cat([values, scale * torch.randn(added, shape[1])])
    return values


def _config(size: Size, added: int, dtype: torch.dtype) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": size.head,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": 2048,
        "model_type": "llama",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.heads // 4,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "vocab_size": size.vocabulary + added,
    }


def _write_tokenizer(folder: Path, size: int, added: tuple[str, ...]) -> None:
    """A byte-level tokenizer whose longer tokens stand for numbers; `added` come after them."""
    special = ["<unk>", "<s>", "</s>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    merges: list[tuple[str, str]] = []
    known = [str(digit) for digit in range(10)]
    for prefix in known:  # grows while it is walked: 00, 01, ... 99, 000, ...
        if len(vocabulary) >= size:
            break
        for digit in "0123456789"[: size - len(vocabulary)]:
            vocabulary[prefix + digit] = len(vocabulary)
            merges.append((prefix, digit))
            known.append(prefix + digit)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*special, *added)])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write(folder / "special_tokens_map.json", named)
    _write(folder / "tokenizer_config.json", {**named, "model_max_length": 2048, "tokenizer_class": "PreTrainedTokenizerFast"})


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
