"""What tensor names alone say of a checkpoint: the wrapper they were saved through, and whether they are low-rank updates."""

import re
from collections.abc import Iterable
from dataclasses import replace

from weightspace.checkpoint import Checkpoint

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")

# The two factors of a low-rank update, as the libraries name them: loralib and PEFT, kohya, diffusers, cloneofsimo, LyCORIS.
_PAIRS = (
    (re.compile(r"^(.*?)\.?lora_(?:embedding_)?A(?=\.|$)"), re.compile(r"^(.*?)\.?lora_(?:embedding_)?B(?=\.|$)")),
    (re.compile(r"^(.*?)\.?lora_down(?=\.|$)"), re.compile(r"^(.*?)\.?lora_up(?=\.|$)")),
    (re.compile(r"^(.*?_lora|.*\.lora|.*\.lora_linear_layer)\.down(?=\.|$)"), re.compile(r"^(.*?_lora|.*\.lora|.*\.lora_linear_layer)\.up(?=\.|$)")),
    (re.compile(r"^((?:unet|text_encoder\w*):\d+):down$"), re.compile(r"^((?:unet|text_encoder\w*):\d+):up$")),
    (re.compile(r"^(.*?)\.hada_w1_a$"), re.compile(r"^(.*?)\.hada_w1_b$")),
    (re.compile(r"^(.*?)\.lokr_w1(?:_a)?$"), re.compile(r"^(.*?)\.lokr_w2(?:_a)?$")),
)  # fmt: skip
_HINTS = ("lora", ":down", ":up", "hada_", "lokr_")


def wrapper_prefix(names: Iterable[str]) -> str:
    """Find the prefix that DataParallel, torch.compile and the like put before every name; empty when there is none.

    Example:
        >>> wrapper_prefix(["module._orig_mod.fc.weight", "module._orig_mod.fc.bias"])
        'module._orig_mod.'
    """
    known = list(names)
    prefix = ""
    while known:
        found = next((one for one in WRAPPERS if known[0].startswith(one, len(prefix))), None)
        if found is None or not all(name.startswith(found, len(prefix)) for name in known):
            break
        prefix += found
    return prefix


def low_rank_pairs(names: Iterable[str]) -> list[str]:
    """List the modules whose update is stored as two low-rank factors.

    Example:
        >>> low_rank_pairs(["q.lora_A", "q.lora_B", "head.weight"])
        ['q']
    """
    hinted = [name for name in names if any(hint in name for hint in _HINTS)]
    found: dict[str, None] = {}
    for first, second in _PAIRS:
        ones = dict.fromkeys(match[1] for match in map(first.match, hinted) if match)
        others = {match[1] for match in map(second.match, hinted) if match}
        found.update(dict.fromkeys(module for module in ones if module in others))
    return list(found)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether names are those of low-rank updates alone: pairs without the full matrix that they update beside them."""
    known = list(names)
    pairs = low_rank_pairs(known)
    if not pairs:
        return False
    present = set(known)
    full = sum(f"{module}.weight" in present or f"{module}.base_layer.weight" in present for module in pairs)
    return 2 * full < len(pairs)


def recognised(checkpoint: Checkpoint) -> Checkpoint:
    """Mark an adapter as one, and put the wrapper prefix of the names into the metadata; names stay as they are."""
    changes: dict[str, object] = {}
    if checkpoint.kind == "full" and is_adapter(checkpoint.info):
        changes["kind"] = "adapter"
    prefix = wrapper_prefix(checkpoint.info)
    if prefix:
        changes["metadata"] = {**checkpoint.metadata, "wrapper_prefix": prefix}
    return replace(checkpoint, **changes) if changes else checkpoint  # type: ignore[arg-type]
