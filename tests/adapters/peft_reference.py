"""Adapters that the installed peft makes, and what it merges them to."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.checkpoint import Checkpoint


class Small(nn.Module):
    """A module of every kind that peft's LoRA updates."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 6)
        self.up = nn.Linear(6, 10)
        self.square = nn.Linear(10, 10)
        self.norm = nn.LayerNorm(10)
        self.blocks = nn.ModuleList([nn.Linear(10, 10, bias=False) for _ in range(2)])
        self.conv = nn.Conv2d(3, 5, 3)
        self.point = nn.Conv2d(5, 4, 1)
        self.line = nn.Conv1d(3, 4, 3)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(10, 3)


@dataclass(frozen=True)
class Trained:
    """A base, an adapter with random values saved by peft, and the state dict that peft merges them to."""

    base: Checkpoint
    folder: Path
    merged: dict[str, Tensor]
    wrapped: Any

    @property
    def adapter(self) -> Checkpoint:
        return ws.open(self.folder)


def trained(module: nn.Module, folder: Path, *, seed: int = 0, dtype: torch.dtype | None = None, **config: Any) -> Trained:
    """Wrap a module with peft, give everything that would be trained random values, save, and merge a copy."""
    from peft import LoraConfig, PeftModel, get_peft_model

    base = Checkpoint.of(module.state_dict(), metadata=described(module))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of ties, of flags it corrects, and of what it saves beside
        wrapped = get_peft_model(copy.deepcopy(module), LoraConfig(**config))
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)
        if dtype is not None:
            for name, parameter in wrapped.named_parameters():
                if "lora_" in name:
                    parameter.data = parameter.data.to(dtype)
        wrapped.save_pretrained(folder)
        merged = PeftModel.from_pretrained(copy.deepcopy(module), folder).merge_and_unload()
    return Trained(base, folder, {name: tensor.detach() for name, tensor in merged.state_dict().items()}, wrapped)


def described(module: nn.Module) -> dict[str, Any]:
    """A module's config as a folder's metadata has it."""
    config = getattr(module, "config", None)
    return {} if config is None else {"config": {**config.to_dict(), "architectures": [type(module).__name__]}}


def farthest(found: Checkpoint, expected: dict[str, Tensor]) -> float:
    """The largest relative distance between tensors of two models, which must have the same names."""
    assert set(found) == set(expected)
    distances = []
    for name, tensor in expected.items():
        reference = tensor.double()
        distances.append(float((found[name].double() - reference).norm() / (reference.norm() + 1e-30)))
    return max(distances)


def decoder(family: str, *, tied: bool) -> Any:
    """A tiny language model of transformers, always with the same weights."""
    import transformers

    torch.manual_seed(0)
    if family == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 8, "bos_token_id": 1, "eos_token_id": 2}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=40, tie_word_embeddings=tied, **sizes)).eval()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=40, tie_word_embeddings=tied, **sizes)).eval()


def logits(model: Any) -> Tensor:
    """What a language model says to a fixed batch."""
    tokens = torch.arange(12).reshape(2, 6) * 3
    with torch.no_grad():
        found: Tensor = model.eval()(tokens).logits
    return found
