"""The files beside weights that say what they are: config, adapter config, tokenizer; read as data, never executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightspace.errors import FormatError

MAX_CONFIG = 8 << 20
TOKENIZER_FILES = frozenset(
    {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"}
)  # fmt: skip
_ADAPTER_FIELDS = ("peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")


def describe(folder: Path) -> dict[str, Any]:
    """Read what the files of a model folder say of its weights.

    The keys are `config`, `generation_config`, `adapter_config` and `tokenizer` (names of its files), each where its file is
    there; an adapter's rank, scale, target modules and base model stand under `adapter` too.

    Raises:
        FormatError: a config that is no JSON object, repeats a key, or is larger than `MAX_CONFIG`.
    """
    made: dict[str, Any] = {}
    for key in ("config", "generation_config", "adapter_config"):
        path = folder / f"{key}.json"
        if path.is_file():
            made[key] = _json(path)
    if "adapter_config" in made:
        made["adapter"] = describe_adapter(made["adapter_config"])
    tokenizer = sorted(name for name in TOKENIZER_FILES if (folder / name).is_file())
    return made | ({"tokenizer": tokenizer} if tokenizer else {})


def describe_adapter(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rank, scale, target modules and base model of an adapter, as far as its configuration says them."""
    return {key: config[key] for key in _ADAPTER_FIELDS if config.get(key) is not None}


def _json(path: Path) -> dict[str, Any]:
    # Imported here: the formats package loads every format, and some of those import this module.
    from weightspace.formats.safetensors import parse_json

    if path.stat().st_size > MAX_CONFIG:
        raise FormatError(
            f"{path}: has {path.stat().st_size} bytes, expected a config of at most {MAX_CONFIG}",
            reason="hostile",
            advice="do not load this model",
        )
    return parse_json(path.read_bytes(), path)
