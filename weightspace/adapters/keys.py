"""How libraries name the factors of an update: which module a key belongs to, and what of it the key holds."""

import re
from dataclasses import dataclass

WRAPPER = "base_model.model."  # what PEFT puts before the names of the model it wraps

# In this order: the first that fits says whose key it is.
_STYLES = (
    # Adapter keys of PEFT, with or without the adapter's name, and of loralib, which has no `.weight`.
    ("peft", re.compile(r"(?:(?P<module>.+)\.)?(?P<role>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.(?P<adapter>[^.]+))??(?P<last>\.weight|\.bias)?")),
    ("numbered", re.compile(r"(?P<component>unet|text_encoder\w*):(?P<module>\d+):(?P<role>down|up)")),
    ("flat", re.compile(r"(?P<component>lora_(?:unet|te\d?|prior_unet|prior_te|transformer))_(?P<module>[^.]+)\.(?P<role>lora_down|lora_up|alpha)(?P<last>\.weight)?")),
    ("dotted", re.compile(r"(?P<module>.+)\.processor\.(?P<leaf>to_\w+?)_lora\.(?P<role>down|up)\.weight")),
    ("dotted", re.compile(r"(?P<module>.+)\.(?:lora|lora_linear_layer)\.(?P<role>down|up)\.weight")),
    ("dotted", re.compile(r"(?P<module>.+)\.(?P<role>lora_down|lora_up|alpha)(?P<last>\.weight)?")),
)  # fmt: skip
_ROLES = {
    "lora_A": "a",
    "lora_embedding_A": "a",
    "lora_down": "a",
    "down": "a",
    "lora_B": "b",
    "lora_embedding_B": "b",
    "lora_up": "b",
    "up": "b",
}
_COMPONENT = re.compile(r"(unet|text_encoder(?:_\d)?)\.(.+)")
# Words of other kinds of update: a tensor that has one is none that replaces the base's.
_FOREIGN = re.compile(
    r"lora_|hada_|lokr_|ia3_|vera_|oft_|boft_|hra_|randlora_|shira_|dora_scale|trainable_tokens|prompt_embeddings|adaption_|\.diff(_b)?$"
)


@dataclass(frozen=True)
class Key:
    """What one tensor of an adapter file is.

    Attributes:
        style: `peft` (and loralib), `dotted` (diffusers), `flat` (kohya: underscores for dots) or `numbered` (cloneofsimo).
        component: the part of a pipeline, where names say it.
        module: the module that is updated, as far as the style names it.
        role: `a`, `b`, `bias`, `alpha` or `magnitude`.
        is_embedding: whether the factors are those of an embedding.
        adapter: the adapter's own name, where a training left it in.
    """

    style: str
    component: str
    module: str
    role: str
    is_embedding: bool = False
    adapter: str = ""


def key_of(name: str) -> Key | None:
    """Read one tensor name; None where it is no part of a low-rank update.

    Example:
        >>> key = key_of("base_model.model.layers.0.q_proj.lora_A.weight")
        >>> key.module, key.role, key.style
        ('layers.0.q_proj', 'a', 'peft')
    """
    for style, pattern in _STYLES:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        found = match.groupdict()
        role = _ROLES.get(found["role"], "magnitude" if "magnitude" in found["role"] else found["role"])
        if found.get("last") == ".bias":
            role = "bias"
        leaf = found.get("leaf")
        module = (found["module"] or "") + ("" if leaf is None else ".to_out.0" if leaf == "to_out" else f".{leaf}")
        component = (found.get("component") or "").removeprefix("lora_")
        if style in ("peft", "dotted") and (inner := _COMPONENT.fullmatch(module)):
            component, module = inner[1], inner[2]
        return Key(style, component, without_wrappers(module), role, "embedding" in found["role"], found.get("adapter") or "")
    return None


def without_wrappers(name: str) -> str:
    """A name as the base model has it: without what PEFT puts around a model and its modules.

    Example:
        >>> without_wrappers("base_model.model.classifier.modules_to_save.default.weight")
        'classifier.weight'
    """
    bare = name.removeprefix(WRAPPER)
    bare = re.sub(r"\.modules_to_save(\.default)?(?=\.)", "", bare)
    return re.sub(r"(^|\.)base_layer(?=\.|$)", "", bare).removeprefix(".")


def is_foreign(name: str) -> bool:
    """Whether a name that `key_of` does not know belongs to another kind of update."""
    return bool(_FOREIGN.search(name))


def is_token(name: str) -> bool:
    """Whether a tensor is the vector of a learned token, which belongs to no tensor of a base."""
    return name.startswith(("<", "bundle_emb."))
