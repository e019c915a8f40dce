"""Heads that are tied to embeddings by a config, where a file leaves them out."""

from collections.abc import Mapping
from typing import Any

from weightspace.checkpoint import Checkpoint

TIED = (
    ("lm_head.weight", "model.embed_tokens.weight"),
    ("lm_head.weight", "transformer.wte.weight"),
    ("lm_head.weight", "shared.weight"),
    ("lm_head.weight", "gpt_neox.embed_in.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight"),
)
"""Heads that configs tie to embeddings: files of tied models leave them out."""


def ties_embeddings(checkpoint: Checkpoint) -> bool:
    """Whether a model's config says that its head is its embedding."""
    config = checkpoint.metadata.get("config")
    return isinstance(config, Mapping) and bool(config.get("tie_word_embeddings", _config_default(config)))


def _config_default(config: Mapping[str, Any]) -> bool:
    """What transformers assumes where a config does not say."""
    return config.get("model_type") in ("gpt2", "gemma", "gemma2", "gemma3_text", "t5", "bloom", "opt")
