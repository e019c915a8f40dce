"""Tensors that share their values, and what becomes of them when an adapter updates one of them alone.

PEFT trains such an update beside the shared tensor, so the other names keep the base's values; its merge, which writes into the
shared tensor, does not keep that function.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import MergeError, one_line
from weightspace.tied_heads import ties_head

_HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared")
_DECODERS = ("ForCausalLM", "LMHeadModel")
_WITH_HEAD = (*_DECODERS, "ForMaskedLM", "ForConditionalGeneration", "ForPreTraining")


def is_hidden_head(module: str, base: Checkpoint) -> bool:
    """Whether a module is the output head that a base does not store, because its config ties it to the input embedding."""
    return _leaf(module) in _HEADS and f"{module}.weight" not in base.info and ties_head(base) and input_embedding(base) is not None


def input_embedding(base: Checkpoint) -> str | None:
    """The tensor that a hidden head is tied to: the only one with an input embedding's name."""
    found = [name for name in base.info if name.endswith(".weight") and _leaf(name.removesuffix(".weight")) in _EMBEDDINGS]
    return found[0] if len({base.info[name].alias_of or name for name in found}) == 1 else None


def owner_of(name: str, base: Checkpoint) -> str:
    """The first name of a base's storage; of a hidden head, that of the embedding to which it is tied."""
    if name not in base.info:
        name = (input_embedding(base) or name) if is_hidden_head(name.removesuffix(".weight"), base) else name
    return base.info[name].alias_of or name if name in base.info else name


def tied_with(name: str, model: Checkpoint) -> list[str]:
    """The other names of a tensor, with that of a head which the config ties to it and the file does not store."""
    owner = model.info[name].alias_of or name
    others = [one.name for one in model.info.values() if name != one.name and owner in (one.name, one.alias_of)]
    is_hidden = ties_head(model) and name == input_embedding(model) and not any(_is_head(other) for other in model.info)
    return [*others, _head_name(model)] if is_hidden and _architecture(model).endswith(_DECODERS) else others


def hidden_head_beside(base: Checkpoint, changed: Collection[str]) -> str | None:
    """The name of a head that is to be stored from now on, as its input embedding alone is changed; None where nothing is hidden.

    Raises:
        MergeError: there is one, and its name is not known.
    """
    embedding = input_embedding(base)
    architecture = _architecture(base)
    stored = any(_is_head(name) for name in (*base.info, *changed))
    if embedding not in changed or embedding is None or stored or not ties_head(base) or not architecture.endswith(_WITH_HEAD):
        return None
    if not architecture.endswith(_DECODERS):
        raise MergeError(
            f"the adapter updates '{one_line(embedding, 80)}', to which {one_line(architecture, 60)} ties an output head that its file does not store; "
            "save the base with tie_word_embeddings=false first"
        )
    return _head_name(base)


def untied(info: Mapping[str, TensorInfo], changed: Collection[str]) -> tuple[dict[str, TensorInfo], bool]:
    """Take changed tensors out of their ties, which the others keep among themselves; and whether there was any to take out of."""
    made, owners, broken = dict(info), dict[str, str](), False
    shared = {one.alias_of for one in info.values()} | {one.name for one in info.values() if one.alias_of}
    for name, one in info.items():
        if name in changed:
            broken = broken or name in shared
            made[name] = replace(one, alias_of=None)
        elif name in shared:
            owner = owners.setdefault(one.alias_of or name, name)
            made[name] = replace(one, alias_of=None if owner == name else owner)
    return made, broken


def saying_untied(base: Checkpoint) -> Mapping[str, Any]:
    """The base's metadata, its config no longer tying the head to the embedding."""
    if not ties_head(base):
        return base.metadata
    return {**base.metadata, "config": {**_config(base), "tie_word_embeddings": False}}


def _architecture(base: Checkpoint) -> str:
    """The class that a config names, or nothing."""
    return str((_config(base).get("architectures") or [""])[0])


def _head_name(base: Checkpoint) -> str:
    """What decoders call their head."""
    return "embed_out.weight" if "NeoX" in _architecture(base) else "lm_head.weight"


def _config(base: Checkpoint) -> Mapping[str, Any]:
    config = base.metadata.get("config")
    return config if isinstance(config, Mapping) else {}


def _is_head(name: str) -> bool:
    return _leaf(name.removesuffix(".weight")) in _HEADS


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]
